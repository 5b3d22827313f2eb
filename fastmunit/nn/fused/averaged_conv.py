"""Convolutions whose results are averaged over 2x2 pixels, as one convolution with stride 2."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.nn.fused.iteration_cache import shared_values
from fastmunit.nn.fused.weight_forms import WeightForm, product_dtype


def convolve_and_average(conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return avg_pool2d(conv(x), 2) of a 3x3 convolution with padding 1 as one 4x4 convolution with stride 2.

    The mean over 2x2 results of a kernel is the result of the kernel's mean over the same four positions. This takes
    16 products per value instead of 36.
    """
    return F.conv2d(x, averaged(conv.weight), bias, stride=2, padding=1)


def averaged(weight: Tensor) -> Tensor:
    """Return the mean of the kernel (O, C, 3, 3) at 2x2 positions: (O, C, 4, 4).

    Under autocast, the result has the dtype of products.
    """
    dtype = product_dtype(weight)
    values = shared_values(weight, "averaged", lambda: _mean_of(weight, dtype))
    kernel: Tensor = _Averaged.apply(weight, values)
    return kernel


def _mean_of(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, stride=1).to(dtype)


class _Averaged(WeightForm):
    @staticmethod
    def backward(ctx: Any, dvalues: Tensor) -> tuple[Tensor, None]:
        k = ctx.shape[-1]
        windows = dvalues.unfold(2, k, 1).unfold(3, k, 1)  # (O, C, 2, 2, k, k): each tap is read at 2x2 positions
        return windows.mean((2, 3), dtype=ctx.dtype), None
