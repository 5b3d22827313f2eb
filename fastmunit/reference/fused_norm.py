"""Norm, activation, residual add and padding in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.reference.instance_norm import instance_norm
from fastmunit.reference.layer_norm_munit import layer_norm_munit
from fastmunit.reference.normalize import normalize
from fastmunit.reference.pad_map import pad_map
from fastmunit.reference.scale_and_shift import scale_and_shift


def fused_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: FusedNormOptions,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute pad(activation((x - mean) * rstd * weight + bias) + residual), op for op as the public MUNIT code does.

    Args:
        x: (N, C, H, W) in float16, bfloat16, float32 or float64; (N, 4 C, H/2, W/2) with `options.pixel_shuffle`.
        weight: None, (C,) or (N, C).
        bias: None, (C,) or (N, C).
        residual: None or (N, C, H, W).
        options: Statistics, activation, padding and the others.
        statistics: mean and rstd to use instead of those of x, (N, C) or (N,), or None.

    Returns:
        The padded map, and the map before padding, in the dtype of x. The second is a separate tensor.
    """
    if options.pixel_shuffle:
        x = _pixel_shuffle(x)
    if statistics is not None:
        y = normalize(x, *statistics, weight, bias)
    elif options.statistics == "instance":
        y = instance_norm(x, weight, bias, options.eps)
    elif options.statistics == "layer":
        y = layer_norm_munit(x, weight, bias, options.eps)
    else:
        y = scale_and_shift(x, weight, bias)
    if options.activation == "relu":
        y = F.relu(y)
    elif options.activation == "leaky_relu":
        y = F.leaky_relu(y, options.negative_slope)
    if residual is not None:
        y = y + residual
    return (pad_map(y, options.pad, options.pad_mode) if options.pad else y), y


def _pixel_shuffle(x: Tensor) -> Tensor:
    if x.numel() > 0:
        return F.pixel_shuffle(x, 2)
    n, c, h, w = x.shape
    return x.reshape(n, c // 4, 2 * h, 2 * w)  # torch has no backward for an empty pixel_shuffle
