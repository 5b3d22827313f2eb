"""Translation of images and image files with trained models: inputs, styles, outputs."""
