"""Work that the processes divide: each does a block of it, and all have the results in order, or all end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from fastmunit.distributed.collectives import gather_objects, gather_on_first
from fastmunit.distributed.processes import heartbeat, is_active, local_rank, rank, world_size
from fastmunit.errors import ConfigError, RankError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_depth = 0


class _OtherFailed(RankError):
    """A process has told the others that it has failed."""


class Together:
    """Context in which the processes do one piece of work: when one of them fails, none is left waiting.

    Inside it, the processes meet in `exchange`, `each`, `each_for_first` and `require_same` alone. A process that fails
    says so at the next of these, wherever the others are; it raises its own error, and the others a RankError that
    names it. Contexts nest: the outermost one counts. With one process nothing happens.

    Attributes:
        agreed: Whether all processes know of the error that has ended the context.
    """

    def __init__(self) -> None:
        self.agreed = False

    def __enter__(self) -> Together:
        global _depth
        _depth += 1
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        global _depth
        _depth -= 1
        if _depth or not is_active():
            return
        if error is None:
            try:
                exchange(None)  # another process may have failed since the last one
            except _OtherFailed:
                self.agreed = True
                raise
        elif isinstance(error, _OtherFailed):
            self.agreed = True
        elif not isinstance(error, RankError):
            self._tell(error)

    def _tell(self, error: BaseException) -> None:
        message = str(error) or type(error).__name__
        beats = heartbeat()
        if beats is not None:
            beats.failed(message)
        if isinstance(error, Exception):  # else the process is told to end, and waits for nobody
            with suppress(RankError):  # the error itself is the one to raise
                gather_objects((message, None))
                self.agreed = True


def block(count: int) -> range:
    """Return which of `count` items are this process's: as many as each other has, to one."""
    return range(rank() * count // world_size(), (rank() + 1) * count // world_size())


def exchange(value: _Result) -> list[_Result]:
    """Return what each process gives, by rank; tensors should be on the CPU and own their memory.

    Raises:
        RankError: A process has failed.
    """
    found = gather_objects((None, value))
    for number, (problem, _) in enumerate(found):
        if problem is not None:
            raise _OtherFailed(f"rank {number} failed: {problem}")
    return [theirs for _, theirs in found]


def each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return the function's result of each item, in order; a process computes those of its `block`."""
    with Together():
        parts = exchange([function(items[place]) for place in block(len(items))])
    return [result for part in parts for result in part]


def each_for_first(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result] | None:
    """Return what `each` does in the first process, and None in the others: for results of many bytes."""
    with Together():
        mine = [function(items[place]) for place in block(len(items))]
        exchange(None)
        parts = gather_on_first(mine)
    return None if parts is None else [result for part in parts for result in part]


def first_per_machine(function: Callable[[], _Result]) -> _Result:
    """Return the result of a function that one process per machine calls before the others: it may fill a cache."""
    if not is_active():
        return function()
    if local_rank() > 0:
        exchange(None)
        return function()
    result = function()
    exchange(None)
    return result


def require_same(facts: Mapping[str, Any]) -> None:
    """Check that all processes were given the same.

    Raises:
        ConfigError: They were not; the message names rank and fact.
    """
    for number, theirs in enumerate(exchange(dict(facts))):
        for name, value in theirs.items():
            if value != facts[name]:
                raise ConfigError(
                    f"rank {number} has another {name} than rank {rank()}: start all processes with the same command, "
                    "and give them files that all of them see."
                )
