"""An iterator in its own thread."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from fastmunit.data.background import Background


def nothing() -> None:
    pass


def test_items_come_in_order_and_then_the_end() -> None:
    assert list(Background((k for k in range(5)), nothing)) == [0, 1, 2, 3, 4]


def test_nothing_is_computed_before_it_is_requested() -> None:
    computed: list[int] = []

    def count() -> Generator[int, None, None]:
        for k in range(10):
            computed.append(k)
            yield k

    items = Background(count(), nothing)
    assert computed == []
    assert next(items) == 0
    assert not items._results.qsize()
    items.close()
    assert computed == [0]
    assert list(items) == []


def test_errors_are_raised_in_the_requesting_thread() -> None:
    def fail() -> Generator[int, None, None]:
        yield 1
        raise KeyError("x")

    items = Background(fail(), nothing)
    assert next(items) == 1
    with pytest.raises(KeyError, match="x"):
        next(items)
    assert list(items) == []
    items.close()


def test_generator_is_closed_in_its_thread() -> None:
    closed_in: list[threading.Thread] = []

    def count() -> Generator[int, None, None]:
        try:
            yield 1
            yield 2
        finally:
            closed_in.append(threading.current_thread())

    items = Background(count(), nothing)
    next(items)
    thread = items._thread
    del items  # like close()
    assert closed_in == [thread]
    assert not thread.is_alive()


def test_hanging_generator_is_abandoned() -> None:
    hang = threading.Event()

    def wait() -> Generator[int, None, None]:
        hang.wait()
        yield 1

    unblocked: list[bool] = []
    items = Background(wait(), lambda: unblocked.append(True))
    assert not items.ready(0.01)
    assert not items.ready(0.01)
    items.close()
    items.close()
    assert unblocked == [True]
    assert items._thread.is_alive() and items._thread.daemon
    hang.set()
    items._thread.join(30)
    assert not items._thread.is_alive()


def test_generator_that_never_started_is_closed() -> None:
    items = Background((k for k in range(5)), nothing)
    items.close()
    assert not items._thread.is_alive()
    assert list(items) == []
