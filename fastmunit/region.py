"""Rectangles of pixels."""

from __future__ import annotations

from typing import NamedTuple


class Region(NamedTuple):
    """A rectangle of an image or map, in pixels.

    Attributes:
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.

    Example:
        >>> from fastmunit.region import Region
        >>> region = Region(top=2, left=0, height=3, width=8)
        >>> region.bottom, region.slices
        (5, (slice(2, 5, None), slice(0, 8, None)))
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The row after the last one."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The column after the last one."""
        return self.left + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of the region in the last two dimensions of an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)
