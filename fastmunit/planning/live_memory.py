"""The memory of tensors while code runs without data: every allocation, its end, and what it is for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastmunit.ops.library import composites

Workspace = Callable[[Callable[..., Any], Sequence[Any], Any], int]
"""Function that returns the bytes that an op takes during a call, from the op, its arguments and its result."""

_CASTS = (
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten._foreach_copy_.default,
)

_NO_BACKWARD = -1

WEIGHTS = "weights"
GRADIENTS = "gradients"
COPIES = "low-precision copies of weights"
SAVED = "maps saved for backward"
TEMPORARY = "temporary maps"
WORKSPACE = "workspace of convolutions"


@dataclass
class Storage:
    """An allocation.

    Attributes:
        size: Its bytes.
        part: What it is for.
    """

    size: int
    part: str = TEMPORARY


@dataclass(frozen=True)
class Peak:
    """The moment with the most memory.

    Attributes:
        total: Bytes.
        parts: Bytes by what they are for; they add up to `total`.
    """

    total: int
    parts: dict[str, int]


class LiveMemory(TorchDispatchMode):
    """A tracker of all storages that are allocated inside its with-block, for code that runs on fake tensors.

    Every storage counts with its bytes from the op that returns it until it is freed, as in torch's allocators. Ops of
    this package that consist of torch's ops are run inside, so their temporary results count. A value that is read from
    a tensor is 0.

    Args:
        workspace: Memory that an op takes besides its results.
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()
        self._workspace = workspace
        self._live: dict[int, tuple[weakref.ref[Any], Storage]] = {}
        self._now = 0
        self._backward = _NO_BACKWARD
        self.reset()

    def reset(self) -> None:
        """Forget the peak: the next one is that of what runs from now on."""
        self._total = -1
        self._at_peak: list[Storage] = []
        self._workspace_at_peak = 0
        self._observe(0)

    def peak(self) -> Peak:
        """Return the moment with the most memory since the last `reset`."""
        parts: dict[str, int] = {}
        for storage in self._at_peak:
            parts[storage.part] = parts.get(storage.part, 0) + storage.size
        if self._workspace_at_peak:
            parts[WORKSPACE] = self._workspace_at_peak
        return Peak(self._total, parts)

    def assign(self, tensors: Iterable[Tensor], part: str) -> None:
        """State what the memory of `tensors` is for."""
        for tensor in tensors:
            self._storage(tensor).part = part

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        self._notice_backward()
        if func in composites:
            with self:
                return composites[func](*args)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._storage(leaf)
        if func in _CASTS:
            self._assign_copies(func, args, result)
        self._observe(self._workspace(func, args, result))
        return result

    def _notice_backward(self) -> None:
        """Mark what is left of the forward pass as saved when a backward pass begins."""
        backward = torch._C._current_graph_task_id()
        if backward != self._backward:
            self._backward = backward
            if backward != _NO_BACKWARD:
                for _, storage in self._live.values():
                    if storage.part == TEMPORARY:
                        storage.part = SAVED

    def _storage(self, tensor: Tensor) -> Storage:
        """Return the entry of a tensor's storage, which is new if the storage is."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        found = self._live.get(key)
        if found is not None:
            return found[1]
        entry = Storage(storage.nbytes())

        def freed(_: object) -> None:
            del self._live[key]
            self._now -= entry.size

        self._live[key] = weakref.ref(storage, freed), entry
        self._now += entry.size
        return entry

    def _assign_copies(self, func: Any, args: Sequence[Any], result: Any) -> None:
        """Mark results that are weights in a smaller type."""
        pairs = [(args[0], result)] if func is _CASTS[0] else [(args[1], args[0])]
        if func is _CASTS[2]:
            pairs = list(zip(args[1], args[0], strict=True))
        for source, copy in pairs:
            if copy.element_size() < source.element_size() and self._storage(source).part == WEIGHTS:
                self._storage(copy).part = COPIES

    def _observe(self, workspace: int) -> None:
        if self._now + workspace > self._total:
            self._total = self._now + workspace
            self._workspace_at_peak = workspace
            self._at_peak = [storage for _, storage in self._live.values()]
