"""Weight and bias of each channel in plain PyTorch."""

import torch
from torch import Tensor


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return x * weight + bias in the dtype of x, computed in float32 or float64, or x itself if both are None.

    Args:
        x: (N, C, ...) with any sizes, including 0.
        weight: None, (C,) or (N, C).
        bias: None, (C,) or (N, C).
    """
    if weight is None and bias is None:
        return x
    per_channel = (..., *[None] * (x.dim() - 2))
    y = x if x.dtype == torch.float64 else x.float()
    if weight is not None:
        y = y * weight[per_channel]
    if bias is not None:
        y = y + bias[per_channel]
    return y.to(x.dtype)
