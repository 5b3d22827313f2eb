"""Contact sheets with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastmunit.data.transforms import scaled
from fastmunit.runs.reports.image_grid import grid, to_pil

_GAP, _FONT, _MARGIN = 2, 13, 8
_GROUND, _INK = 255, (40, 44, 52)
MAX_CELL = 192
"""Longest side of a picture in a sheet, in pixels."""


def labeled_sheet(rows: Sequence[Sequence[Tensor]], columns: Sequence[str], names: Sequence[str] = ()) -> Tensor:
    """Lay out rows of images (C, H, W) in [-1, 1] with a label above each column, and one to the left of each row.

    Args:
        rows: The images, at least one. Larger ones than `MAX_CELL` are scaled down.
        columns: Labels of the columns. One that is wider than its column is cut off.
        names: Labels of the rows, or none.

    Returns:
        A uint8 picture (3, height, width).
    """
    picture = to_pil(grid([[_cell(image) for image in row] for row in rows], _GAP, _GROUND))
    font = ImageFont.load_default(size=_FONT)
    left = max((int(font.getlength(name)) + 2 * _MARGIN for name in names), default=0)
    top = _FONT + _MARGIN if any(columns) else 0
    sheet = Image.new("RGB", (picture.width + left, picture.height + top), (_GROUND,) * 3)
    sheet.paste(picture, (left, top))
    drawing = ImageDraw.Draw(sheet)
    width = (picture.width - _GAP) / max(len(row) for row in rows)
    height = (picture.height - _GAP) / len(rows)
    for index, label in enumerate(columns):
        fitting = _fitting(label, width - _GAP, font)
        drawing.text((left + (index + 0.5) * width, top / 2), fitting, _INK, font, "mm")
    for index, name in enumerate(names):
        drawing.text((left - _MARGIN, top + (index + 0.5) * height), name, _INK, font, "rm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def _cell(image: Tensor) -> Tensor:
    scale = MAX_CELL / max(image.shape[1:])
    if scale >= 1:
        return image
    shape = [max(1, round(side * scale)) for side in image.shape[1:]]
    return scaled(image, shape).clamp(-1, 1)


def _fitting(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the longest beginning of a text that fits."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
