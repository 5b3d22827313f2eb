"""Convolutions whose weight gradients run on another stream than the gradients of the maps that they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmunit.functional.streams import weight_gradient_stream
from fastmunit.ops.autocast import autocast_dtype

# A matrix product is computed in tiles of about 128 x 128 values. With fewer tiles than a large GPU has
# multiprocessors, about 128, some of these are idle. A larger convolution fills the device alone: a second one at
# the same time would only keep memory in use for longer.
_MAX_VALUES = 128 * 128 * 128

Pair = Sequence[int]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair | str = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Return torch.nn.functional.conv2d of the arguments, with the same gradients to the last bit.

    If there is a `weight_gradient_stream`, and the result is too small to fill a GPU, backward computes the gradients
    of weight and bias there, and that of x on the stream of forward. Such a convolution can be differentiated once.

    Args:
        x: (N, C, H, W).
        weight: (O, C / groups, k, l).
        bias: (O,) or None.
        stride: Steps along H and W.
        padding: Zeros around x, on each side; or "same" or "valid".
        dilation: Distances between taps.
        groups: Number of groups of channels.
    """
    stream = weight_gradient_stream()
    if stream is None or isinstance(padding, str) or not _is_separable(x, weight, bias):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    call = _Call(stream, (stride, padding, dilation, groups), None if bias is None else [len(bias)])
    shape = call.shape_of_result(x, weight)
    if min(shape) < 0 or shape.numel() >= _MAX_VALUES:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    with torch.cuda.stream(stream):  # so that autograd runs backward there
        placeholder = _WeightGradient.apply(call, shape, weight, bias)
    y: Tensor = _Convolution.apply(call, placeholder, x, weight.detach(), None if bias is None else bias.detach())
    return y


def _is_separable(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return True if weight needs a gradient, and autocast converts nothing."""
    low = autocast_dtype(x.device.type)
    dtypes = {tensor.dtype for tensor in (x, weight, bias) if tensor is not None} | (
        {low} if low is not None else set()
    )
    return torch.is_grad_enabled() and weight.requires_grad and x.dim() == 4 and len(dtypes) == 1


class _Call:
    """The options of a convolution, which both halves of it share.

    Attributes:
        stream: Stream of the weight gradients.
        options: stride, padding, dilation and groups.
        bias_sizes: Shape of the bias, if there is one.
        operands: x and weight, which the backward of one half leaves for the other one.
    """

    def __init__(
        self, stream: torch.cuda.Stream, options: tuple[Pair, Pair, Pair, int], bias_sizes: list[int] | None
    ) -> None:
        self.stream, self.options, self.bias_sizes = stream, options, bias_sizes
        self.operands: tuple[Tensor, Tensor] | None = None

    def shape_of_result(self, x: Tensor, weight: Tensor) -> torch.Size:
        """Return (N, O, H', W')."""
        sizes = zip(x.shape[2:], weight.shape[2:], *self.options[:3], strict=True)
        return torch.Size(
            [len(x), len(weight), *((n + 2 * pad - step * (k - 1) - 1) // s + 1 for n, k, s, pad, step in sizes)]
        )

    def gradients(
        self, dy: Tensor, x: Tensor, weight: Tensor, wants: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return those gradients of x, weight and bias that `wants` names."""
        stride, padding, dilation, groups = self.options
        found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
            dy, x, weight, self.bias_sizes, stride, padding, dilation, False, (0, 0), groups, wants
        )
        return found


def _record(x: Tensor, stream: torch.cuda.Stream) -> None:
    """Keep the memory of x, which another stream may free now, from being reused before `stream` has read it."""
    x.record_stream(stream)


class _WeightGradient(torch.autograd.Function):
    """Weight and bias to a placeholder of the result without memory, whose gradient is that of the result."""

    @staticmethod
    def forward(ctx: Any, call: _Call, shape: torch.Size, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.call = call
        return weight.detach().as_strided(shape, (0,) * len(shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None) -> tuple[None, None, Tensor | None, Tensor | None]:
        operands, ctx.call.operands = ctx.call.operands, None
        if dy is None or operands is None:
            return None, None, None, None
        x, weight = operands
        _record(x, ctx.call.stream)
        ctx.dy = dy  # Autograd adds to a gradient in place if nobody else has it, here before this stream has read it.
        _, dweight, dbias = ctx.call.gradients(dy, x, weight, [False, *ctx.needs_input_grad[2:]])
        return None, None, dweight, dbias


class _Convolution(torch.autograd.Function):
    """The convolution. Its gradient of the placeholder is that of the result, which autograd brings to the stream."""

    @staticmethod
    def forward(ctx: Any, call: _Call, placeholder: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, *call.options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor, Tensor | None, None, None]:
        x, weight = ctx.call.operands = ctx.saved_tensors
        dx = ctx.call.gradients(dy, x, weight, [True, False, False])[0] if ctx.needs_input_grad[2] else None
        return None, dy, dx, None, None
