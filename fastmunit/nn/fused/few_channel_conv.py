"""Convolutions to few channels, computed in 2x2 blocks of pixels: forward in decoders, backward in first layers.

A convolution to three channels leaves most of a processor's vector registers empty. This module computes it with stride
2 to four times the channels, one for each pixel of a 2x2 block. That takes (1 + 1/k)² times the products and a third to
half of the time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.functional import autocast_dtype

_MAX_CHANNELS = 4


def convolve(conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return `conv` of x with this bias or without one, computed in blocks of pixels if that is faster."""
    if has_few_outputs(conv, x):
        return conv2d_few_out(x, conv.weight, bias)
    if has_few_inputs(conv, x):
        return conv2d_few_in(x, conv.weight, bias)
    return conv._conv_forward(x, conv.weight, bias)


def has_few_outputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `conv2d_few_out` should compute `conv` of x."""
    return conv.out_channels <= _MAX_CHANNELS and _fits(conv, x, [n - k + 1 for n, k in _sizes(conv, x)])


def has_few_inputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `conv2d_few_in` should compute `conv` of x, because of the gradient of x."""
    return x.requires_grad and conv.in_channels <= _MAX_CHANNELS and _fits(conv, x, x.shape[-2:])


def conv2d_few_out(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """Return conv2d(x, weight, bias, padding=padding) with stride 1, computed in blocks of 2x2 pixels.

    Args:
        x: (N, C, H + k - 1 - 2 padding, W + k - 1 - 2 padding), with even H and W.
        weight: (O, C, k, k).
        bias: (O,) or None.
        padding: Number of zeros around x.

    Returns:
        (N, O, H, W).
    """
    # The kernel with one more tap, shifted by 0 or 1: channels (O, 2, 2), as pixel_shuffle reads them.
    shifted = [F.pad(weight, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
    blocks = torch.stack(shifted, dim=1).flatten(0, 1)
    biases = None if bias is None else bias.repeat_interleave(4)
    return F.pixel_shuffle(F.conv2d(x, blocks, biases, stride=2, padding=padding), 2)


def conv2d_few_in(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return conv2d(x, weight, bias) with stride 1, whose backward computes the gradient of x with `conv2d_few_out`.

    Args:
        x: (N, C, H, W), with even H and W.
        weight: (O, C, k, k).
        bias: (O,) or None.
    """
    dtype = autocast_dtype(x.device.type)
    if dtype is not None and x.dtype != torch.float64:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _FewInputs.apply(x, weight, bias)
    return y


class _FewInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else [len(bias)]
        return F.conv2d(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        adjoint = weight.flip(2, 3).transpose(0, 1)
        dx = conv2d_few_out(dy, adjoint, None, weight.shape[-1] - 1) if ctx.needs_input_grad[0] else None
        _, dweight, dbias = torch.ops.aten.convolution_backward(
            dy, x, weight, ctx.bias_sizes, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, *ctx.needs_input_grad[1:]]
        )
        return dx, dweight, dbias


def _sizes(conv: nn.Conv2d, x: Tensor) -> list[tuple[int, int]]:
    return list(zip(x.shape[-2:], conv.kernel_size, strict=True))


def _fits(conv: nn.Conv2d, x: Tensor, size: Any) -> bool:
    """Return True for stride 1, a large square kernel, and an even `size` of the map with few channels, on a CPU."""
    plain = (conv.stride, conv.dilation, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    square = conv.kernel_size[0] == conv.kernel_size[1] >= 5
    return plain and square and x.device.type == "cpu" and all(n > 0 and n % 2 == 0 for n in size)
