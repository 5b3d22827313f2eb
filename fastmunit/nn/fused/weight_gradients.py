"""The gradients of low-precision copies of weights, converted by one op per pass and added by one op per network.

The gradients of all copies that a network has read in one pass are written to one flat buffer in the dtype of the
weights. Autograd adds the buffers of several passes, one sum per network, and the gradients of the weights are views of
the result. The gradients of weights that are read in their own dtype, such as biases that `fused_norm` adds, need no
conversion: those of several passes are added by one op per network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ALIGNMENT = 16  # values, so that every gradient begins at a multiple of 64 bytes


class Layout(NamedTuple):
    """Places of tensors in a flat buffer."""

    offsets: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    strides: tuple[tuple[int, ...], ...]
    size: int

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the tensors as views of a flat buffer."""
        return [
            flat.as_strided(shape, stride, flat.storage_offset() + offset)
            for shape, stride, offset in zip(self.shapes, self.strides, self.offsets, strict=True)
        ]


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    """Return places for tensors of the same shapes and memory formats, one after another."""
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        end += -(-tensor.numel() // _ALIGNMENT) * _ALIGNMENT
    strides = tuple(torch.empty_like(tensor, device="meta").stride() for tensor in tensors)  # dense ones
    return Layout(tuple(offsets), tuple(tensor.shape for tensor in tensors), strides, end)


class _Gradients:
    """The gradients that the passes of one backward have computed.

    Attributes:
        filled: Indices of those that are in the flat buffer. The others are None, as they are without a buffer: an
            optimizer skips such weights.
        uncast: Sums of those of the weights that are read in their own dtype, by index.
    """

    def __init__(self) -> None:
        self.filled: set[int] = set()
        self.uncast: dict[int, Tensor] = {}

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of one pass to the sums in `uncast`."""
        new = {index: gradient for index, gradient in enumerate(gradients) if gradient is not None}
        both = [index for index in new if index in self.uncast]
        if both:
            sums = torch._foreach_add([self.uncast[index] for index in both], [new[index] for index in both])
            new |= zip(both, sums, strict=True)
        self.uncast |= new


class Buffer:
    """The flat buffer of a network's gradients, and the gradients that are not in it.

    Attributes:
        layout: Places of the gradients.
        left_out: Places of the weights that get gradients of zeros, in a buffer of their own.
        gradients: The gradients of each backward, by its number: one that raises an error leaves them behind.
    """

    def __init__(self, layout: Layout, left_out: Layout) -> None:
        self.layout, self.left_out = layout, left_out
        self.gradients: defaultdict[int, _Gradients] = defaultdict(_Gradients)


class Root(torch.autograd.Function):
    """Weights to a placeholder, whose gradient is the flat buffer with the gradients of all weights."""

    @staticmethod
    def forward(ctx: Any, buffer: Buffer, *weights: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.buffer, ctx.weights = buffer, len(weights)
        return weights[0].new_empty(()).expand(buffer.layout.size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, flat: Tensor | None) -> tuple[Tensor | None, ...]:
        layout, left_out = ctx.buffer.layout, ctx.buffer.left_out
        gradients = ctx.buffer.gradients.pop(_backward_number(), None)
        if flat is None or gradients is None:
            return (None,) * (1 + ctx.weights)
        views = layout.views(flat.contiguous())
        cast = [view if index in gradients.filled else None for index, view in enumerate(views)]
        zeros = left_out.views(flat.new_zeros(left_out.size)) if left_out.size else []
        uncast = map(gradients.uncast.get, range(ctx.weights - len(cast) - len(zeros)))
        return None, *cast, *zeros, *uncast


class Pass(torch.autograd.Function):
    """Copies of weights, and weights in their own dtype, as the layers read them in one pass through a network."""

    @staticmethod
    def forward(ctx: Any, buffer: Buffer, placeholder: Tensor, *copies: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.buffer = buffer
        ctx.options = {"dtype": placeholder.dtype, "device": placeholder.device}
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.buffer.layout
        # Anomaly detection would report what stands in the gaps.
        flat = (torch.zeros if torch.is_anomaly_enabled() else torch.empty)(layout.size, **ctx.options)
        views = layout.views(flat)
        found = ctx.buffer.gradients[_backward_number()]
        found.add(gradients[len(views) :])
        pairs = list(zip(views, gradients, strict=False))
        found.filled |= {index for index, (_, gradient) in enumerate(pairs) if gradient is not None}
        unused = [view for view, gradient in pairs if gradient is None]
        if unused:
            torch._foreach_zero_(unused)
        used = [(view, gradient) for view, gradient in pairs if gradient is not None]
        alike = [(view, gradient) for view, gradient in used if view.stride() == gradient.stride()]
        if alike:  # torch's foreach copies one tensor at a time if the strides of any differ
            torch._foreach_copy_(*map(list, zip(*alike, strict=True)))  # type: ignore[arg-type]
        for view, gradient in used:
            if view.stride() != gradient.stride():
                view.copy_(gradient)
        return None, flat, *(None for _ in gradients)


def _backward_number() -> int:
    """Return the number of the backward that runs, which no other one has."""
    return torch._C._current_graph_task_id()
