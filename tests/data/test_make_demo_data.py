"""The tool that makes the demo data, on photos of its own."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw

TOOL = Path(__file__).parents[2] / "tools" / "make_demo_data.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("skimage", reason="tools/make_demo_data.py needs scikit-image")
    spec = importlib.util.spec_from_file_location("make_demo_data", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_demo_data"] = module
    spec.loader.exec_module(module)
    return module


def fruit(frame: int) -> Image.Image:
    image = Image.new("RGB", (100, 100), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 5 + frame % 7, 99, 99), fill=(180, 30 + frame % 40, 30))
    draw.ellipse((30, 30, 50, 42), fill=(255, 240, 240))
    return image


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for family, variety in (("apple", "Apple_1"), ("cherry", "Cherry_Wax_2")):
        (tmp_path / "photos" / family).mkdir(parents=True)
        for rotation in ("r_", ""):
            for frame in range(0, 320, 8):
                fruit(frame).save(tmp_path / "photos" / family / f"{variety}__{rotation}{frame}_100.jpg")
    return tmp_path / "photos"


def test_outlines_are_closed(tool: ModuleType, source: Path) -> None:
    from scipy import ndimage

    drawing = np.asarray(tool.draw_edges(tool.padded(tool.list_photos(source)[0])).convert("L"))
    assert drawing.shape == (64, 64)
    paper = drawing > 127
    regions, count = ndimage.label(paper)
    assert count == 3  # ground, fruit, highlight
    assert regions[0, 0] != regions[50, 32] != regions[26, 26]


def test_short_scraps_are_left_out(tool: ModuleType) -> None:
    side = tool.SIZE * tool.OVERSAMPLING
    image = Image.new("RGB", (side, side), (180, 30, 30))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 40, 120, 120), fill=(255, 240, 240))
    draw.ellipse((180, 180, 186, 186), fill=(255, 240, 240))
    lines = tool.inner_lines(image, np.ones((side, side), dtype=bool))
    assert lines[:150, :150].sum() > 10 * tool.OVERSAMPLING
    assert not lines[150:, 150:].any()


def test_split_is_disjoint_with_gaps_and_reproducible(tool: ModuleType, source: Path, tmp_path: Path) -> None:
    photos = tool.list_photos(source)
    split = tool.split_photos(photos, tool.Counts(train=6, test=5), seed=0)
    assert [len(part) for part in split] == [12, 12, 5]
    assert len({photo.path for part in split for photo in part}) == 29
    for photo in split.test:
        for other in split.train_a + split.train_b:
            if (photo.variety, photo.rotation) == (other.variety, other.rotation):
                assert abs(photo.frame - other.frame) >= 16
    for name in ("one.zip", "two.zip"):
        tool.write_archive(split, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert "CC BY-SA 4.0" in (tmp_path / "one_LICENSE.txt").read_text()
