"""The memory of this machine, to refuse sizes that cannot fit before they are allocated."""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from pathlib import Path

# Files in which Linux states the memory limit of the control group of a container.
_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@functools.cache
def total_memory() -> int | None:
    """Return the bytes of memory of this machine, or of its container if that is less; None if unknown."""
    limits = []
    for path in _GROUP_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    with suppress(AttributeError, OSError, ValueError):  # other systems
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits) if limits else None


def memory_excess(needed: int) -> str | None:
    """Return a message if `needed` bytes do not fit in the memory of this machine, or None if they do."""
    total = total_memory()
    if total is None or needed <= total:
        return None
    return f"{needed / 1e9:,.0f} GB of memory, and this machine has {total / 1e9:,.0f}"
