"""Independent parts of an iteration on two CUDA streams, so that small kernels fill the device together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from fastmunit.errors import ConfigError

First = TypeVar("First")
Second = TypeVar("Second")

_side: ContextVar[torch.cuda.Stream | None] = ContextVar("fastmunit_side_stream", default=None)
_on_side: ContextVar[bool] = ContextVar("fastmunit_on_side_stream", default=False)


class ParallelStreams:
    """The second stream of a training.

    It is one stream per device, because autograd runs backward on the stream of forward, and libraries keep a workspace
    per stream. Copies and pickles have no streams yet.

    Args:
        option: "auto": iterations that are captured, or about to be, use two streams. True: all iterations on a CUDA
            device. False: none.
    """

    def __init__(self, option: bool | Literal["auto"]) -> None:
        self._option = option
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def disable(self) -> None:
        """Run everything on one stream from now on."""
        self._option = False

    def apply(self, captured: bool) -> bool:
        """Return True if iterations use two streams: those that are captured, or others."""
        return self._option is True or (self._option == "auto" and captured)

    @contextmanager
    def active(self, device: torch.device, captured: bool = False) -> Iterator[None]:
        """Let `in_parallel` use two streams inside the with-block, if they `apply`.

        Raises:
            ConfigError: If two streams are requested and `device` is not a CUDA device.
        """
        applies = self.apply(captured)
        if applies and device.type != "cuda":
            raise ConfigError(f"parallel_streams: true needs a CUDA GPU, not device {device}: set it to auto.")
        token = _side.set(self._stream(device) if applies else None)
        try:
            yield
        finally:
            _side.reset(token)

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def __reduce__(self) -> tuple[type[ParallelStreams], tuple[bool | Literal["auto"]]]:
        """Copy and pickle without streams."""
        return ParallelStreams, (self._option,)


def two_streams() -> bool:
    """Return True if `in_parallel` uses two streams here."""
    return _side.get() is not None


def on_second_stream() -> bool:
    """Return True inside the second function of `in_parallel`. A cache is safe if this belongs to its keys."""
    return _on_side.get()


def in_parallel(
    first: Callable[..., First],
    a: Sequence[Tensor | None],
    second: Callable[..., Second],
    b: Sequence[Tensor | None],
) -> tuple[First, Second]:
    """Return first(*a), second(*b), on two streams if a `ParallelStreams` is active.

    The first function runs on the current stream, the second one on the other stream, between a fork and a join. The
    host calls them in this order in any case. Autograd runs the backward pass of each operation on its stream, orders
    operations by the time of their forward pass, whatever their streams, and adds gradients in that order: the results
    are the same to the last bit.

    Both may read the same tensors, but neither may write what the other one reads. Caches of derived weights, such as
    autocast's, count as writes, so the functions must run networks without common weights, and a network must always
    run on the same stream. Inside of the functions, other calls of `in_parallel` use one stream.

    Args:
        first: Function of tensors. Some may be None.
        a: Its arguments.
        second: Function of tensors, which returns tensors, possibly in nested tuples or lists.
        b: Its arguments: all tensors that it reads and that may be freed before the end of the iteration. The caching
            allocator learns that both streams use them, and the results.
    """
    side = _side.get()
    if side is None:
        return first(*a), second(*b)
    main = torch.cuda.current_stream()
    side.wait_stream(main)
    one_level = _side.set(None)
    try:
        one = first(*a)
        _record(b, side)
        with torch.cuda.stream(side), mark_second_stream(True):
            other = second(*b)
        _record(other, main)
    finally:
        _side.reset(one_level)
        main.wait_stream(side)  # a capture cannot end before
    return one, other


def used_by_both(tensors: Sequence[Tensor]) -> None:
    """Record for the caching allocator that both streams, if there are two, use what the current one has allocated."""
    side = _side.get()
    if side is not None:
        _record(tensors, side)


@contextmanager
def mark_second_stream(second: bool) -> Iterator[None]:
    """Set `on_second_stream` inside the with-block, for code that autograd runs again in a thread of its own."""
    token = _on_side.set(second)
    try:
        yield
    finally:
        _on_side.reset(token)


def _record(values: Any, stream: torch.cuda.Stream) -> None:
    """Keep the memory of all tensors from being reused before `stream` has done what it has been given so far."""
    if isinstance(values, Tensor):
        values.record_stream(stream)
    elif isinstance(values, (list, tuple)):
        for value in values:
            _record(value, stream)
