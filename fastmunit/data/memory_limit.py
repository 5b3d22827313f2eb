"""How much memory there is, so that sizes that cannot fit are refused before they are tried."""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from pathlib import Path

# Where Linux says how much memory the control group of a container may use.
_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@functools.cache
def total_memory() -> int | None:
    """Return the bytes of memory of this machine, or of its container where that has less; None if not known."""
    limits = []
    for path in _GROUP_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    with suppress(AttributeError, OSError, ValueError):  # other systems
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits) if limits else None


def memory_excess(wanted: int) -> str | None:
    """Return what is wrong with needing `wanted` bytes at once, or None where they fit into this machine's memory."""
    total = total_memory()
    if total is None or wanted <= total:
        return None
    return f"{wanted / 1e9:,.0f} GB of memory, and this machine has {total / 1e9:,.0f}"
