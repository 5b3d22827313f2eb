"""Work that the processes share, with errors that reach all of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from fastmunit.distributed.collectives import gather_objects, gather_on_first
from fastmunit.distributed.processes import is_active, local_rank, publish_failure, rank, world_size
from fastmunit.errors import ConfigError, RankError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_P = ParamSpec("_P")

_depth = 0


class _OtherFailed(RankError):
    """An error that another process has announced."""


class Together:
    """A context for work of all processes. When one of them fails, no other is left waiting.

    Inside it, the processes communicate only through `exchange`, `each`, `each_for_first` and `require_same`. A process
    that fails announces its error at the next of these calls, wherever the others are. It raises its own error, and the
    others raise a RankError that names it. Contexts nest: only the outermost one counts. With one process, the context
    does nothing.

    Attributes:
        agreed: True if all processes know the error that has ended the context.
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
                exchange(None)  # another process may have failed since the last exchange
            except _OtherFailed:
                self.agreed = True
                raise
        elif isinstance(error, _OtherFailed):
            self.agreed = True
        elif not isinstance(error, RankError):
            message = publish_failure(error)
            if isinstance(error, Exception):  # else the process must end, and waits for nobody
                with suppress(RankError):  # the error itself is the one to raise
                    gather_objects((message, None))
                    self.agreed = True


def announces_failure(function: Callable[_P, _Result]) -> Callable[_P, _Result]:
    """Decorate a function so that an error it raises is published for the errors of the processes that wait for it."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            publish_failure(error)
            raise

    return call


def block(count: int) -> range:
    """Return the indices of this process's items among `count` items. Shares differ by at most one item."""
    return range(rank() * count // world_size(), (rank() + 1) * count // world_size())


def exchange(value: _Result) -> list[_Result]:
    """Return the values of all processes, by rank. Tensors should be on the CPU and own their memory.

    Raises:
        RankError: If a process has failed.
    """
    gathered = gather_objects((None, value))
    for number, (problem, _) in enumerate(gathered):
        if problem is not None:
            raise _OtherFailed(f"rank {number} failed: {problem}")
    return [theirs for _, theirs in gathered]


def each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return the function's result for each item, in order. A process computes those of its `block`."""
    with Together():
        parts = exchange([function(items[place]) for place in block(len(items))])
    return [result for part in parts for result in part]


def each_for_first(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result] | None:
    """Return the result of `each` in the first process, and None in the others. Use it for large results."""
    with Together():
        mine = [function(items[place]) for place in block(len(items))]
        exchange(None)
        parts = gather_on_first(mine)
    return None if parts is None else [result for part in parts for result in part]


def on_first(action: Callable[[], None]) -> None:
    """Run an action in the first process while the others wait.

    Raises:
        RankError: In the other processes, if the action fails. The first process raises the error itself.
    """
    with Together():
        if rank() == 0:
            action()


def first_per_machine(function: Callable[[], _Result]) -> _Result:
    """Return the function's result, calling it in one process per machine before the others: it may fill a cache."""
    if not is_active():
        return function()
    if local_rank() > 0:
        exchange(None)
        return function()
    result = function()
    exchange(None)
    return result


def require_same(facts: Mapping[str, Any]) -> None:
    """Check that facts are the same in all processes.

    Raises:
        ConfigError: If they differ; the message names the rank and the fact, and the first different key of mappings.
    """
    for number, theirs in enumerate(exchange(dict(facts))):
        for name, value in theirs.items():
            if value != facts[name]:
                raise ConfigError(
                    f"rank {number} has another {name} than rank {rank()}{_difference(facts[name], value)}: start all "
                    "processes with the same command, and give them files that all of them see."
                )


def _difference(mine: Any, theirs: Any) -> str:
    if not (isinstance(mine, Mapping) and isinstance(theirs, Mapping)):
        return ""
    for key in sorted({*mine, *theirs}):
        here, there = (json.dumps(values.get(key), default=str) for values in (mine, theirs))
        if here != there:
            return f" ({key}: {there} instead of {here})"
    return " (their order)"
