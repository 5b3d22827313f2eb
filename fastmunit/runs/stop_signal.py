"""Handling of Ctrl-C and SIGTERM: a run stops after the current iteration instead of being killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from fastmunit import distributed

_SECONDS_OF_ONE_STOP = 5.0


class StopSignal:
    """A context in which the first SIGINT or SIGTERM only sets `received`. A second one interrupts at once.

    A process that torchrun has started receives Ctrl-C twice, from the terminal and from torchrun: a second signal
    within a few seconds counts as the same one. Outside the main thread, where Python allows no signal handlers, the
    context does nothing.

    Attributes:
        received: Name of the signal, or None.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}
        self._process = os.getpid()
        self._received_at = 0.0

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked data worker inherits this handler. Ctrl-C reaches the whole process group, and the parent still
            # needs its workers to end the iteration; SIGTERM is how the parent ends them.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        if self.received is None:
            self.received, self._received_at = signal.Signals(number).name, time.monotonic()
            if not distributed.launched():
                self._restore()
        elif time.monotonic() - self._received_at >= _SECONDS_OF_ONE_STOP:
            self._restore()
            signal.raise_signal(number)
