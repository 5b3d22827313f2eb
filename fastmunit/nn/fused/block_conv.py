"""Convolutions from or to a few channels with stride 1, computed in blocks of 2x2 pixels with stride 2.

A block has four times the channels, one for each of its pixels. On a CPU, whose vector registers a convolution to three
channels leaves mostly empty, this takes (1 + 1/k)² times the products and a third to half of the time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.nn.fused.iteration_cache import shared_values
from fastmunit.nn.fused.weight_forms import WeightForm, memory_format_of, product_dtype


def conv2d_few_out(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return conv2d(x, weight, bias) with stride 1, computed in blocks of 2x2 pixels.

    The gradient of x is a plain convolution of dy, from few channels to many.

    Args:
        x: (N, C, H + k - 1, W + k - 1), with even H and W.
        weight: (O, C, k, k).
        bias: (O,) or None.

    Returns:
        (N, O, H, W). Under autocast, the result has the dtype of products.
    """
    dtype = product_dtype(x)
    y: Tensor = _FewOutputs.apply(x.to(dtype), blocks_of(weight), None if bias is None else bias.to(dtype))
    return y


class _FewOutputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, blocks)
        biases = None if bias is None else bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, blocks, biases, stride=2), 2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, blocks = ctx.saved_tensors
        wants_x, wants_blocks, wants_bias = ctx.needs_input_grad
        dx, dblocks = None, None
        if wants_x:
            # oneDNN's own gradient for few output channels takes up to 40 times as long.
            k = blocks.shape[-1] - 1
            adjoint = blocks.unflatten(0, (-1, 2, 2))[:, 0, 0, :, :k, :k].flip(2, 3).transpose(0, 1)
            dx = F.conv2d(dy.contiguous(memory_format=memory_format_of(x)), adjoint, padding=k - 1)
        if wants_blocks:
            wants = [False, True, False]
            _, dblocks, _ = torch.ops.aten.convolution_backward(
                F.pixel_unshuffle(dy, 2), x, blocks, None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1, wants
            )
        return dx, dblocks, dy.sum((0, 2, 3)) if wants_bias else None


def conv2d_few_in(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return conv2d(x, weight, bias) with stride 1, whose backward computes the gradient of x in blocks of 2x2 pixels.

    Args:
        x: (N, C, H, W), with even H and W.
        weight: (O, C, k, k).
        bias: (O,) or None.
    """
    dtype = product_dtype(x)
    y: Tensor = _FewInputs.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
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
        dx, dweight, dbias = None, None, None
        if ctx.needs_input_grad[0]:
            blocks = blocks_of(weight.flip(2, 3).transpose(0, 1))
            dx = F.pixel_shuffle(F.conv2d(dy, blocks, stride=2, padding=weight.shape[-1] - 1), 2)
        if any(ctx.needs_input_grad[1:]):
            wants = [False, *ctx.needs_input_grad[1:]]
            _, dweight, dbias = torch.ops.aten.convolution_backward(
                dy, x, weight, ctx.bias_sizes, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wants
            )
        return dx, dweight, dbias


def blocks_of(weight: Tensor) -> Tensor:
    """Return the kernel (O, C, k, k) with one more tap, shifted by 0 or 1 along each axis: (4 O, C, k + 1, k + 1).

    Its channels are (O, 2, 2), as pixel_shuffle reads them. Under autocast, the result has the dtype of products.
    """
    dtype = product_dtype(weight)
    values = shared_values(weight, "blocks", lambda: _shifted(weight, dtype))
    blocks: Tensor = _Blocks.apply(weight, values)
    return blocks


def _shifted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    o, c, k, _ = weight.shape
    if torch.compiler.is_compiling():  # which fuses these ops, and refuses writes through as_strided
        padded = F.pad(weight, (1, 1, 1, 1))
        shifted = [padded[:, :, y : y + k + 1, x : x + k + 1] for y in (1, 0) for x in (1, 0)]
        return torch.stack(shifted, dim=1).to(dtype).flatten(0, 1)
    shape, last = (4 * o, c, k + 1, k + 1), memory_format_of(weight)
    blocks = torch.empty(shape, dtype=dtype, device=weight.device, memory_format=last).zero_()
    _taps(blocks).copy_(weight[:, None, None])
    return blocks


def _taps(blocks: Tensor) -> Tensor:
    """Return the taps of the weight in each block, as a view (O, 2, 2, C, k, k).

    Tap (i, j) of the weight is tap (i + down, j + right) of the block that is shifted by (down, right).
    """
    blocks = blocks.unflatten(0, (-1, 2, 2))
    o, _, _, c, k, _ = blocks.shape
    kernel, down, right, channel, row, column = blocks.stride()
    strides = (kernel, down + row, right + column, channel, row, column)
    return blocks.as_strided((o, 2, 2, c, k - 1, k - 1), strides)


class _Blocks(WeightForm):
    @staticmethod
    def backward(ctx: Any, dblocks: Tensor) -> tuple[Tensor, None]:
        if torch.compiler.is_compiling():  # whose gradients may have other strides than those that as_strided is given
            parts, k = dblocks.unflatten(0, (-1, 2, 2)), dblocks.shape[-1] - 1
            taps = [parts[:, y, x, :, y : y + k, x : x + k] for y in (0, 1) for x in (0, 1)]
            return torch.stack(taps).sum(0, dtype=ctx.dtype), None
        return _taps(dblocks).sum((1, 2), dtype=ctx.dtype), None
