"""Low-precision copies of weights under autocast, made by one op for many weights instead of one per weight and call.

A copy is made once per version of a weight: by one op for all weights that the last iteration read, and by one op per
network for others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from fastmunit.functional.streams import used_by_all
from fastmunit.nn.fused.weight_gradients import Buffer, Pass, Root, layout_of


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
        self._placeholders: dict[tuple[tuple[int, ...], ...], tuple[Buffer, Tensor]] = {}
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
        aliases = Pass.apply(buffer, placeholder, *inputs)
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
            used_by_all(copies)
            for weight, copy in zip(stale, copies, strict=True):
                self._copies[id(weight)] = _Copy(weight, version_of(weight), copy)

    def _is_current(self, weight: Tensor, dtype: torch.dtype) -> bool:
        kept = self._copies.get(id(weight))
        return kept is not None and kept.version == version_of(weight) and kept.copy.dtype == dtype

    def _placeholder(
        self, trained: Sequence[Tensor], left_out: Sequence[Tensor], uncast: Sequence[Tensor]
    ) -> tuple[Buffer, Tensor]:
        key = tuple(tuple(map(id, weights)) for weights in (trained, left_out, uncast))
        if key not in self._placeholders:
            buffer = Buffer(layout_of(trained), layout_of(left_out))
            self._placeholders[key] = buffer, Root.apply(buffer, *trained, *left_out, *uncast)
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
