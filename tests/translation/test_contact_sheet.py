from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastmunit


def test_images_of_all_kinds_are_at_their_place_with_one_side(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (10, 10), (255, 0, 0)).save(path)
    green = np.zeros((40, 20, 3), np.uint8)
    green[..., 1] = 255
    blue = torch.stack([-torch.ones(8, 8), -torch.ones(8, 8), torch.ones(8, 8)])
    sheet = np.array(fastmunit.contact_sheet([[path, green], [blue, None, blue]], side=32))
    step = 34  # a side and a gap
    assert sheet.shape == (2 * step + 2, 3 * step + 2, 3)
    middles = {place: tuple(sheet[2 + place[0] * step + 16, 2 + place[1] * step + 16]) for place in np.ndindex(2, 3)}
    assert middles[0, 0] == (255, 0, 0)
    assert tuple(sheet[2 + 16, 2 + step + 8]) == (0, 255, 0)  # half as wide as high, so the cell is white on the right
    assert tuple(sheet[2 + 16, 2 + step + 24]) == (255, 255, 255)
    assert middles[0, 2] == (255, 255, 255)
    assert middles[1, 0] == middles[1, 2] == (0, 0, 255)
    assert middles[1, 1] == (255, 255, 255)
    batch = fastmunit.contact_sheet([torch.stack([blue, -blue])], side=32)
    assert batch.getpixel((18, 18)) == (0, 0, 255) and batch.getpixel((step + 18, 18)) == (255, 255, 0)


def test_labels_take_room_above_and_to_the_left() -> None:
    image = torch.zeros(3, 16, 16)
    plain = fastmunit.contact_sheet([[image]])
    labeled = fastmunit.contact_sheet([[image]], columns=["drawing"], names=["first row"])
    assert plain.size == (132, 132)
    assert labeled.width > plain.width and labeled.height > plain.height
    assert np.array(labeled)[: labeled.height - plain.height].min() < 128  # ink
    left = labeled.width - plain.width
    assert np.array(labeled)[:, :left].min() < 128
    assert np.array_equal(np.array(labeled)[-plain.height :, left:], np.array(plain))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="rows has no images"):
        fastmunit.contact_sheet([[None], []])
    with pytest.raises(ValueError, match="side is 0"):
        fastmunit.contact_sheet([[torch.zeros(3, 4, 4)]], side=0)
    with pytest.raises(TypeError, match="rows: expected a path"):
        fastmunit.contact_sheet([[3]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"rows: expected \(C, H, W\)"):
        fastmunit.contact_sheet([[torch.zeros(1, 3, 4, 4)]])
