"""A cache that lets the generators' half of an iteration reuse what the discriminators' half has computed."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_ as _is
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastmunit import functional


class Origin(NamedTuple):
    """A record of what the results of a forward pass depend on.

    Writing through `parameter.data` leaves no trace in it.

    Attributes:
        inputs: The inputs.
        state: Versions of inputs and weights, addresses of weights, modes.
    """

    inputs: tuple[Tensor, ...]
    state: tuple[Any, ...]

    def same(self, other: Origin) -> bool:
        """Return True if both have the same input tensors, unmodified, and networks that no one has written to."""
        same = len(self.inputs) == len(other.inputs) and all(map(_is, self.inputs, other.inputs))
        return same and self.state == other.state


def origin_of(inputs: Sequence[Tensor], networks: Sequence[nn.Module]) -> Origin | None:
    """Return the origin of a forward pass of `networks` at this moment, or None if inputs have no versions."""
    if any(tensor.is_inference() for tensor in inputs):
        return None
    return Origin(tuple(inputs), _state(inputs, networks))


class _Entry(NamedTuple):
    origin: Origin
    outputs: tuple[Any, ...]


class ForwardCache:
    """A cache of one forward pass with its graph.

    `reuse` returns the outputs only for the same input tensors, unmodified, for networks whose parameters have not
    been written to since, and in the same mode, implementation and autocast. Writing through `parameter.data` leaves
    no trace: call `clear` after it. Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def keep(self, inputs: Sequence[Tensor], networks: Sequence[nn.Module], outputs: tuple[Any, ...]) -> None:
        """Keep the outputs of `networks` for `inputs` instead of the previous ones. Drop outputs without a graph."""
        self.clear()
        has_graph = all(output.requires_grad for output in outputs if isinstance(output, Tensor))
        if has_graph and (origin := origin_of(inputs, networks)) is not None:
            self._entry = _Entry(origin, outputs)

    def reuse(self, inputs: Sequence[Tensor], networks: Sequence[nn.Module]) -> tuple[Any, ...] | None:
        """Pop the outputs for exactly these inputs and networks, or return None if they are absent or stale."""
        entry = self._entry
        self.clear()
        if entry is None or not torch.is_grad_enabled():
            return None
        origin = origin_of(inputs, networks)
        return entry.outputs if origin is not None and entry.origin.same(origin) else None

    def clear(self) -> None:
        """Drop the outputs and free their graph."""
        self._entry = None

    def __reduce__(self) -> tuple[type[ForwardCache], tuple[()]]:
        """Copy and pickle as an empty cache."""
        return ForwardCache, ()


def _state(inputs: Sequence[Tensor], networks: Sequence[nn.Module]) -> tuple[Any, ...]:
    parameters = [p for network in networks for p in network.parameters()]
    written = tuple((p.data_ptr(), p._version, p.requires_grad) for p in parameters)
    modes = (*(network.training for network in networks), functional.default_implementation())
    return (*(tensor._version for tensor in inputs), written, modes, functional.autocast_dtype(inputs[0].device.type))
