"""Conversion between our checkpoints and those of the public CycleGAN and pix2pix repository."""
