"""Normalisation, activation, residual and pad in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

from fastmunit.reference.instance_norm import instance_norm
from fastmunit.reference.layer_norm_munit import layer_norm_munit
from fastmunit.reference.scale_and_shift import scale_and_shift

_PAD_MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}


def fused_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: str,
    activation: str = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: str = "reflect",
    eps: float = 1e-5,
    pixel_shuffle: bool = False,
) -> tuple[Tensor, Tensor]:
    """pad(activation((x - mean) * rstd * weight + bias) + residual), op for op as the public MUNIT code writes it.

    Args:
        x: (N, C, H, W), or (N, 4 C, H/2, W/2) with pixel_shuffle; float16, bfloat16, float32 or float64.
        weight: Absent, (C,) or (N, C).
        bias: Absent, (C,) or (N, C).
        statistics: "instance", "layer" (MUNIT's) or "none".
        activation: "none", "relu" or "leaky_relu".
        negative_slope: Of the leaky relu.
        residual: (N, C, H, W) or absent.
        pad: Pixels on each side.
        pad_mode: "reflect", "replicate" or "zero".
        eps: Added to the variance (instance) or to the standard deviation (layer).
        pixel_shuffle: Whether x is to be pixel-shuffled first.

    Returns:
        The padded map, and the map before the pad, in the dtype of x. The second is a tensor of its own.
    """
    if pixel_shuffle:
        x = _pixel_shuffle(x)
    if statistics == "instance":
        y = instance_norm(x, weight, bias, eps)
    elif statistics == "layer":
        y = layer_norm_munit(x, weight, bias, eps)
    else:
        y = scale_and_shift(x, weight, bias)
    if activation == "relu":
        y = F.relu(y)
    elif activation == "leaky_relu":
        y = F.leaky_relu(y, negative_slope)
    if residual is not None:
        y = y + residual
    return (_pad(y, pad, pad_mode) if pad else y), y


def _pixel_shuffle(x: Tensor) -> Tensor:
    if x.numel() > 0:
        return F.pixel_shuffle(x, 2)
    n, c, h, w = x.shape
    return x.reshape(n, c // 4, 2 * h, 2 * w)  # torch has no backward for it


def _pad(y: Tensor, pad: int, pad_mode: str) -> Tensor:
    if y.numel() > 0:
        return F.pad(y, (pad,) * 4, mode=_PAD_MODES[pad_mode])
    n, c, h, w = y.shape
    return y.reshape(n, c, h + 2 * pad, w + 2 * pad)  # torch pads no map without channels
