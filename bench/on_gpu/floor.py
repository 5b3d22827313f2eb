"""The first stage: the device, and the lower bound T = a + bytes / b of the time of any kernel."""

import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from bench.harness import copy_of
from bench.on_gpu.stage import Context, Row, Task
from bench.on_gpu.timer import Launches
from fastmunit import info

SIZES = tuple(2**k for k in range(18, 29))
"""Bytes that a copy moves: 256 KiB to 256 MiB."""
_DRY_SIZES = (2**12, 2**13, 2**14)

_PROPERTIES = (
    "name", "major", "minor", "multi_processor_count", "total_memory", "L2_cache_size", "regs_per_multiprocessor",
    "shared_memory_per_multiprocessor", "shared_memory_per_block_optin", "clock_rate", "memory_clock_rate",
    "memory_bus_width",
)  # fmt: skip
_CLOCKS = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")


def tasks(context: Context) -> Sequence[Task]:
    """Return the tasks: properties of the device and the lower bound."""
    return [
        Task("device", partial(_device, context)),
        Task("floor line", partial(_floor, context)),
        clocks_task(context, "clocks under load"),
    ]


def clocks_task(context: Context, name: str) -> Task:
    """Return a task that reads the clocks without changing them."""
    return Task(name, lambda: [_clocks(context)])


def _device(context: Context) -> Iterator[Row]:
    yield {"date": time.strftime("%Y-%m-%d", time.gmtime())}
    yield {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if not context.dry_run:
        properties = torch.cuda.get_device_properties(0)
        yield {name: getattr(properties, name) for name in _PROPERTIES if hasattr(properties, name)}
        yield {"cudnn": torch.backends.cudnn.version()}
    yield {"installation": info.report().splitlines()}
    yield _clocks(context)


def _clocks(context: Context) -> Row:
    """Return the clocks that nvidia-smi reports, or the reason why there are none."""
    if context.dry_run:
        return {"status": "skipped", "reason": "a dry run has no device"}
    command = ["nvidia-smi", f"--query-gpu={','.join(_CLOCKS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"status": "failed", "reason": str(error)}
    return dict(zip(_CLOCKS, (value.strip() for value in run.stdout.split(",")), strict=False))


def _floor(context: Context) -> Iterator[Row]:
    """Time a null kernel, a memcpy node and a copying kernel at several sizes; yield the times and the fitted lines."""
    one = torch.zeros(1, device=context.device)
    yield _point(context, "null kernel", 0, lambda _: lambda: one.add_(1))
    points = []
    for size in _DRY_SIZES if context.dry_run else SIZES:
        for kind, make in (("memcpy node", copy_of), ("copying kernel", partial(_copying_kernel, context.device))):
            points.append(_point(context, kind, size, make))
            yield points[-1]
    for kind in ("memcpy node", "copying kernel"):
        of_kind = [point for point in points if point["kind"] == kind]
        for column in ("us_cold", "us_flushed"):  # warm times have a step at the size of the cache
            yield {"kind": f"{kind}, fitted", "column": column, **fit_line(of_kind, column)}


def _copying_kernel(device: str, bytes_moved: int) -> Callable[[], object]:
    """Return a call of a torch kernel that reads half of the bytes and writes the other half."""
    source = torch.ones(bytes_moved // 8, device=device)
    target = torch.empty_like(source)
    return lambda: torch.neg(source, out=target)


def _point(context: Context, kind: str, size: int, make: Callable[[int], Callable[[], object]]) -> Row:
    work = Launches([make(size) for _ in range(context.timer.sets(size) if size else 1)], size)
    times = context.timer.times({kind: work})[kind]
    flushed = context.timer.flushed(work)
    return {
        "kind": kind,
        "bytes_moved": size,
        "us_cold": times.cold * 1e6,
        "us_flushed": flushed * 1e6,
        "us_warm": times.warm * 1e6,
    }


def fit_line(points: Sequence[Row], column: str) -> Row:
    """Fit the line T = a + bytes / b to the times in `column`, minimizing the squares of relative errors."""
    sizes = np.array([point["bytes_moved"] for point in points], dtype=float)
    times = np.array([point[column] for point in points], dtype=float)
    equations = np.stack([1 / times, sizes / times], axis=1)
    (fixed, slope), *_ = np.linalg.lstsq(equations, np.ones_like(times), rcond=None)
    errors = (fixed + slope * sizes) / times - 1
    # Converts microseconds per byte to terabytes per second. Copies of equal time fit no bandwidth.
    return {
        "fixed_us": float(fixed),
        "terabytes_per_second": float(1e-6 / slope) if slope > 0 else None,
        "largest_relative_error": float(np.abs(errors).max()),
    }
