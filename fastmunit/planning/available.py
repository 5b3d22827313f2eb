"""The memory that a training may use, and that this process uses."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import torch

from fastmunit.data.memory_limit import total_memory
from fastmunit.errors import FastmunitError

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]i?b)", re.IGNORECASE)
# Files in which Linux states what the control group of a container may use and uses, in its versions 2 and 1.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as "8GB" (10^9 bytes each) or "512MiB" (2^20 bytes each).

    Raises:
        ValueError: If the text is not a positive size.
    """
    match = _SIZE.fullmatch(text.strip())
    size = 0 if match is None else int(float(match[1]) * _UNITS[match[2].lower()])
    if size <= 0:
        raise ValueError("expected a size such as 8GB, 11.5GB or 512MiB")
    return size


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device; on the CPU those that programs can get without swapping.

    Raises:
        FastmunitError: If the device or the operating system does not tell.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    if device.type == "cpu":
        free = _free_on_cpu()
    if free is None:
        raise FastmunitError(f"how much memory is free on device {device} is not known: give --memory, such as 8GB.")
    return free


def resident_memory() -> int:
    """Return the bytes of memory of this process, with its libraries; 0 if the operating system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _free_on_cpu() -> int | None:
    found = [total_memory()]
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, usage in _GROUPS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            found.append(int(limit.read_text()) - int(usage.read_text()))
    known = [free for free in found if free is not None]
    return min(known) if known else None
