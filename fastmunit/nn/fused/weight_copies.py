"""Low-precision copies of weights under autocast, made by one op for many weights instead of one per weight and call.

A copy is made once per version of a weight: by one op for all weights that the last iteration read, and by one op per
network for others. The gradients of all copies that a network has read in one pass are written to one flat buffer in
the dtype of the weights. Autograd adds the buffers of several passes, one sum per network, and the gradients of the
weights are views of the result. The gradients of weights that are read in their own dtype, such as biases that
`fused_norm` adds, need no conversion: those of several passes are added by one op per network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import TensorWeakRef

from fastmunit.functional.streams import used_by_both

_ALIGNMENT = 16  # values, so that every gradient begins at a multiple of 64 bytes


class _Layout(NamedTuple):
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


def _layout_of(tensors: Sequence[Tensor]) -> _Layout:
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        end += -(-tensor.numel() // _ALIGNMENT) * _ALIGNMENT
    strides = tuple(torch.empty_like(tensor, device="meta").stride() for tensor in tensors)  # dense ones
    return _Layout(tuple(offsets), tuple(tensor.shape for tensor in tensors), strides, end)


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


class _Buffer:
    """The flat buffer of a network's gradients, and the gradients that are not in it.

    Attributes:
        layout: Places of the gradients.
        left_out: Places of the weights that get gradients of zeros, in a buffer of their own.
        gradients: The gradients of each backward, by its number: one that raises an error leaves them behind.
    """

    def __init__(self, layout: _Layout, left_out: _Layout) -> None:
        self.layout, self.left_out = layout, left_out
        self.gradients: defaultdict[int, _Gradients] = defaultdict(_Gradients)


class _Root(torch.autograd.Function):
    """Weights to a placeholder, whose gradient is the flat buffer with the gradients of all weights."""

    @staticmethod
    def forward(ctx: Any, buffer: _Buffer, *weights: Tensor) -> Tensor:
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


class _Pass(torch.autograd.Function):
    """Copies of weights, and weights in their own dtype, as the layers read them in one pass through a network."""

    @staticmethod
    def forward(ctx: Any, buffer: _Buffer, placeholder: Tensor, *copies: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.buffer = buffer
        ctx.options = {"dtype": placeholder.dtype, "device": placeholder.device}
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layout: _Layout = ctx.buffer.layout
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


class _Copy(NamedTuple):
    weight: Tensor
    version: tuple[int, int]
    copy: Tensor


class PassWeights(NamedTuple):
    """The weights of one pass through a network under autocast.

    Attributes:
        cast: Weights that it reads in low precision.
        left_out: Weights that it leaves out. They get gradients of zeros.
        uncast: Weights that it reads in their own dtype.
    """

    cast: Sequence[Tensor]
    left_out: Sequence[Tensor] = ()
    uncast: Sequence[Tensor] = ()


class ReadWeights:
    """The weights whose copies a part of an iteration has read, so that the next one makes all of these by one op.

    They are not kept alive. Copies and pickles of this object are empty.
    """

    def __init__(self) -> None:
        self._references: dict[torch.dtype, list[TensorWeakRef]] = {}

    def replace(self, weights: Mapping[torch.dtype, Iterable[Tensor]]) -> None:
        """Keep these weights, by the dtype of their copies, instead of the previous ones."""
        self._references = {dtype: [TensorWeakRef(weight) for weight in group] for dtype, group in weights.items()}

    def items(self) -> Iterator[tuple[torch.dtype, list[Tensor]]]:
        """Iterate over the dtypes of copies and the weights that are alive."""
        for dtype, references in self._references.items():
            yield dtype, [weight for reference in references if (weight := reference()) is not None]

    def __reduce__(self) -> tuple[type[ReadWeights], tuple[()]]:
        """Copy and pickle as an empty one."""
        return ReadWeights, ()


class WeightCopies:
    """The copies of the weights that have been asked for, each valid until its weight is written to.

    A write through `weight.data` leaves no trace: use a new object after it.
    """

    def __init__(self) -> None:
        self._copies: dict[int, _Copy] = {}
        self._placeholders: dict[tuple[tuple[int, ...], ...], tuple[_Buffer, Tensor]] = {}
        self._read: defaultdict[torch.dtype, dict[int, Tensor]] = defaultdict(dict)

    @contextmanager
    def refreshed(self, known: ReadWeights) -> Iterator[None]:
        """Make stale copies of the weights in `known` by one op. On exit, let it have those whose copies were read."""
        for dtype, weights in known.items():
            self._update([weight for weight in weights if _is_cast(weight, dtype)], dtype)
        self._read.clear()
        yield
        known.replace({dtype: weights.values() for dtype, weights in self._read.items()})

    def of(self, weights: PassWeights, dtype: torch.dtype) -> dict[int, Tensor]:
        """Return what the layers read in one pass through a network, by the id() of the weight.

        That is a copy in `dtype` if autocast converts the weight, and the weight's own values if it does not. Both pass
        on gradients. Absent are weights that need gradients in another dtype, or on another device, than those of the
        first converted one.
        """
        read = _by_id(weight for weight in weights.cast if _is_cast(weight, dtype))
        self._read[dtype] |= read
        self._update(list(read.values()), dtype)
        copies = {key: self._copies[key].copy for key in read}
        trained = [weight for weight in read.values() if weight.requires_grad] if torch.is_grad_enabled() else []
        if len({(weight.dtype, weight.device) for weight in trained}) != 1:
            return {key: copy for key, copy in copies.items() if not read[key].requires_grad} if trained else copies
        left_out, uncast = (
            [weight for key, weight in _by_id(group).items() if key not in read and _alike(weight, trained[0])]
            for group in (weights.left_out, weights.uncast)
        )
        buffer, placeholder = self._placeholder(trained, left_out, uncast)
        inputs = [*(copies[id(weight)] for weight in trained), *(weight.detach() for weight in uncast)]
        aliases = _Pass.apply(buffer, placeholder, *inputs)
        given = zip([*trained, *uncast, *left_out], [*aliases, *left_out], strict=True)
        return copies | {id(weight): alias for weight, alias in given}

    def _update(self, weights: Sequence[Tensor], dtype: torch.dtype) -> None:
        groups: defaultdict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
        for weight in weights:
            if not self._is_current(weight, dtype):
                groups[weight.dtype, weight.device].append(weight)
        for stale in groups.values():
            with torch.inference_mode(False), torch.no_grad():  # a later pass may store the copies for backward
                copies = [torch.empty_like(weight, dtype=dtype) for weight in stale]
                torch._foreach_copy_(copies, stale)
            used_by_both(copies)
            for weight, copy in zip(stale, copies, strict=True):
                self._copies[id(weight)] = _Copy(weight, version_of(weight), copy)

    def _is_current(self, weight: Tensor, dtype: torch.dtype) -> bool:
        kept = self._copies.get(id(weight))
        return kept is not None and kept.version == version_of(weight) and kept.copy.dtype == dtype

    def _placeholder(
        self, trained: Sequence[Tensor], left_out: Sequence[Tensor], uncast: Sequence[Tensor]
    ) -> tuple[_Buffer, Tensor]:
        key = tuple(tuple(map(id, weights)) for weights in (trained, left_out, uncast))
        if key not in self._placeholders:
            buffer = _Buffer(_layout_of(trained), _layout_of(left_out))
            self._placeholders[key] = buffer, _Root.apply(buffer, *trained, *left_out, *uncast)
        return self._placeholders[key]


def version_of(weight: Tensor) -> tuple[int, int]:
    """Return the address of a tensor and the number of writes to it, which change when its values do."""
    return weight.data_ptr(), weight._version


def _by_id(weights: Iterable[Tensor]) -> dict[int, Tensor]:
    return {id(weight): weight for weight in weights}


def _alike(weight: Tensor, first: Tensor) -> bool:
    """Return True if a weight needs a gradient like another one: in its dtype and on its device."""
    return weight.requires_grad and (weight.dtype, weight.device) == (first.dtype, first.device)


def _is_cast(weight: Tensor, dtype: torch.dtype) -> bool:
    """Return True if autocast converts a weight, and writes to it are counted."""
    return weight.is_floating_point() and weight.dtype not in (torch.float64, dtype) and not weight.is_inference()
