"""The choice of maps that are kept in memory, and the disk space and tile sizes of a schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastmunit.errors import FastmunitError
from fastmunit.out_of_core.drawn import Drawn
from fastmunit.out_of_core.maps import Map
from fastmunit.out_of_core.schedule import Pass
from fastmunit.out_of_core.tiling import peak_bytes, relative_work, tile_size, tiles_of

_SHARE_OF_MAPS = 0.5
"""Part of the memory that maps may take; the rest is for tiles."""

_MARGIN = 2.5
"""Tiles take up to this many times what is computed: convolutions copy them to other layouts, and allocators leave
gaps."""

_SMALLEST_TILE = 16


@dataclass(frozen=True)
class Limits:
    """The memory of a translation.

    Attributes:
        memory: Bytes of memory that may be taken.
        reserved: Bytes of these that are not for maps and tiles.
        tile: Height and width of all tiles, instead of those that fit in the memory.
    """

    memory: int
    reserved: int = 0
    tile: tuple[int, int] | None = None


@dataclass(frozen=True)
class Placement:
    """The places where maps are stored, and the tiles in which they are computed.

    Attributes:
        in_memory: Maps that are kept in memory. The others are on disk.
        tiles: Height and width of the tiles of each pass.
        disk_bytes: The most bytes that are on disk at a time.
        tile_count: Number of tiles of all passes.
        memory_bytes: Bytes of memory at the peak, as estimated.
        work: Values that are read and computed, with halos. A convolution counts more.
    """

    in_memory: frozenset[Map]
    tiles: dict[Pass, tuple[int, int]]
    disk_bytes: int
    tile_count: int
    memory_bytes: int
    work: float


def place(passes: Sequence[Pass], limits: Limits) -> Placement:
    """Return where the maps of a schedule are stored, and the sizes of tiles.

    Args:
        passes: The passes.
        limits: The memory.

    Raises:
        FastmunitError: If not even small tiles fit.
    """
    lifetimes = _lifetimes(passes)
    share = max(0, int((limits.memory - limits.reserved) * _SHARE_OF_MAPS))
    in_memory, held = _in_memory(lifetimes, len(passes), share)
    held += limits.reserved
    free = int((limits.memory - held) / _MARGIN)
    tiles, peak = {}, 0
    for step in passes:
        if isinstance(step.target, Drawn):
            continue
        size = limits.tile or tile_size(step, free)
        if size is None:
            raise FastmunitError(
                f"{limits.memory / 1e6:,.1f} MB of memory are too little for a tile of {step.name}: raise --memory to "
                f"{_enough(passes, limits) / 1e6:,.1f} MB."
            )
        tiles[step] = size
        peak = max(peak, peak_bytes(step, *size))
    on_disk = [(x, span) for x, span in lifetimes.items() if x not in in_memory]
    disk = max((sum(_bytes(x) for x, (a, b) in on_disk if a <= k <= b) for k in range(len(passes))), default=0)
    count = sum(len(list(tiles_of(step.extent, *size))) for step, size in tiles.items())
    work = sum(relative_work(step, *size) * step.extent.height * step.extent.width for step, size in tiles.items())
    return Placement(frozenset(in_memory), tiles, disk, count, int(held + _MARGIN * peak), work)


def _enough(passes: Sequence[Pass], limits: Limits) -> int:
    """Return bytes of memory that the smallest tiles of all passes fit in, whatever maps are in memory."""
    peak = 0
    for step in passes:
        if not isinstance(step.target, Drawn):
            small = min(_SMALLEST_TILE, step.extent.height), min(_SMALLEST_TILE, step.extent.width)
            peak = max(peak, peak_bytes(step, *small))
    enough = limits.reserved + _MARGIN * peak / (1 - _SHARE_OF_MAPS)
    return math.ceil(enough / 100_000 + 1) * 100_000  # as it is shown


def _lifetimes(passes: Sequence[Pass]) -> dict[Map, tuple[int, int]]:
    """Return the first and the last pass during which each map is stored."""
    first = {x: number for number, step in enumerate(passes) for x in step.written}
    last = {x: number for number, step in enumerate(passes) for x in step.removes}
    return {x: (number, last[x]) for x, number in first.items()}


def _in_memory(lifetimes: dict[Map, tuple[int, int]], count: int, share: int) -> tuple[list[Map], int]:
    """Return the maps that fit in a share of the memory, in order, and the bytes that they take at the peak."""
    used, chosen = [0] * count, []
    for x, (first, last) in lifetimes.items():
        size = _bytes(x)
        if max(used[first : last + 1]) + size <= share:
            chosen.append(x)
            for number in range(first, last + 1):
                used[number] += size
    return chosen, max(used, default=0)


def _bytes(x: Map) -> int:
    return x.bytes_of(x.whole)
