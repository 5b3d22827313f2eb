"""Values that the layers of one training iteration compute once and share: forms of weights, and padded images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from fastmunit.functional import autocast_dtype
from fastmunit.functional.streams import stream_number
from fastmunit.nn.fused.weight_copies import PassWeights, ReadWeights, WeightCopies, version_of

_Value = TypeVar("_Value")


class _Entry(NamedTuple):
    result: Any
    versions: tuple[tuple[int, int], ...]  # of the source and of the tensors of the result


class IterationCache:
    """The values that layers share inside `iteration_cache`.

    Each is valid until its source, or the shared value itself, is written to.

    A write through `tensor.data` leaves no trace: use a new cache after it.

    Regions that `torch.utils.checkpoint` runs again in backward share values, too, and store the same tensors.
    """

    def __init__(self) -> None:
        self._copies = WeightCopies()
        self._open: dict[int, Tensor] = {}
        self._results = WeakTensorKeyDictionary()  # {source: {key: entry}}, so that a map is not kept until the end

    @contextmanager
    def opened(
        self, cast: Sequence[Tensor], left_out: Sequence[Tensor] = (), uncast: Sequence[Tensor] = ()
    ) -> Iterator[None]:
        """Let `weight` return what one pass through a network reads under autocast, such as low-precision copies.

        Args:
            cast: Weights and biases that the layers read in low precision.
            left_out: Weights that they leave out. Their gradients are zeros.
            uncast: Weights that they read in their own dtype.
        """
        before = self._open
        weights = PassWeights(*([w for w in group if id(w) not in before] for group in (cast, left_out, uncast)))
        dtype = autocast_dtype(weights.cast[0].device.type) if weights.cast else None
        if dtype is not None:
            self._open = before | self._copies.of(weights, dtype)
        try:
            yield
        finally:
            self._open = before

    def refreshed(self, known: ReadWeights) -> AbstractContextManager[None]:
        """Return a context that does so with the copies that `opened` gives: see `iteration_cache`."""
        return self._copies.refreshed(known)

    def weight(self, weight: Tensor) -> Tensor:
        """Return what the layers read instead of a weight, if `opened` has that, else the weight itself."""
        return self._open.get(id(weight), weight)

    def gives_zeros(self, weight: Tensor) -> bool:
        """Return True if a weight that is left out gets its gradient of zeros from `opened`."""
        return id(weight) in self._open

    def once(self, source: Tensor, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """Return compute(), a function of `source` without graph.

        It runs once per source, key, dtype of autocast and stream of `in_parallel`.

        A shared result has no graph: gradients that are added before they are propagated to the source are rounded
        differently from those that are propagated first, as with checkpointing. Writes to an inference tensor are not
        counted, so nothing is shared for one.
        """
        if source.is_inference():
            return compute()
        results: dict[Hashable, _Entry] = self._results.setdefault(source, {})
        place = (key, autocast_dtype(source.device.type), stream_number())
        entry = results.get(place)
        if entry is None or entry.versions != _versions(source, entry.result):
            with torch.inference_mode(False), torch.no_grad():  # a later pass may store the result for backward
                computed = compute()
            entry = results[place] = _Entry(computed, _versions(source, computed))
        result: _Value = entry.result
        return result


def _versions(source: Tensor, result: Any) -> tuple[tuple[int, int], ...]:
    return tuple(version_of(value) for value in (source, *tree_leaves(result)) if isinstance(value, Tensor))


_cache: ContextVar[IterationCache | None] = ContextVar("fastmunit_iteration_cache", default=None)


@contextmanager
def iteration_cache(cache: IterationCache | None, known: ReadWeights | None = None) -> Iterator[None]:
    """Let the layers that this thread runs in the with-block share values through `cache`.

    Args:
        cache: The cache. None: share nothing.
        known: The weights whose copies the same layers have read before. Those that have been written to are copied on
            entry, all by one op on the current stream. On exit, it has the weights whose copies were read this time.
    """
    token = _cache.set(cache)
    try:
        with nullcontext() if cache is None or known is None else cache.refreshed(known):
            yield
    finally:
        _cache.reset(token)


def active_cache() -> IterationCache | None:
    """Return the cache of this thread, or None. torch.compile shares values by itself."""
    return None if torch.compiler.is_compiling() else _cache.get()


def shared_weight(weight: Tensor) -> Tensor:
    """Return what the active cache has opened for a weight, such as a copy, else the weight itself."""
    cache = active_cache()
    return weight if cache is None else cache.weight(weight)


def shared_in_own_dtype(weight: Tensor) -> Tensor:
    """Return what the active cache has opened for a weight, unless that is a low-precision copy for another layer."""
    opened = shared_weight(weight)
    return opened if opened.dtype == weight.dtype else weight


def gives_zeros(weight: Tensor) -> bool:
    """Return True if the active cache gives a weight that is left out its gradient of zeros."""
    cache = active_cache()
    return cache is not None and cache.gives_zeros(weight)


def shared_values(source: Tensor, key: Hashable, compute: Callable[[], _Value]) -> _Value:
    """Return compute(), a function of `source`, without graph, or what it has returned before in this iteration."""
    cache = active_cache()
    if cache is not None:
        return cache.once(source, key, compute)
    with torch.no_grad():
        return compute()


def shared_image(image: Tensor, key: Hashable, compute: Callable[[], _Value]) -> _Value:
    """Return `shared_values` if the image needs no gradient, else compute()."""
    return compute() if image.requires_grad and torch.is_grad_enabled() else shared_values(image, key, compute)
