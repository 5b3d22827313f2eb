"""Layers: normalization, convolution blocks, upsampling, dropout, initial weights."""
