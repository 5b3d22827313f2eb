"""The clock that deadlines are read from: the wall's, or one that only tests and dry runs move."""

import time
from multiprocessing.context import BaseContext
from typing import Protocol


class Clock(Protocol):
    """Seconds, the same in all processes of a run."""

    def now(self) -> float:
        """Return the seconds since some fixed moment."""

    def advance(self, seconds: float) -> None:
        """Let time pass where it does not pass by itself."""


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Return the seconds since some fixed moment; the same one in all processes."""
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        """Do nothing: time has passed by itself."""


class FakeClock:
    """Time that passes where `advance` says so, shared by the processes of `context`."""

    def __init__(self, context: BaseContext) -> None:
        self._seconds = context.Value("d", 0.0)

    def now(self) -> float:
        """Return the seconds that have been advanced."""
        return self._seconds.value

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        with self._seconds.get_lock():
            self._seconds.value += seconds
