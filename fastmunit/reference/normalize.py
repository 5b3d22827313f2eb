"""Normalization with given statistics in plain PyTorch."""

import torch
from torch import Tensor

from fastmunit.reference.scale_and_shift import scale_and_shift


def normalize(
    x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Compute (x - mean) * rstd * weight + bias with statistics that are not those of x.

    Args:
        x: (N, C, ...) with any sizes, including 0, in float16, bfloat16, float32 or float64.
        mean: (N, C), or (N,) for one value per sample.
        rstd: Reciprocal standard deviation, in the shape of mean.
        weight: None, (C,) or (N, C).
        bias: None, (C,) or (N, C).

    Returns:
        A tensor with the shape and dtype of x, computed in float32 or float64.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    per_group = (..., *[None] * (x.dim() - mean.dim()))
    y = (x.to(wide) - mean.to(wide)[per_group]) * rstd.to(wide)[per_group]
    return scale_and_shift(y, weight, bias).to(x.dtype)
