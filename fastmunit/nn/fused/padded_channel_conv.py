"""Convolutions from or to a few channels, with zeros up to a multiple of 8 channels.

A GPU's matrix units read low-precision channels in groups of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.nn.fused.iteration_cache import shared_image, shared_values, shared_weight
from fastmunit.nn.fused.weight_forms import WeightForm, product_dtype

GROUP = 8
"""Channels that a GPU's matrix units read together in float16 and bfloat16."""


def conv2d_padded_channels(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Return conv2d(x, weight, bias), computed with numbers of channels that are multiples of 8.

    Args:
        x: (N, C, H, W). An image that needs no gradient is padded once per iteration.
        weight: (O, C, k, k).
        bias: (O,) or None.
        stride: Stride of the convolution.
        padding: Zeros around x, on each side.
    """
    dtype = product_dtype(x)
    y = F.conv2d(_padded_map(x, dtype), _padded_kernel(weight, dtype), None, tuple(stride), tuple(padding))
    if y.shape[1] > weight.shape[0]:
        y = _FirstChannels.apply(y, weight.shape[0])
    return y if bias is None else y + bias.to(dtype)[:, None, None]


def _padded_map(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.shape[1] % GROUP == 0:
        return x.to(dtype)
    return shared_image(x, "padded channels", lambda: _PaddedMap.apply(x, dtype))


class _PaddedMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.channels, ctx.dtype = x.shape[1], x.dtype
        return _with_zeros(x, len(x), _rounded_up(x.shape[1]), dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy[:, : ctx.channels].to(ctx.dtype), None


class _FirstChannels(torch.autograd.Function):
    """A slice of the channels. The gradient of torch's is contiguous, whatever the map is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: int) -> Tensor:
        ctx.channels = x.shape[1]
        return x.detach()[:, :channels]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _with_zeros(dy, len(dy), ctx.channels, dy.dtype), None


def _padded_kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    o, c = (_rounded_up(size) for size in weight.shape[:2])
    low = shared_weight(weight)  # whose gradient is converted together with those of the other weights
    values = shared_values(weight, "padded channels", lambda: _with_zeros(low, o, c, dtype))
    kernel: Tensor = _PaddedKernel.apply(low, values)
    return kernel


class _PaddedKernel(WeightForm):
    @staticmethod
    def backward(ctx: Any, dvalues: Tensor) -> tuple[Tensor, None]:
        o, c = ctx.shape[:2]
        return dvalues[:o, :c].to(ctx.dtype), None


def _rounded_up(channels: int) -> int:
    return -(-channels // GROUP) * GROUP


def _with_zeros(x: Tensor, first: int, second: int, dtype: torch.dtype) -> Tensor:
    """Return x with zeros up to the sizes `first` and `second` of its first dimensions, in channels_last."""
    shape = (first, second, *x.shape[2:])
    padded = torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last).zero_()
    padded[: len(x), : x.shape[1]].copy_(x)
    return padded
