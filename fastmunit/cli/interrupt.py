"""Ctrl-C on the command line: one line and exit status 130, at whatever moment it comes."""

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
    """Handle SIGINT from here on; return whether that is so (not in other threads, nor where it is ignored)."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, _handle)
    return True


def uninstall() -> None:
    """Leave SIGINT to Python again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def as_exception() -> Iterator[None]:
    """Context in which Ctrl-C raises KeyboardInterrupt, so that what is being written can be cleaned up."""
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
    """Whether a module is being imported: extension modules swallow an exception there, or turn it into another."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end() -> NoReturn:
    with suppress(Exception):  # whatever is wrong with stdout, the process ends
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, b"\ninterrupted\n")
    os._exit(INTERRUPTED)
