"""The levels of a pyramid in a TIFF file: SubIFDs of its pages, or pages of their own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from fastmunit.image_files.tiff_structure import Tag, TiffStructure

MASK = 4
"""Bit of NewSubfileType."""
_TILE_WIDTH = 322
_BITS, _SAMPLES, _SAMPLE_FORMAT = 258, 277, 339
_ROUNDING = 1  # writers round the sizes of levels up or down


class Place(NamedTuple):
    """The place of a page of a level: a page of the file, or one of the SubIFDs of a page."""

    page: int
    level: int | None

    @property
    def key(self) -> tuple[int, int]:
        """Numbers that no other place has."""
        return self.page, -1 if self.level is None else self.level

    def tags(self, structure: TiffStructure) -> dict[int, Tag]:
        """Return the tags of the page."""
        page = structure.pages[self.page]
        return page.tags if self.level is None else page.levels[self.level]

    def __str__(self) -> str:
        return f"page {self.page + 1}" + ("" if self.level is None else f", level {self.level + 1},")


Level = tuple[tuple[int, int], dict[int, Place]]
"""The size (height, width) of a level, and the place of each of its pages by the number of the full one."""


def found_levels(structure: TiffStructure, used: Mapping[int, int], image: set[int], only_tiled: bool) -> list[Level]:
    """Return the smaller levels of an image.

    A level has a page for each page of the image, with the type and shape of the image. Masks, labels and thumbnails
    of another shape are no levels.

    Args:
        structure: The directories of the file.
        used: Index of the directory of each page of the image, by its number.
        image: Indices of all directories that have the full size.
        only_tiled: True if pages in strips are no levels, as in slides of Aperio.
    """
    if not used:
        return []
    first = structure.pages[next(iter(used.values()))]
    candidates = [
        {number: Place(page, level) for number, page in used.items() if level < len(structure.pages[page].levels)}
        for level in range(len(first.levels))
    ]
    others = (Place(index, None) for index in range(len(structure.pages)) if index not in image)
    others = (place for place in others if not only_tiled or _TILE_WIDTH in place.tags(structure))
    for _, same in itertools.groupby(others, lambda place: _size(structure, place.tags(structure))):
        candidates.append(dict(zip(used, same, strict=False)))
    full = _size(structure, first.tags)
    levels: list[Level] = []
    for places in candidates:
        tags = [place.tags(structure) for place in places.values()]
        sizes = {_size(structure, each) for each in tags}
        if len(places) < len(used) or len(sizes) != 1:
            continue
        (size,) = sizes
        previous = levels[-1][0] if levels else full
        fits = min(size) > 0 and size[0] < previous[0] and size[1] < previous[1] and _is_scaled(size, full)
        typed = all(same_type(structure, each, first.tags) for each in tags)
        if fits and typed and not any(structure.integer(each, 254, 0) & MASK for each in tags):
            levels.append((size, places))
    return levels


def same_type(structure: TiffStructure, tags: dict[int, Tag], others: dict[int, Tag]) -> bool:
    """Return True if two pages have equal numbers of bits and samples, and equal formats of samples."""
    one, other = (
        [structure.integer(found, code, 1) for code in (_BITS, _SAMPLES, _SAMPLE_FORMAT)] for found in (tags, others)
    )
    return one == other


def _size(structure: TiffStructure, tags: dict[int, Tag]) -> tuple[int, int]:
    return structure.integer(tags, 257, 0), structure.integer(tags, 256, 0)


def _is_scaled(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Return True if a size is a scaled full size, up to the rounding of sizes."""
    (height, width), (full_height, full_width) = size, full
    return full_height * (width - _ROUNDING) < full_width * (height + _ROUNDING) and full_width * (
        height - _ROUNDING
    ) < full_height * (width + _ROUNDING)
