"""Independent parts of an iteration on several CUDA streams, so that small kernels fill the device together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastmunit.errors import ConfigError

First = TypeVar("First")
Second = TypeVar("Second")

_LEVELS = 2  # of calls of `in_parallel` inside of each other


class Place(NamedTuple):
    """A stream by its number, and the level of `in_parallel` on which code runs there.

    Stream k forks to stream k + 2^level: stream 0, the one of the iteration, to stream 1, and each of these, one level
    further inside, to its helper: 0 to 2, and 1 to 3.

    Attributes:
        side: Streams 1, 2, 3.
        number: Number of the stream.
        level: Number of calls of `in_parallel` around.
    """

    side: Sequence[torch.cuda.Stream]
    number: int = 0
    level: int = 0

    @property
    def forks(self) -> bool:
        """True if another call of `in_parallel` forks."""
        return self.level < _LEVELS

    @property
    def stream(self) -> torch.cuda.Stream:
        """One of the streams 1, 2, 3."""
        return self.side[self.number - 1]

    @property
    def helper(self) -> torch.cuda.Stream | None:
        """The helper of this stream. Helpers have none."""
        helper = self.number + (1 << (_LEVELS - 1))
        return self.side[helper - 1] if helper <= len(self.side) else None

    @property
    def others(self) -> list[torch.cuda.Stream]:
        """The other streams that run parts of what runs here."""
        step = 1 << min(self.level, _LEVELS - 1)
        return [self.side[number - 1] for number in range(self.number + step, len(self.side) + 1, step)]

    def inside(self) -> tuple[Place, Place]:
        """Return the places of both functions of `in_parallel`."""
        level = self.level + 1
        return Place(self.side, self.number, level), Place(self.side, self.number + (1 << self.level), level)


_place: ContextVar[Place | None] = ContextVar("fastmunit_place", default=None)


class ParallelStreams:
    """The streams of a training besides that of the iteration.

    They are the same for all iterations on a device, because autograd runs backward on the stream of forward, and
    libraries keep a workspace per stream. Copies and pickles have no streams yet.

    Args:
        option: "auto": iterations that are captured, or about to be, use several streams. True: all iterations on a
            CUDA device. False: none.
    """

    def __init__(self, option: bool | Literal["auto"]) -> None:
        self._option = option
        self._side: dict[torch.device, list[torch.cuda.Stream]] = {}

    def disable(self) -> None:
        """Run everything on one stream from now on."""
        self._option = False

    def apply(self, captured: bool) -> bool:
        """Return True if iterations use several streams: those that are captured, or others."""
        return self._option is True or (self._option == "auto" and captured)

    @contextmanager
    def active(self, device: torch.device, captured: bool = False) -> Iterator[None]:
        """Let `in_parallel` and `weight_gradient_stream` use several streams inside the with-block, if they `apply`.

        Raises:
            ConfigError: If several streams are requested and `device` is not a CUDA device.
        """
        applies = self.apply(captured)
        if applies and device.type != "cuda":
            raise ConfigError(f"parallel_streams: true needs a CUDA GPU, not device {device}: set it to auto.")
        if not applies:
            with at(None):
                yield
            return
        side, main = self._streams(device), torch.cuda.current_stream(device)
        for stream in side:  # a capture has all of them from the beginning: backward may be the first to use one
            stream.wait_stream(main)
        with at(Place(side)):
            yield
        for stream in side:
            main.wait_stream(stream)

    def _streams(self, device: torch.device) -> list[torch.cuda.Stream]:
        if device not in self._side:
            self._side[device] = [torch.cuda.Stream(device) for _ in range((1 << _LEVELS) - 1)]
        return self._side[device]

    def __reduce__(self) -> tuple[type[ParallelStreams], tuple[bool | Literal["auto"]]]:
        """Copy and pickle without streams."""
        return ParallelStreams, (self._option,)


def place() -> Place | None:
    """Return where this code runs, or None if there is one stream. torch.compile always sees one."""
    return None if torch.compiler.is_compiling() else _place.get()


@contextmanager
def at(where: Place | None) -> Iterator[None]:
    """Let `place` return a place inside the with-block. The current stream of CUDA is not changed."""
    token = _place.set(where)
    try:
        yield
    finally:
        _place.reset(token)


def without_forks() -> Place | None:
    """Return this place, but on the innermost level.

    Code that autograd runs again in backward, in a thread of its own, needs this: all of it runs on one stream then.
    """
    here = place()
    return None if here is None else here._replace(level=_LEVELS)


def stream_number() -> int:
    """Return the number of the stream on which this code runs. A cache is safe if this belongs to its keys."""
    here = place()
    return 0 if here is None else here.number


def weight_gradient_stream() -> torch.cuda.Stream | None:
    """Return the stream for the weight gradients of what runs here, or None if they have none of their own."""
    here = place()
    return None if here is None else here.helper


def in_parallel(
    first: Callable[..., First],
    a: Sequence[Tensor | None],
    second: Callable[..., Second],
    b: Sequence[Tensor | None],
) -> tuple[First, Second]:
    """Return first(*a), second(*b), on two streams if a `ParallelStreams` is active.

    The first function runs on the current stream, the second one on another one, between a fork and a join. The
    host calls them in this order in any case. Autograd runs the backward pass of each operation on its stream, orders
    operations by the time of their forward pass, whatever their streams, and adds gradients in that order: the results
    are the same to the last bit.

    Both may read the same tensors, but neither may write what the other one reads. Caches of derived weights, such as
    autocast's, count as writes, so the functions must run networks without common weights, and a network must always
    run on the same stream. Each function may fork once more, as discriminators do for their scales. Calls further
    inside use one stream.

    Args:
        first: Function of tensors. Some may be None.
        a: Its arguments.
        second: Function of tensors, which returns tensors, possibly in nested tuples or lists.
        b: Its arguments: all tensors that it reads and that may be freed before the end of the iteration. The caching
            allocator learns that both streams use them, and the results.
    """
    here = place()
    if here is None or not here.forks:
        return first(*a), second(*b)
    ours, theirs = here.inside()
    main, side = torch.cuda.current_stream(), theirs.stream
    side.wait_stream(main)
    try:
        with at(ours):
            one = first(*a)
        _record(b, side)
        with torch.cuda.stream(side), at(theirs):
            other = second(*b)
        _record(other, main)
    finally:
        main.wait_stream(side)  # a capture cannot end before
    return one, other


def used_by_all(tensors: Sequence[Tensor]) -> None:
    """Record for the caching allocator that other streams use what the current one has allocated.

    These are the streams that run parts of what runs here.
    """
    here = place()
    for stream in [] if here is None else here.others:
        _record(tensors, stream)


def used_here(tensors: Sequence[Tensor]) -> None:
    """Record for the caching allocator that the current stream uses what another one may have allocated."""
    if place() is not None:
        _record(tensors, torch.cuda.current_stream())


def _record(values: Any, stream: torch.cuda.Stream) -> None:
    """Keep the memory of all tensors from being reused before `stream` has done what it has been given so far."""
    if isinstance(values, Tensor):
        values.record_stream(stream)
    elif isinstance(values, (list, tuple)):
        for value in values:
            _record(value, stream)
