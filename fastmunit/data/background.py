"""An iterator that runs in its own thread, so that waiting for the next item can time out."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Generic, TypeVar

Item = TypeVar("Item")

_SECONDS_TO_END = 0.5
_SECONDS_BETWEEN_CHECKS = 0.5


class Background(Iterator[Item], Generic[Item]):
    """An iterator over a generator that runs in a daemon thread, which computes one item per request.

    If the generator hangs (a stalled disk), the caller's thread does not: `ready` times out, and `close` abandons the
    generator. `next` raises the errors of the generator.

    Args:
        items: Generator to run. Nothing else may use it.
        unblock: Function that ends whatever the generator is waiting for. `close` calls it if the generator does not
            end by itself.
    """

    def __init__(self, items: Generator[Item, None, None], unblock: Callable[[], None]) -> None:
        # Not SimpleQueue: a late signal makes its `get` forget the timeout (CPython 3.11).
        self._requests: queue.Queue[bool] = queue.Queue()
        self._results: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue()
        self._result: tuple[Item | None, BaseException | None] | None = None
        self._requested = self._over = False
        self._thread = threading.Thread(
            target=_serve, args=(items, self._requests, self._results), name="fastmunit batches", daemon=True
        )
        # At exit the thread ends by itself, and multiprocessing ends the workers.
        self._end = weakref.finalize(self, _end, self._thread, self._requests, unblock)
        self._end.atexit = False

    def ready(self, seconds: float) -> bool:
        """Wait for the next item.

        Args:
            seconds: Maximum time to wait.

        Returns:
            True if `next` will return or raise immediately.
        """
        if self._over or self._result is not None:
            return True
        if not self._requested:
            if not self._thread.ident:
                self._thread.start()
            self._requests.put(True)
            self._requested = True
        try:
            self._result = self._results.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    def __next__(self) -> Item:
        while not self.ready(_SECONDS_BETWEEN_CHECKS):
            pass
        if self._result is None:
            raise StopIteration
        (item, error), self._result, self._requested = self._result, None, False
        if error is not None:
            self._over = True
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread and its generator, or abandon them if they do not end."""
        self._over, self._result = True, None
        self._end()


def _serve(
    items: Generator[Item, None, None],
    requests: queue.Queue[bool],
    results: queue.Queue[tuple[Item | None, BaseException | None]],
) -> None:
    with closing(items):
        while requests.get():
            try:
                results.put((next(items), None))
            except BaseException as error:  # of any kind: `Background.__next__` raises it in the caller's thread
                results.put((None, error))
                return


def _end(thread: threading.Thread, requests: queue.Queue[bool], unblock: Callable[[], None]) -> None:
    if not thread.is_alive():
        return
    requests.put(False)
    thread.join(_SECONDS_TO_END)
    if thread.is_alive():
        unblock()
        thread.join(_SECONDS_TO_END)
