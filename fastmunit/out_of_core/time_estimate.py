"""The time of a translation out of core, from short measurements before it begins."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from fastmunit.out_of_core.disk import existing
from fastmunit.out_of_core.drawn import Drawn
from fastmunit.out_of_core.maps import Map
from fastmunit.out_of_core.moments import Moments, moments_of
from fastmunit.out_of_core.placement import Placement
from fastmunit.out_of_core.schedule import Pass
from fastmunit.out_of_core.tiling import middle_tile, relative_work
from fastmunit.region import Region

_SIDE = 96
"""Pixels of the sides of the tile that is measured: a few milliseconds of arithmetic per layer."""

_FILE_BYTES = 1 << 24


def estimated_seconds(passes: Sequence[Pass], placement: Placement, folder: Path, device: torch.device) -> float:
    """Return about how many seconds the passes take.

    One small tile of each pass is computed twice, from constant values instead of stored maps, and a file of 16 MiB is
    written to the disk and read again. Both are scaled to the whole image: arithmetic by the work of the tiles with
    their halos, files by the bytes that are written and read. How outputs are encoded is not included.

    Args:
        passes: The passes.
        placement: Where maps are stored, and the sizes of tiles.
        folder: The scratch folder, which need not exist yet.
        device: Device of the networks.
    """
    computing = sum(_computing_seconds(step, placement.tiles[step], device) for step in passes if _is_computed(step))
    written, read = _traffic(passes, placement)
    write_rate, read_rate = _disk_rates(existing(folder)) if written or read else (1.0, 1.0)
    return computing + written / write_rate + read / read_rate


def in_words(seconds: float) -> str:
    """Return a time with one or two digits, such as "about 8 min"."""
    for size, unit in ((172_800, "days"), (5400, "h"), (90, "min")):
        if seconds >= size:
            amount = seconds / {"days": 86_400, "h": 3600, "min": 60}[unit]
            return f"about {amount:.0f} {unit}" if amount >= 10 else f"about {amount:.1f} {unit}"
    return f"about {max(1, round(seconds))} s"


def _is_computed(step: Pass) -> bool:
    return not isinstance(step.target, Drawn)


def _computing_seconds(step: Pass, tile: tuple[int, int], device: torch.device) -> float:
    """Return the time of the arithmetic of a pass."""
    small = min(tile[0], _SIDE), min(tile[1], _SIDE)
    region = middle_tile(step, *small)
    times = []
    with _known_statistics(step):
        for _ in range(2):  # libraries compile kernels in the first
            begin = time.perf_counter()
            values = _computed(step, step.target, region, device)
            if step.reduction is not None:
                moments_of(values)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
    per_work = min(times) / (relative_work(step, *small) * region.height * region.width)
    return per_work * relative_work(step, *tile) * step.extent.height * step.extent.width


def _computed(step: Pass, x: Map, region: Region, device: torch.device) -> Tensor:
    if x in step.reads:
        shape = (1, x.channels, region.height, region.width)
        return torch.empty(shape, dtype=x.dtype, device=device, memory_format=torch.channels_last).fill_(0.5)
    inputs = [_computed(step, source, part, device) for source, part in zip(x.inputs, x.needs(region), strict=True)]
    return x.compute(region, inputs)


@contextmanager
def _known_statistics(step: Pass) -> Iterator[None]:
    """Give the norms of a pass statistics, as none are known before it runs."""
    unknown = [r for x in step.computed() for r in x.reductions if r.moments is None]
    for reduction in unknown:
        channels = reduction.source.channels
        zeros, ones = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
        reduction.moments = Moments(2, zeros, ones)
    try:
        yield
    finally:
        for reduction in unknown:
            reduction.moments = None


def _traffic(passes: Sequence[Pass], placement: Placement) -> tuple[float, float]:
    """Return the bytes that are written to and read from files."""
    written = read = 0.0
    for step in passes:
        written += sum(x.bytes_of(x.whole) for x in step.written if x not in placement.in_memory)
        if _is_computed(step):
            region = middle_tile(step, *placement.tiles[step])
            count = step.extent.height * step.extent.width / (region.height * region.width)
            read += count * sum(
                x.bytes_of(part) for x, part in _reads(step, step.target, region) if x not in placement.in_memory
            )
    return written, read


def _reads(step: Pass, x: Map, region: Region) -> Iterator[tuple[Map, Region]]:
    """Yield the stored maps that a region is computed from, with the region of each that is read."""
    if x in step.reads:
        yield x, region
        return
    for source, part in zip(x.inputs, x.needs(region), strict=True):
        yield from _reads(step, source, part)


def _disk_rates(folder: Path) -> tuple[float, float]:
    """Return the bytes per second that a disk writes and reads, without the system's cache where it can be avoided."""
    block = os.urandom(1 << 20)
    rates = [float("inf"), float("inf")]
    # An error of this disk is reported when maps are written.
    with suppress(OSError), tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        begin = time.perf_counter()
        for _ in range(_FILE_BYTES // len(block)):
            file.write(block)
        os.fsync(file.fileno())
        rates[0] = _FILE_BYTES / (time.perf_counter() - begin)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begin = time.perf_counter()
        while file.read(len(block)):
            pass
        rates[1] = _FILE_BYTES / (time.perf_counter() - begin)
    return rates[0], rates[1]
