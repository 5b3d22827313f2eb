"""Clocks for deadlines: real time, or a fake clock that tests and dry runs advance."""

import time
from multiprocessing.context import BaseContext
from typing import Protocol


class Clock(Protocol):
    """A clock that is shared by all processes of a run."""

    def now(self) -> float:
        """Return the seconds since a fixed time."""

    def advance(self, seconds: float) -> None:
        """Advance a fake clock; has no effect on real time."""


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Return the seconds since a fixed time, which is the same in all processes."""
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        """Do nothing: real time passes by itself."""


class FakeClock:
    """Time that only `advance` changes, shared by the processes of `context`."""

    def __init__(self, context: BaseContext) -> None:
        self._seconds = context.Value("d", 0.0)

    def now(self) -> float:
        """Return the seconds that have been advanced."""
        return self._seconds.value

    def advance(self, seconds: float) -> None:
        """Advance the clock by `seconds`."""
        with self._seconds.get_lock():
            self._seconds.value += seconds
