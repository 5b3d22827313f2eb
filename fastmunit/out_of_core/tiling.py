"""The size of tiles that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

from fastmunit.out_of_core.maps import Map
from fastmunit.out_of_core.schedule import Pass
from fastmunit.region import Region

_ALIGNMENT = 16
_MAX_COLUMNS = 64


def tiles_of(extent: Region, height: int, width: int) -> Iterator[Region]:
    """Yield the tiles of a region, row after row."""
    for top in range(extent.top, extent.bottom, height):
        for left in range(extent.left, extent.right, width):
            yield Region(top, left, min(height, extent.bottom - top), min(width, extent.right - left))


def tile_size(step: Pass, memory: int) -> tuple[int, int] | None:
    """Return height and width of the tiles of a pass, or None if not even the smallest tile fits.

    Of the tiles that fit, those with the smallest halos are used: the highest bands of whole rows, unless narrower
    tiles read less around them.

    Args:
        step: The pass.
        memory: Bytes that a tile may take.
    """
    best: tuple[float, int, int] | None = None
    columns = 1
    while columns <= _MAX_COLUMNS:
        width = _aligned(-(-step.extent.width // columns), step.extent.width)
        height = _highest(step, width, memory)
        if height:
            work = relative_work(step, height, width)
            if best is None or work < best[0]:
                best = work, height, width
        if width <= _ALIGNMENT:
            break
        columns *= 2
    return None if best is None else best[1:]


def peak_bytes(step: Pass, height: int, width: int) -> int:
    """Return the bytes of memory that a tile of this size takes at the peak of a pass."""
    region = middle_tile(step, height, width)
    size = step.target.bytes_of(region)
    # A stored tile that is not contiguous is copied; an output is converted to float32.
    copies = 4 * size // step.target.dtype.itemsize if step.sinks else size if step.stores else 0
    return max(_peak(step, step.target, region), size + copies)


def middle_tile(step: Pass, height: int, width: int) -> Region:
    """Return a tile in the middle of a pass, which has halos on all sides."""
    extent = step.extent
    top = extent.top + max(0, (extent.height - height) // 2)
    left = extent.left + max(0, (extent.width - width) // 2)
    return Region(top, left, min(height, extent.height), min(width, extent.width))


def _peak(step: Pass, x: Map, region: Region) -> int:
    if x in step.reads:
        return x.bytes_of(region)
    held, peak = 0, 0
    for source, needed in zip(x.inputs, x.needs(region), strict=True):
        peak = max(peak, held + _peak(step, source, needed))
        held += source.bytes_of(needed)
    return max(peak, x.working_bytes(region, held))


def _highest(step: Pass, width: int, memory: int) -> int:
    """Return the height of the highest tiles of a width that fit; 0 if none do."""
    limit = step.extent.height
    if peak_bytes(step, limit, width) <= memory:
        return limit
    low, high = 0, -(-limit // _ALIGNMENT)  # in units of the alignment; `high` does not fit
    while high - low > 1:
        middle = (low + high) // 2
        if peak_bytes(step, middle * _ALIGNMENT, width) <= memory:
            low = middle
        else:
            high = middle
    return low * _ALIGNMENT


def _aligned(size: int, limit: int) -> int:
    return min(limit, -(-size // _ALIGNMENT) * _ALIGNMENT)


def relative_work(step: Pass, height: int, width: int) -> float:
    """Return the values that a tile reads and computes, per pixel of the tile. A convolution counts more."""
    region = middle_tile(step, height, width)

    def work(x: Map, part: Region) -> float:
        pixels = part.height * part.width * x.channels
        if x in step.reads:
            return float(pixels)
        needed = zip(x.inputs, x.needs(part), strict=True)
        return pixels * (1 + x.products / 16) + sum(work(source, inner) for source, inner in needed)

    return work(step.target, region) / (region.height * region.width)
