"""Derivatives of rearranged convolution kernels, and the dtype in which convolutions run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmunit.functional import autocast_dtype
from fastmunit.nn.fused.iteration_cache import shared_image


class WeightForm(torch.autograd.Function):
    """The derivative of another form of a weight, which has been computed before. Subclasses define `backward`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor) -> Tensor:
        """Return the values as a function of the weight."""
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        return values.detach()


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return channels_last if x is dense in it and not in NCHW, else contiguous_format."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype to which autocast, if it is active, converts x for a convolution."""
    dtype = autocast_dtype(x.device.type)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


def as_product(x: Tensor) -> Tensor:
    """Return x in its `product_dtype`. Autocast would convert an image for each convolution."""
    dtype = product_dtype(x)
    return x if x.dtype == dtype else shared_image(x, "cast", lambda: x.to(dtype))
