"""A contact sheet of images and their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastmunit.data.transforms import scaled
from fastmunit.runs.reports.image_grid import grid, save

_MAX_ROWS, _MAX_COLUMNS, _CELL = 40, 20, 256


class OutputSheet:
    """A contact sheet with a row for each image and its outputs, up to a maximum number of rows and columns.

    Args:
        references: Reference images (C', H, W) for the first row, or none.
    """

    def __init__(self, references: Sequence[Tensor] = ()) -> None:
        self._rows: list[list[Tensor]] = []
        if references:
            cells = [_cell(image) for image in references[:_MAX_COLUMNS]]
            self._rows.append([torch.ones_like(cells[0]), *cells])

    def add(self, image: Tensor, outputs: Sequence[Tensor]) -> None:
        """Add a row if the sheet is not full."""
        if len(self._rows) < _MAX_ROWS:
            self._rows.append([_cell(x) for x in (image, *outputs[:_MAX_COLUMNS])])

    def save(self, path: Path) -> None:
        """Write the sheet."""
        save(grid(self._rows), path)


def resized(image: Tensor, size: int | None) -> Tensor:
    """Return an image with its shortest side resized to `size`. None keeps the size."""
    if size is None:
        return image
    return scaled(image, [size]).clamp(-1, 1)


def _cell(image: Tensor) -> Tensor:
    """Return an image that fits into a cell of the sheet."""
    height, width = image.shape[1:]
    scale = _CELL / max(height, width)
    if scale >= 1:
        return image
    shape = [max(1, round(height * scale)), max(1, round(width * scale))]
    return scaled(image, shape).clamp(-1, 1)
