"""What follows from statistics, in plain PyTorch: a weight and a bias of each channel."""

import torch
from torch import Tensor


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return x * weight + bias in the dtype of x, computed in float32 at least; x itself where both are absent.

    Args:
        x: (N, C, ...), of any sizes, also 0.
        weight: Absent, (C,) or (N, C).
        bias: Absent, (C,) or (N, C).
    """
    if weight is None and bias is None:
        return x
    of_channels = (..., *[None] * (x.dim() - 2))
    y = x if x.dtype == torch.float64 else x.float()
    if weight is not None:
        y = y * weight[of_channels]
    if bias is not None:
        y = y + bias[of_channels]
    return y.to(x.dtype)
