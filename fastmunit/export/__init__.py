"""Export of one direction of a trained model to files that other runtimes execute, and translation with such files."""
