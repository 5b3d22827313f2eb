"""An index of the regions of slides and volumes that show enough foreground to train on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data.paths import Domain
from fastmunit.data.readers import DomainReader, file_state
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.region import Region

TOLERANCE = 0.1
"""Distance from the background, as a part of the value range, up to which a pixel is background in every channel."""
MIN_SHARE = 0.1
"""`auto`: an end of the value range is background if this share of the pixels of a file is near it."""
_PROBES = 32
"""Rows and columns of pixels of a region that are looked at, evenly spaced."""


class Span(NamedTuple):
    """The positions of a crop in one direction that belong to a cell."""

    first: int
    positions: int


class Cell(NamedTuple):
    """A part of the possible crops of a slice. Each crop belongs to one cell.

    Attributes:
        plane: Index of the slice.
        rows: Positions of the crop's first row.
        columns: Positions of the crop's first column.
    """

    plane: int
    rows: Span
    columns: Span


@dataclass(frozen=True)
class Rule:
    """The rule by which regions are usable. See `Config`: background_a, min_foreground."""

    background: float | Literal["auto", "none"]
    min_foreground: float

    @classmethod
    def of(cls, config: Config, domain: Domain) -> Rule:
        """Return the rule of a domain."""
        return cls(getattr(config, f"background_{domain}"), config.min_foreground)


@dataclass(frozen=True)
class Index:
    """The usable cells of a file.

    Attributes:
        cells: The cells, by slice, row and column.
        total: Number of cells, usable or not.
    """

    cells: tuple[Cell, ...]
    total: int


class Request(NamedTuple):
    """A file whose usable cells are looked for.

    Attributes:
        path: File of one of the formats in `image_files`.
        channels: Channels of an image.
        values: How pixels are read.
        crop: (height, width) of a crop, or None for whole slices, which are one cell each.
        rule: Which cells are usable.
    """

    path: str
    channels: int
    values: PixelValues
    crop: tuple[int, int] | None
    rule: Rule


_Shares = tuple[float, float, float]
_Work = list[tuple[Request, Cell]]

# Data are checked and then loaded, and the files must be looked at once. A file that has changed is another one.
_known: dict[tuple[Request, tuple[int, int]], Index] = {}


def usable_cells(request: Request) -> Index:
    """Divide the crops of a file into cells of about the size of a crop, and return those with enough foreground.

    The crop in the middle of a cell decides. A pixel is background if all its channels differ from the background by at
    most `TOLERANCE` of the value range. `auto` is the low or the high end of the range, whichever more pixels of the
    file are near, if these are `MIN_SHARE` of them; otherwise nothing is background. Pixels without data are never
    foreground. The smallest level of a pyramid is read in which a crop has `_PROBES` rows and columns.

    Raises:
        DataError: If the file cannot be read, or is smaller than the crop.
    """
    _index([request], lambda work: [_shares(*item) for item in work])
    return _known[_key(request)]


def index_together(
    requests: Sequence[Request], progress: Callable[[int, int], object] = lambda done, total: None
) -> None:
    """Find the usable cells of files, which `usable_cells` then returns at once. The processes of a run share the work.

    Args:
        requests: The files. Those that are known are not read again.
        progress: Called with the number of cells that this process has looked at, and the number that it will.

    Raises:
        DataError: If a file cannot be read, or is smaller than the crop.
        ConfigError: If the processes do not see the same files.
        RankError: If another process fails.
    """

    def shared(work: _Work) -> list[_Shares]:
        distributed.require_same({"number of regions": len(work)})
        total, done = len(distributed.block(len(work))), 0

        def counted(item: tuple[Request, Cell]) -> _Shares:
            nonlocal done
            found = _shares(*item)
            done += 1
            progress(done, total)
            return found

        return distributed.each(counted, work)

    _index(requests, shared)


def middle(cell: Cell, crop: tuple[int, int]) -> Region:
    """Return the crop in the middle of a cell."""
    top, left = (span.first + span.positions // 2 for span in (cell.rows, cell.columns))
    return Region(top, left, *crop)


def _key(request: Request) -> tuple[Request, tuple[int, int]]:
    return request, file_state(request.path)


def _index(requests: Sequence[Request], shares_of: Callable[[_Work], list[_Shares]]) -> None:
    """Add the usable cells of files to those that are known, after looking at all cells that must be looked at."""
    grids = {key: _grid(key[0]) for key in map(_key, dict.fromkeys(requests)) if key not in _known}
    read = {key for key in grids if _is_read(key[0])}
    shares = iter(shares_of([(key[0], cell) for key, grid in grids.items() if key in read for cell in grid]))
    for key, grid in grids.items():
        found = np.array(list(itertools.islice(shares, len(grid)))) if key in read else None
        usable = grid if found is None else _usable(grid, found, key[0].rule)
        _known[key] = Index(tuple(usable), len(grid))


def _grid(request: Request) -> list[Cell]:
    reader = _source(request).reader
    height, width = (reader.height, reader.width) if request.crop is None else request.crop
    return [
        Cell(plane, rows, columns)
        for plane in range(reader.planes)
        for rows in _spans(reader.height, height)
        for columns in _spans(reader.width, width)
    ]


def _is_read(request: Request) -> bool:
    """Return False if all cells are usable, whatever they hold."""
    source = _source(request)
    return request.rule.background != "none" or source.nodata is not None or source.reader.dtype.kind == "f"


def _usable(grid: Sequence[Cell], shares: np.ndarray, rule: Rule) -> list[Cell]:
    if rule.background == "auto":
        totals = shares[:, 1:].mean(axis=0)
        near = 1 + int(np.argmax(totals))
        background = shares[:, near] if totals[near - 1] >= MIN_SHARE else np.zeros(len(grid))
    else:
        background = shares[:, 1]
    foreground = 1 - shares[:, 0] - background
    return [cell for cell, share in zip(grid, foreground, strict=True) if share >= rule.min_foreground and share > 0]


def _source(request: Request) -> DomainReader:
    return DomainReader(request.path, request.channels, request.values)


def _spans(length: int, crop: int) -> list[Span]:
    """Divide the positions of a crop into as many equal spans as crops fit."""
    positions = length - crop + 1
    count = max(1, length // crop)
    starts = [number * positions // count for number in range(count + 1)]
    return [Span(start, end - start) for start, end in itertools.pairwise(starts) if end > start]


def _in_smallest_level(levels: Sequence[tuple[int, int]], region: Region) -> tuple[int, Region]:
    """Return the smallest level in which a region has `_PROBES` rows and columns, and the region in its pixels."""
    full_height, full_width = levels[0]
    for level in range(len(levels) - 1, 0, -1):
        height, width = levels[level]
        rows, columns = round(region.height * height / full_height), round(region.width * width / full_width)
        if min(rows, columns) >= _PROBES:
            top = min(region.top * height // full_height, height - rows)
            left = min(region.left * width // full_width, width - columns)
            return level, Region(top, left, rows, columns)
    return 0, region


def _shares(request: Request, cell: Cell) -> _Shares:
    """Return the shares of pixels without data, near the low end (or the background), and near the high end."""
    source, values, rule = _source(request), request.values, request.rule
    region = middle(cell, request.crop or (source.reader.height, source.reader.width))
    level, region = _in_smallest_level(source.reader.levels, region)
    steps = [max(1, size // _PROBES) for size in (region.height, region.width)]
    pixels = source.reader.read(region, cell.plane, level)[:, :: steps[0], :: steps[1]]
    if rule.background == "none":  # needs no value range, which `auto` has not found yet
        missing = ValueRange(0.0, 1.0, nodata=source.nodata).missing(pixels).all(axis=0)
        return float(missing.mean()), 0.0, 0.0
    mapping = values.range_of(pixels.dtype, source.nodata, str(source.reader.path))
    missing = mapping.missing(pixels).all(axis=0)
    unit = mapping.to_unit(pixels).numpy()
    if isinstance(rule.background, str):
        ends = np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
    else:
        color = mapping.to_unit(np.full((len(pixels), 1, 1), rule.background)).numpy()
        ends = color, color
    low, high = ((np.abs(unit - end) <= TOLERANCE).all(axis=0) & ~missing for end in ends)
    return float(missing.mean()), float(low.mean()), float(high.mean())
