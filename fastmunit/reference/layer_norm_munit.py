"""MUNIT's layer norm in plain PyTorch."""

import math

import torch
from torch import Tensor

from fastmunit.reference.scale_and_shift import scale_and_shift


def layer_norm_munit(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Compute (x - mean) / (std + eps) * weight + bias with the mean and the unbiased std of each sample.

    Group norm with one group is different: it uses the biased variance, and eps inside the square root.

    Args:
        x: (N, C, ...) with more than one value per sample, in float16, bfloat16, float32 or float64.
        weight: None, (C,) or (N, C).
        bias: None, (C,) or (N, C).
        eps: Number added to the standard deviation.

    Returns:
        A tensor with the shape and dtype of x, computed in float32 or float64.
    """
    if x.numel() == 0:
        return scale_and_shift(x.clone(), weight, bias)
    wide = x if x.dtype == torch.float64 else x.float()

    def per_channel(parameter: Tensor) -> Tensor:
        return parameter.view([-1, x.shape[1]] + [1] * (x.dim() - 2))

    if torch.compiler.is_exporting():
        mean, std = _statistics_by_axis(wide)
    else:
        mean, std = _statistics(wide)
    y = (wide - mean) / (std + eps)
    if weight is not None:
        y = y * per_channel(weight)
    if bias is not None:
        y = y + per_channel(bias)
    return y.to(x.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased std of each sample, with the dimensions of x."""
    per_sample = [-1] + [1] * (x.dim() - 1)
    # Each statistic has its own reshape, which is flat for a batch of one. Gradients are then summed in the order of
    # the public code, which tests/systems/test_golden.py requires to the last bit.
    shape = [-1] if x.shape[0] == 1 else [x.shape[0], -1]
    mean = x.reshape(shape).mean(-1).view(per_sample)
    std = x.reshape(shape).std(-1).view(per_sample)
    return mean, std


def _statistics_by_axis(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what `_statistics` does, one axis at a time, for runtimes that add millions of values one by one."""

    def mean_of(values: Tensor) -> Tensor:
        for axis in range(x.dim() - 1, 0, -1):
            values = values.mean(axis, keepdim=True)
        return values

    mean = mean_of(x)
    count = math.prod(x.shape[1:])
    return mean, (mean_of((x - mean).square()) * (count / (count - 1))).sqrt()
