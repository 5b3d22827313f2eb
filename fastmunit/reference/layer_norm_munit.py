"""MUNIT's layer norm in plain PyTorch."""

import torch
from torch import Tensor

from fastmunit.reference.scale_and_shift import scale_and_shift


def layer_norm_munit(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / (std + eps) * weight + bias, mean and unbiased std over all but the first dimension of each sample.

    Not group norm with one group: that has the biased variance, and eps inside the square root.

    Args:
        x: (N, C, ...), more than one value a sample, float16, bfloat16, float32 or float64.
        weight: Absent, (C,) or (N, C).
        bias: Absent, (C,) or (N, C).
        eps: Added to the standard deviation.

    Returns:
        The shape and dtype of x; the arithmetic is in float32 at least.
    """
    if x.numel() == 0:
        return scale_and_shift(x.clone(), weight, bias)
    wide = x if x.dtype == torch.float64 else x.float()
    per_sample = [-1] + [1] * (x.dim() - 1)

    def of_channels(parameter: Tensor) -> Tensor:
        return parameter.view([-1, x.shape[1]] + [1] * (x.dim() - 2))

    # One reshape for each statistic, and a flat one for a batch of one: gradients are then added up in the order of the
    # public code, which tests/systems/test_golden.py needs to the last bit.
    shape = [-1] if len(x) == 1 else [len(x), -1]
    mean = wide.reshape(shape).mean(-1).view(per_sample)
    std = wide.reshape(shape).std(-1).view(per_sample)
    y = (wide - mean) / (std + eps)
    if weight is not None:
        y = y * of_channels(weight)
    if bias is not None:
        y = y + of_channels(bias)
    return y.to(x.dtype)
