"""Convolutions to few channels, four pixels at a time: images, out of decoders and out of first layers backward.

A convolution to three channels leaves most of a processor's vector registers empty. Computed as one of stride 2 to four
times the channels, each of which is a pixel of a 2x2 block, it takes (1 + 1/k)² of the products and a half to a third
of the time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW = 4


def convolve(conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    """`conv` on x with this bias, or none: in blocks of pixels where that is faster."""
    if has_few_outputs(conv, x):
        return conv2d_to_few(x, conv.weight, bias)
    if has_few_inputs(conv, x):
        return conv2d_from_few(x, conv.weight, bias)
    return conv._conv_forward(x, conv.weight, bias)


def has_few_outputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `conv` on x is to be computed by `conv2d_to_few`."""
    return conv.out_channels <= _FEW and _fits(conv, x, [n - k + 1 for n, k in _sizes(conv, x)])


def has_few_inputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `conv` on x is to be computed by `conv2d_from_few`, whose gradient is that of x in blocks."""
    return x.requires_grad and conv.in_channels <= _FEW and _fits(conv, x, x.shape[-2:])


def conv2d_to_few(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """conv2d(x, weight, bias, padding=padding), stride 1, in blocks of 2x2 pixels.

    Args:
        x: (N, C, H + k - 1 - 2 padding, W + k - 1 - 2 padding), H and W even.
        weight: (O, C, k, k).
        bias: (O,) or absent.
        padding: zeros around x.

    Returns:
        (N, O, H, W).
    """
    # The kernel one tap larger, shifted by 0 or 1: channels (O, 2, 2), as pixel_shuffle reads them.
    shifted = [F.pad(weight, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
    blocks = torch.stack(shifted, dim=1).flatten(0, 1)
    biases = None if bias is None else bias.repeat_interleave(4)
    return F.pixel_shuffle(F.conv2d(x, blocks, biases, stride=2, padding=padding), 2)


def conv2d_from_few(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d(x, weight, bias), stride 1; backward computes the gradient of x by `conv2d_to_few`.

    Args:
        x: (N, C, H, W), H and W even.
        weight: (O, C, k, k).
        bias: (O,) or absent.
    """
    device_type = x.device.type
    if torch.is_autocast_enabled(device_type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _FromFew.apply(x, weight, bias)
    return y


class _FromFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else [len(bias)]
        return F.conv2d(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        adjoint = weight.flip(2, 3).transpose(0, 1)
        dx = conv2d_to_few(dy, adjoint, None, weight.shape[-1] - 1) if ctx.needs_input_grad[0] else None
        _, dweight, dbias = torch.ops.aten.convolution_backward(
            dy, x, weight, ctx.bias_sizes, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, *ctx.needs_input_grad[1:]]
        )
        return dx, dweight, dbias


def _sizes(conv: nn.Conv2d, x: Tensor) -> list[tuple[int, int]]:
    return list(zip(x.shape[-2:], conv.kernel_size, strict=True))


def _fits(conv: nn.Conv2d, x: Tensor, size: Any) -> bool:
    """Stride 1, a large square kernel, an even `size` of the few channels' map, on a processor."""
    plain = (conv.stride, conv.dilation, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    square = conv.kernel_size[0] == conv.kernel_size[1] >= 5
    return plain and square and x.device.type == "cpu" and all(n > 0 and n % 2 == 0 for n in size)
