"""Translation of images larger than memory: layer by layer over the whole image, one tile at a time."""
