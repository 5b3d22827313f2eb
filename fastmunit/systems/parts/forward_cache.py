"""A cache that lets the generators' half of an iteration reuse what the discriminators' half has computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastmunit import functional


class _Entry(NamedTuple):
    inputs: tuple[Tensor, ...]
    state: tuple[Any, ...]
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
        if has_graph and not any(tensor.is_inference() for tensor in inputs):
            self._entry = _Entry(tuple(inputs), _state(inputs, networks), outputs)

    def reuse(self, inputs: Sequence[Tensor], networks: Sequence[nn.Module]) -> tuple[Any, ...] | None:
        """Pop the outputs for exactly these inputs and networks, or return None if they are absent or stale."""
        entry = self._entry
        self.clear()
        if entry is None or not torch.is_grad_enabled() or len(inputs) != len(entry.inputs):
            return None
        same = all(tensor is kept for tensor, kept in zip(inputs, entry.inputs, strict=True))
        return entry.outputs if same and _state(inputs, networks) == entry.state else None

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
