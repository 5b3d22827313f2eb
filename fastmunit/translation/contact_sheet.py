"""Contact sheets with labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastmunit.data.transforms import scaled
from fastmunit.data.values import ImageLike, image_tensor
from fastmunit.runs.reports.image_grid import grid, to_pil

_GAP, _FONT, _MARGIN = 2, 13, 8
_GROUND, _INK = 255, (40, 44, 52)
_EMPTY = torch.ones(3, 1, 1)
MAX_CELL = 192
"""Longest side of a picture in a `labeled_sheet`, in pixels."""


def contact_sheet(
    rows: Sequence[Iterable[ImageLike | None]],
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    *,
    side: int = 128,
) -> Image.Image:
    """Lay out images and translations in one picture, to look at in a notebook or to save.

    Args:
        rows: The images of each row, in the forms that `fastmunit.translate` takes; a tensor (N, C, H, W) is a row of
            N images. None leaves a cell empty, and rows may have different lengths.
        columns: Labels above the columns, or none. One that is wider than its column is cut off.
        names: Labels to the left of the rows, or none.
        side: Longest side of every image in the picture, in pixels.

    Raises:
        DataError: If a file or a PIL image cannot be read.
        TypeError: If an image has another type.
        ValueError: If there are no images, `side` is below 1, or a tensor has a wrong shape.
    """
    if side < 1:
        raise ValueError(f"side is {side}: use at least 1")
    cells = [
        [_EMPTY if image is None else _with_side(image_tensor(image, 3, "rows"), side) for image in row] for row in rows
    ]
    if all(cell is _EMPTY for row in cells for cell in row):
        raise ValueError("rows has no images: give at least one")
    return _labeled(cells, columns, names)


def labeled_sheet(rows: Sequence[Sequence[Tensor]], columns: Sequence[str], names: Sequence[str] = ()) -> Tensor:
    """Lay out rows of images (C, H, W) in [-1, 1] with a label above each column, and one to the left of each row.

    Args:
        rows: The images, at least one. Larger ones than `MAX_CELL` are scaled down.
        columns: Labels of the columns. One that is wider than its column is cut off.
        names: Labels of the rows, or none.

    Returns:
        A uint8 picture (3, height, width).
    """
    cells = [[_with_side(image, min(MAX_CELL, max(image.shape[1:]))) for image in row] for row in rows]
    return torch.from_numpy(np.array(_labeled(cells, columns, names))).permute(2, 0, 1)


def _labeled(cells: Sequence[Sequence[Tensor]], columns: Sequence[str], names: Sequence[str]) -> Image.Image:
    picture = to_pil(grid(cells, _GAP, _GROUND))
    font = ImageFont.load_default(size=_FONT)
    left = max((int(font.getlength(name)) + 2 * _MARGIN for name in names), default=0)
    top = _FONT + _MARGIN if any(columns) else 0
    sheet = Image.new("RGB", (picture.width + left, picture.height + top), (_GROUND,) * 3)
    sheet.paste(picture, (left, top))
    drawing = ImageDraw.Draw(sheet)
    width = (picture.width - _GAP) / max(len(row) for row in cells)
    height = (picture.height - _GAP) / len(cells)
    for index, label in enumerate(columns):
        fitting = _fitting(label, width - _GAP, font)
        drawing.text((left + (index + 0.5) * width, top / 2), fitting, _INK, font, "mm")
    for index, name in enumerate(names):
        drawing.text((left - _MARGIN, top + (index + 0.5) * height), name, _INK, font, "rm")
    return sheet


def _with_side(image: Tensor, side: int) -> Tensor:
    """Return an image (C, H, W) whose longest side is `side`."""
    scale = side / max(image.shape[1:])
    if scale == 1:
        return image
    shape = [max(1, round(length * scale)) for length in image.shape[1:]]
    return scaled(image, shape).clamp(-1, 1)


def _fitting(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the longest beginning of a text that fits."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
