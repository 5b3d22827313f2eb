"""Ctrl-C on the command line: one line and exit status 130, at any moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit status of a process that Ctrl-C ended."""

_as_exception = False


def install() -> bool:
    """Handle SIGINT and return True. In other threads, or if SIGINT is ignored or handled, return False."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, _handle)
    return True


def uninstall() -> None:
    """Restore Python's own handling of SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def as_exception() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt in this context, so that unfinished files can be cleaned up."""
    global _as_exception
    before, _as_exception = _as_exception, True
    try:
        yield
    finally:
        _as_exception = before


def _handle(_number: int, frame: FrameType | None) -> None:
    if _as_exception and not _importing(frame):
        raise KeyboardInterrupt
    _end()


def _importing(frame: FrameType | None) -> bool:
    """Return True during an import: extension modules swallow exceptions there, or replace them."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end() -> NoReturn:
    with suppress(Exception):  # the process ends even if standard output is broken
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, b"\ninterrupted\n")
    os._exit(INTERRUPTED)
