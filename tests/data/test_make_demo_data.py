"""The tool that makes the demo data, on synthetic photos and on the photos of the archive."""

import importlib.util
import io
import sys
import zipfile
from importlib import resources
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

    drawing = np.asarray(tool.draw_edges(tool.padded(tool.list_photos(source)[0])))
    assert drawing.shape == (64, 64)
    regions, count = ndimage.label(drawing > 127)
    assert count == 3  # background, fruit, highlight
    assert regions[0, 0] != regions[50, 32] != regions[26, 26]


def test_short_lines_are_left_out(tool: ModuleType) -> None:
    side = tool.SIZE * tool.OVERSAMPLING
    image = Image.new("RGB", (side, side), (180, 30, 30))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 40, 120, 120), fill=(255, 240, 240))
    draw.ellipse((180, 180, 186, 186), fill=(255, 240, 240))
    lines = tool.inner_lines(image, np.ones((side, side), dtype=bool))
    assert lines[:150, :150].sum() > 10 * tool.OVERSAMPLING
    assert not lines[150:, 150:].any()


def test_a_fruit_without_inner_lines_leaves_the_corners_white(tool: ModuleType) -> None:
    image = Image.new("RGB", (100, 100), "white")
    ImageDraw.Draw(image).ellipse((20, 20, 80, 80), fill=(180, 30, 30))
    drawing = np.asarray(tool.draw_edges(image))
    assert (drawing[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


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
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert [stems(archive, folder) for folder in ("trainB", "testB")] == [
            stems(archive, "pairsA"),
            stems(archive, "testA"),
        ]


def stems(archive: zipfile.ZipFile, folder: str) -> list[str]:
    return [Path(name).stem for name in archive.namelist() if name.startswith(f"{folder}/")]


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("L")).astype(int)


def test_png_holds_every_pixel(tool: ModuleType) -> None:
    drawing = Image.fromarray(np.random.default_rng(0).choice(np.uint8([0, 85, 170, 255]), (64, 64)))
    assert (pixels(tool.png_bytes(drawing)) == np.asarray(drawing)).all()


def test_pairs_of_the_archive_are_drawn_by_the_tool(tool: ModuleType) -> None:
    """Allow for other versions of the libraries: few pixels may be one gray level lighter or darker."""
    with zipfile.ZipFile(str(resources.files("fastmunit.data") / "demo.zip")) as archive:
        assert stems(archive, "pairsA") == stems(archive, "trainB")
        for stem in stems(archive, "trainB")[::60]:
            drawn = pixels(tool.drawing_bytes(archive.read(f"trainB/{stem}.jpg")))
            assert abs(drawn - pixels(archive.read(f"pairsA/{stem}.png"))).mean() < 0.01 * 255


def test_drawings_of_reduced_photos_are_like_those_of_the_originals(tool: ModuleType) -> None:
    """The drawings in testA were made from the original photos, those in pairsA from photos of 64x64 pixels."""
    both = either = 0
    with zipfile.ZipFile(str(resources.files("fastmunit.data") / "demo.zip")) as archive:
        for stem in stems(archive, "testB")[::10]:
            reduced = pixels(tool.drawing_bytes(archive.read(f"testB/{stem}.jpg")))
            original = pixels(archive.read(f"testA/{stem}.png"))
            assert abs(reduced - original).mean() < 0.1 * 255
            both += ((reduced < 128) & (original < 128)).sum()
            either += ((reduced < 128) | (original < 128)).sum()
    assert both > 0.7 * either
