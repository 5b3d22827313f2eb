"""The memory layouts that kernels take."""

import torch
from torch import Tensor


def dense_format(x: Tensor) -> torch.memory_format:
    """The layout in which a kernel reads x (N, C, H, W) and writes maps of its shape.

    NCHW where x is contiguous, channels_last where it is dense in that order, and NCHW, after a copy, for any other
    strides.
    """
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """Return x itself where its layout is one that kernels take, else a contiguous copy."""
    return x.contiguous(memory_format=dense_format(x))
