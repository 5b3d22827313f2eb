"""The memory layouts that kernels accept."""

import torch
from torch import Tensor


def dense_format(x: Tensor) -> torch.memory_format:
    """Return the layout in which a kernel reads x (N, C, H, W) and writes maps of its shape.

    This is channels_last if x is dense in that order and not contiguous. It is NCHW otherwise; other strides are
    copied.
    """
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """Return x itself if kernels accept its layout, or else a contiguous copy."""
    return x.contiguous(memory_format=dense_format(x))
