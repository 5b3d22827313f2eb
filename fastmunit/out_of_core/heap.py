"""The memory that the C library keeps after tiles were freed."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def return_freed_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    It keeps blocks of less than 32 MB otherwise, and tiles of many sizes leave gaps that add up to several tiles.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # there is no C library to open by this name, as on Windows
        return None
