"""What the layers of one training iteration compute once and share: forms of weights, and padded images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.functional import autocast_dtype
from fastmunit.nn.fused.weight_copies import WeightCopies, version_of


class _Entry(NamedTuple):
    source: Tensor  # kept, so that no other tensor gets its id()
    version: tuple[int, int]
    result: Tensor


class IterationCache:
    """The values that layers share inside `iteration_cache`. Each is valid until its source is written to.

    A write through `tensor.data` leaves no trace: use a new cache after it.

    Args:
        copies: Low-precision copies of weights to share with another cache.
    """

    def __init__(self, copies: WeightCopies | None = None) -> None:
        self._copies = WeightCopies() if copies is None else copies
        self._open: dict[int, Tensor] = {}
        self._results: dict[Hashable, _Entry] = {}

    def for_checkpoint(self) -> IterationCache:
        """Return a cache for a region that runs again in backward.

        It shares only what leaves no tensors for backward, so that both runs of the region save the same tensors.
        """
        return IterationCache(self._copies)

    @contextmanager
    def opened(self, weights: Sequence[Tensor], without_gradient: Sequence[Tensor] = ()) -> Iterator[None]:
        """Give `weight` low-precision copies of weights for one pass through a network, under autocast.

        Args:
            weights: Weights and biases that the layers read.
            without_gradient: Weights that they leave out. Their gradients are zeros.
        """
        before = self._open
        weights, without_gradient = (
            [weight for weight in group if id(weight) not in before] for group in (weights, without_gradient)
        )
        dtype = autocast_dtype(weights[0].device.type) if weights else None
        if dtype is not None:
            self._open = before | self._copies.of(weights, without_gradient, dtype)
        try:
            yield
        finally:
            self._open = before

    def weight(self, weight: Tensor) -> Tensor:
        """Return the copy of a weight if `opened` has one, else the weight itself."""
        return self._open.get(id(weight), weight)

    def gives_zeros(self, weight: Tensor) -> bool:
        """Return True if a weight that is left out gets its gradient of zeros from `opened`."""
        return id(weight) in self._open

    def once(self, source: Tensor, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Return compute(), which depends on `source` only. It runs once per key, dtype of autocast and grad mode."""
        graph = source.requires_grad and torch.is_grad_enabled()
        place = (id(source), key, autocast_dtype(source.device.type), graph)
        entry = self._results.get(place)
        if entry is None or entry.version != version_of(source):
            entry = self._results[place] = _Entry(source, version_of(source), compute())
        return entry.result

    def drop_graphs(self) -> None:
        """Forget values that hold a graph. Call it after a forward pass, whose graph backward frees."""
        self._results = {place: entry for place, entry in self._results.items() if not entry.result.requires_grad}


_cache: ContextVar[IterationCache | None] = ContextVar("fastmunit_iteration_cache", default=None)


@contextmanager
def iteration_cache(cache: IterationCache | None) -> Iterator[None]:
    """Let the layers that this thread runs in the with-block share values through `cache`. None: share nothing."""
    token = _cache.set(cache)
    try:
        yield
    finally:
        _cache.reset(token)


def active_cache() -> IterationCache | None:
    """Return the cache of this thread, or None. torch.compile shares values by itself."""
    return None if torch.compiler.is_compiling() else _cache.get()


def shared_weight(weight: Tensor) -> Tensor:
    """Return the copy of a weight that the active cache has opened, else the weight itself."""
    cache = active_cache()
    return weight if cache is None else cache.weight(weight)


def gives_zeros(weight: Tensor) -> bool:
    """Return True if the active cache gives a weight that is left out its gradient of zeros."""
    cache = active_cache()
    return cache is not None and cache.gives_zeros(weight)


def shared_once(source: Tensor, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
    """Return compute(), which depends on `source` only, or what it has returned before in this iteration."""
    cache = active_cache()
    return compute() if cache is None else cache.once(source, key, compute)
