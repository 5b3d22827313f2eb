"""The measures, one file per measure. Every module in this folder is imported and registers its measures."""
