"""Training on slides and volumes: usable regions, random crops that are read alone, and slices with neighbors."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import TrainingPairs, auto_range
from fastmunit.data.datasets import test_datasets as datasets_for_tests
from fastmunit.data.datasets import training_datasets
from fastmunit.data.pixels import read_pixels
from fastmunit.data.readers import DomainReader, has_reader
from fastmunit.data.slides import SlideSource
from fastmunit.data.usable_regions import Request, Rule, _spans, index_together, middle, usable_cells
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.errors import DataError
from fastmunit.image_files.reader import ImageReader
from fastmunit.region import Region
from tests.image_files.images import put_shape

PARTS = ("trainA", "trainB", "testA", "testB")


def slide(seed: int, height: int = 200, width: int = 333) -> np.ndarray:
    """Return an RGB slide: tissue of distinct values in the middle of a white background."""
    pixels = np.full((height, width, 3), 250, np.uint8)
    tissue = pixels[height // 4 : -height // 4, width // 4 : -width // 4]
    tissue[...] = np.random.default_rng(seed).integers(0, 200, tissue.shape)
    return pixels


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    for part in PARTS:
        (tmp_path / part).mkdir()
        for index in range(2):
            np.save(tmp_path / part / f"{index}.npy", slide(index + 10 * PARTS.index(part)))
    return tmp_path


def config(root: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "data_root": str(root),
        "crop_image_height": 32,
        "crop_image_width": 40,
        "batch_size": 2,
        "num_workers": 0,
        "display_size": 2,
    }
    return Config.from_dict({**values, **changes})


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_each_position_of_a_crop_belongs_to_one_cell(length: int, crop: int) -> None:
    length += crop - 1
    spans = _spans(length, crop)
    positions = [first + k for first, count in spans for k in range(count)]
    assert positions == list(range(length - crop + 1))
    assert 1 <= len(spans) <= max(1, length // crop)


def test_crops_are_regions_of_the_slides(slides: Path) -> None:
    dataset = training_datasets(config(slides, flip=False))[0]
    assert isinstance(dataset.source, SlideSource)
    assert 0 < dataset.source.count < dataset.source.total == 2 * (200 // 32) * (333 // 40)
    pixels = {str(path): np.load(path) for path in dataset.paths}
    seen = set()
    for index, epoch in itertools.product((0, 7, len(dataset) - 1), range(4)):
        image = dataset.sample(index, epoch)
        assert image.shape == (3, 32, 40)
        path, cell = dataset.source.items[index]
        crop = ValueRange(0, 255).from_network(image, np.uint8)
        assert cell is not None
        windows = np.lib.stride_tricks.sliding_window_view(pixels[str(path)], (32, 40), (0, 1))
        inside = windows[cell.rows.first : sum(cell.rows), cell.columns.first : sum(cell.columns)]
        matches = np.argwhere((inside == crop).all(axis=(2, 3, 4))).tolist()
        assert matches
        seen.add((index, str(matches)))
        assert torch.equal(training_datasets(config(slides, flip=False))[0].sample(index, epoch), image)
    assert len(seen) > 8


def test_only_the_crop_is_read(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = training_datasets(config(slides))[0]
    regions: list[Region | None] = []
    read = ImageReader.read
    monkeypatch.setattr(
        ImageReader, "read", lambda self, region=None, plane=0: regions.append(region) or read(self, region, plane)
    )
    assert training_datasets(config(slides))[0].identity() == dataset.identity()
    assert regions == []  # the index is known
    dataset[3]
    assert [region[2:] for region in regions if region] == [(32, 40)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_after_a_resume_are_the_same(slides: Path, num_workers: int) -> None:
    pairs = TrainingPairs(config(slides, num_workers=num_workers))
    whole = list(itertools.islice(pairs.batches(), 40))
    assert pairs.batches_per_epoch < 30  # crops of a second epoch are among them
    resumed = list(itertools.islice(TrainingPairs(config(slides)).batches(27), 13))
    for before, after in zip(whole[27:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    first, second = (torch.cat([a for a, _ in whole[k : k + 5]]) for k in (0, pairs.batches_per_epoch))
    assert not torch.equal(first, second)


def test_test_images_are_the_middles_of_cells(slides: Path) -> None:
    dataset = datasets_for_tests(config(slides))[0]
    assert isinstance(dataset.source, SlideSource)
    path, cell = dataset.source.items[5]
    assert cell is not None
    top, left, height, width = middle(cell, (32, 40))
    expected = np.load(path)[top : top + height, left : left + width].transpose(2, 0, 1)
    assert torch.equal(dataset.sample(5, 3), ValueRange(0, 255).to_network(expected))


VALUES = PixelValues(ValueRange(0, 200))


def cells(path: Path, background: Any = "auto", min_foreground: float = 0.1, **changes: Any) -> set[tuple[int, int]]:
    """Return the row and column of each usable cell of a 49 x 49 image with crops of 10 x 10."""
    values = changes.get("values", VALUES)
    index = usable_cells(Request(str(path), 1, values, (10, 10), Rule(background, min_foreground)))
    assert index.total == 16
    crops = [middle(cell, (10, 10)) for cell in index.cells]
    assert all(crop.top % 10 == crop.left % 10 == 5 for crop in crops)
    return {(crop.top // 10, crop.left // 10) for crop in crops}


def blocks(path: Path, filled: float, other: float) -> None:
    """Write a 49 x 49 image whose cells (0, 0), (1, 2) and half of (3, 3) are `filled`."""
    pixels = np.full((49, 49), other, np.float32)
    pixels[5:15, 5:15] = pixels[15:25, 25:35] = pixels[40:45, 35:45] = filled
    np.save(path, pixels)


@pytest.mark.parametrize(("white", "background"), [(True, "auto"), (False, "auto"), (True, 195.0), (False, 0.0)])
def test_background_is_left_out(tmp_path: Path, white: bool, background: Any) -> None:
    path = tmp_path / "a.npy"
    blocks(path, 100, 195 if white else 5)
    assert cells(path, background) == {(0, 0), (1, 2), (3, 3)}
    assert cells(path, background, 0.6) == {(0, 0), (1, 2)}
    assert len(cells(path, "none")) == 16
    assert len(cells(path, 100.0)) == 14


def test_an_image_without_background_is_used_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(40, 160, (49, 49)))
    assert len(cells(tmp_path / "a.npy")) == 16


@pytest.mark.parametrize("nodata", [np.nan, -9999.0])
def test_regions_without_data_are_left_out(tmp_path: Path, nodata: float) -> None:
    blocks(tmp_path / "a.npy", 100, nodata)
    values = PixelValues(ValueRange(0, 200, nodata=-9999.0))
    for background in ("none", "auto"):
        assert cells(tmp_path / "a.npy", background, values=values) == {(0, 0), (1, 2), (3, 3)}
    np.save(tmp_path / "b.npy", np.full((49, 49), nodata))
    assert cells(tmp_path / "b.npy", "none", 0, values=values) == set()


def test_no_usable_region_is_an_error(slides: Path) -> None:
    for path in (slides / "trainB").iterdir():
        np.save(path, np.full((64, 80, 3), 255, np.uint8))
    with pytest.raises(
        DataError, match=r"trainB: none of 8 regions of 2 files has enough foreground: set background_b"
    ):
        data.check(config(slides))
    assert any("trainA" in note for note in data.check(config(slides, background_b="none")))


def test_what_is_left_out_is_said(slides: Path) -> None:
    notes = data.check(config(slides))
    assert len(notes) == 4
    assert notes[0].endswith(
        "regions are used; the others have less than 10% foreground (background_a, min_foreground)."
    )
    with pytest.raises(DataError, match=r"trainA has \d+ images, fewer than batch_size 1000"):
        data.check(config(slides, batch_size=1000))
    with pytest.raises(DataError, match=r"trainA: 2 of 2 images are smaller than the crop 256x40"):
        data.check(config(slides, crop_image_height=256))


def test_values_in_a_part_of_the_range_are_named_and_not_only_called_background(slides: Path) -> None:
    for path in (slides / "trainA").iterdir():
        np.save(path, np.load(path).astype(np.uint16) * 8)
    with pytest.raises(DataError, match=r"none of 96 regions .*values up to 2000 in 16-bit files.*: \[0, 2047\]"):
        data.check(config(slides))
    assert len(data.check(config(slides, value_range_a=[0, 2047]))) == 4


def volume(seed: int = 0, planes: int = 5, height: int = 50, width: int = 60) -> np.ndarray:
    """Return signed values (Z, C, Y, X) that identify plane and position."""
    values = np.arange(planes * height * width, dtype=np.int32).reshape(planes, 1, height, width)
    return values - 5000 + seed


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for part in PARTS:
        (tmp_path / part).mkdir()
        for index in range(2):
            np.save(tmp_path / part / f"{index}.npy", volume(index))
    return tmp_path


RANGES = {
    "value_range_a": [-5000, 10001],
    "value_range_b": [-5000, 10001],
    "background_a": "none",
    "background_b": "none",
}


def test_slices_have_their_neighbors_as_channels(volumes: Path) -> None:
    settings = config(volumes, input_dim_a=3, input_dim_b=1, slices=1, **RANGES)
    assert training_datasets(settings)[1][0].shape == (1, 32, 40)
    settings = config(volumes, input_dim_a=3, input_dim_b=3, slices=3, flip=False, **RANGES)
    dataset = training_datasets(settings)[0]
    assert isinstance(dataset.source, SlideSource)
    assert len(dataset) == 10  # 5 slices of 2 volumes, one cell each
    step = 50 * 60 * 2 / 15001  # one slice
    for index, (_, cell) in enumerate(dataset.source.items):
        assert cell is not None
        below, here, above = dataset[index].double()
        at_end = {0: (0, 1), 4: (1, 0)}.get(cell.plane, (1, 1))
        assert (here - below).mean().item() == pytest.approx(step * at_end[0], abs=1e-5)
        assert (above - here).mean().item() == pytest.approx(step * at_end[1], abs=1e-5)


def test_whole_slices_are_resized(volumes: Path) -> None:
    settings = config(volumes, new_size=42, input_dim_a=1, input_dim_b=1, **RANGES)
    data.check(settings)
    dataset = training_datasets(settings)[0]
    assert len(dataset) == 10
    image = dataset.decode(6, 0)
    expected = ValueRange(-5000, 10001).to_unit(volume(1)[1])
    assert torch.equal(image, expected)
    assert dataset[6].shape == (1, 32, 40)


def test_signed_values_need_a_range_that_may_be_computed(volumes: Path) -> None:
    settings = config(volumes, input_dim_a=1, input_dim_b=1)
    with pytest.raises(
        DataError, match=r"trainA: integer values -\d+\.\.\d+ are outside .*: set value_range_a to \[-\d+, \d+\] or"
    ):
        data.check(settings)
    settings = config(volumes, input_dim_a=1, input_dim_b=1, value_range_a="auto", value_range_b="auto")
    found, notes = auto_range.resolved(settings)
    low, high = found.value_range_a  # type: ignore[misc]
    assert -5000 <= low < -4500 < 9500 < high <= 10000  # type: ignore[operator]
    assert len(notes) == 2
    assert data.check(found) == []


def test_auto_for_signed_values_with_pixels_without_data(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    for part in ("trainA", "trainB", "testA", "testB"):
        scene = np.random.default_rng(0).integers(-50, 3000, (2, 70, 90), np.int16)
        scene[:, :40] = -9999
        (tmp_path / part).mkdir()
        tifffile.imwrite(
            tmp_path / part / "scene.tif", scene, photometric="minisblack", extratags=[(42113, "s", 0, "-9999", True)]
        )
    settings = config(tmp_path, input_dim_a=2, input_dim_b=2, value_range_a="auto", value_range_b="auto")
    found, _ = auto_range.resolved(settings)
    for low, high in found.value_range_a:  # type: ignore[union-attr, misc]
        assert -50 <= low < 0 < 2900 < high <= 3000  # type: ignore[operator]
    assert data.check(found) == [
        f"{tmp_path / part}: 2 of 4 regions are used; the others have less than 10% foreground "
        f"(background_{part[-1].lower()}, min_foreground)."
        for part in ("trainA", "trainB", "testA", "testB")
    ]


def test_pairs_of_volumes_have_equal_crops(volumes: Path) -> None:
    for part in ("trainB", "testB"):
        for index in range(2):
            np.save(volumes / part / f"{index}.npy", volume(index).astype(np.float64) * 2)
    settings = config(
        volumes, pairs="folders", input_dim_a=1, input_dim_b=1, **{**RANGES, "value_range_b": [-10000, 20002]}
    )
    data.check(settings)
    for a, b in itertools.islice(TrainingPairs(settings).batches(), 6):
        assert torch.equal(a, b)
    Image.new("L", (60, 50)).save(volumes / "trainB" / "1.png")
    (volumes / "trainB" / "1.npy").unlink()
    with pytest.raises(DataError, match=r"1\.npy and .*1\.png are a pair, but only one of them is a volume"):
        data.check(settings)


def test_pairs_of_volumes_have_equal_numbers_of_slices(volumes: Path) -> None:
    np.save(volumes / "trainB" / "1.npy", volume(planes=4))
    for changes in ({}, {"new_size": 42}):
        settings = config(volumes, pairs="folders", input_dim_a=1, input_dim_b=1, **RANGES, **changes)
        with pytest.raises(
            DataError,
            match=r"^1 of 2 pairs differ in slices\. .*A/1\.npy has 5 slices and .*B/1\.npy has 4: a pair needs the",
        ):
            data.check(settings)


def pyramid(path: Path, image: np.ndarray, factors: tuple[int, ...]) -> None:
    """Write an image (height, width) and levels that are means of factor x factor pixels."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    with tifffile.TiffWriter(path) as file:
        for number, factor in enumerate((1, *factors)):
            height, width = (side // factor for side in image.shape)
            blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor)
            options = {"tile": (32, 32), "compression": "zlib", "metadata": None, "photometric": "minisblack"}
            file.write(blocks.mean((1, 3)).astype(image.dtype), subfiletype=int(number > 0), **options)


@pytest.mark.parametrize(("crop", "level"), [(32, 0), (64, 1), (130, 2), (200, 2)])
def test_usable_regions_are_found_in_a_small_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: int, level: int
) -> None:
    image = np.full((803, 605), 250, np.uint8)
    image[100:500, 30:300] = 120
    pyramid(tmp_path / "slide.tif", image, (2, 4, 8))
    np.save(tmp_path / "slide.npy", image)
    values = PixelValues(ValueRange(0, 255))
    total = len(usable_cells(Request(str(tmp_path / "slide.npy"), 1, values, (crop, crop), Rule("none", 0.5))).cells)
    levels: list[int] = []
    read = ImageReader.read

    def noted(self: ImageReader, region: Region | None = None, plane: int = 0, level: int = 0) -> np.ndarray:
        levels.append(level)
        return read(self, region, plane, level)

    monkeypatch.setattr(ImageReader, "read", noted)
    found = [
        {
            middle(cell, (crop, crop))
            for cell in usable_cells(Request(str(tmp_path / "slide.tif"), 1, values, (crop, crop), rule)).cells
        }
        for rule in (Rule("auto", 0.4), Rule("auto", 0.5), Rule("auto", 0.6))
    ]
    assert set(levels) == {level} and len(levels) == 3 * total
    exact = usable_cells(Request(str(tmp_path / "slide.npy"), 1, values, (crop, crop), Rule("auto", 0.5)))
    assert 0 < len(exact.cells) < total
    # Means of pixels at edges may move a share a little.
    assert found[2] <= {middle(cell, (crop, crop)) for cell in exact.cells} <= found[0]
    assert found[2] <= found[1] <= found[0]


def test_pictures_and_slides_may_be_mixed_and_listed(slides: Path) -> None:
    Image.fromarray(slide(3)).save(slides / "trainA" / "2.png")
    (slides / "list.txt").write_text("2.png\n1.npy\n")
    folders = {f"data_folder_{part[:-1]}_{part[-1].lower()}": str(slides / part) for part in PARTS}
    settings = config(slides, data_root=None, **folders)
    settings.data_list_train_a = str(slides / "list.txt")
    dataset = training_datasets(settings)[0]
    assert isinstance(dataset.source, SlideSource)
    assert [item.cell is None for item in dataset.source.items[:2]] == [True, False]
    assert str(dataset.label(0)) == str(slides / "trainA" / "2.png")
    assert str(dataset.label(1)).startswith(f"{slides / 'trainA' / '1.npy'} (slice 0, from row ")
    assert dataset[0].shape == dataset[1].shape == (3, 32, 40)


def test_identity_changes_with_the_regions(slides: Path) -> None:
    identity = training_datasets(config(slides))[0].identity()
    assert identity == training_datasets(config(slides))[0].identity()
    other = training_datasets(config(slides, min_foreground=0.9))[0].identity()
    assert other["count"] < identity["count"]
    assert other["names"] != identity["names"]


def test_channels_that_do_not_fit_are_named(slides: Path) -> None:
    with pytest.raises(DataError, match=r"0\.npy has 3 channels but input_dim is 4: set input_dim to 3, or name"):
        data.check(config(slides, input_dim_a=4))
    np.save(slides / "gray.npy", np.zeros((20, 30), np.uint8))
    assert read_pixels(slides / "gray.npy", 3).shape == (3, 20, 30)
    np.save(slides / "volume.npy", volume())
    with pytest.raises(DataError, match=r"volume\.npy has 5 slices, where one image is expected"):
        read_pixels(slides / "volume.npy", 1, None, VALUES)
    np.save(slides / "float.npy", np.full((20, 30), 1.5))
    with pytest.raises(DataError, match=r"float values 1\.5\.\.1\.5 are outside \[0, 1\]: set value_range_a"):
        read_pixels(slides / "float.npy", 1)


class Named(ImageReader):
    """A reader of one pixel per channel, with names."""

    format = "test"

    def _open(self) -> None:
        self.channels, self.channel_names = 3, ("DAPI", "CD3", "CD8")

    def _read(self, region: Region, plane: int) -> np.ndarray:
        return np.arange(3, dtype=np.uint8).reshape(3, 1, 1)


def test_channels_are_read_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fastmunit.data.readers.open_image", Named)
    source = DomainReader(tmp_path, 2, PixelValues(channel_names=("CD8", "DAPI")))
    assert source.read().ravel().tolist() == [2, 0]
    with pytest.raises(DataError, match=r"has no channel 'CD4': it has DAPI, CD3, CD8\. Correct channel_names_b"):
        DomainReader(tmp_path, 1, PixelValues(channel_names=("CD4",), keys="_b"))


def test_files_are_closed(tmp_path: Path) -> None:
    for index in range(100):
        np.save(tmp_path / f"{index}.npy", np.zeros((4, 4), np.uint8))
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("open files are listed on Linux only")
    before = len(list(descriptors.iterdir()))
    for index in range(100):
        read_pixels(tmp_path / f"{index}.npy", 1)
    assert len(list(descriptors.iterdir())) <= before + 32
    np.save(tmp_path / "99.npy", np.full((5, 6), 255, np.uint8))
    assert read_pixels(tmp_path / "99.npy", 1).shape == (1, 5, 6)  # not the file that was open
    (tmp_path / "99.npy").unlink()
    with pytest.raises(DataError, match=r"99\.npy"):
        read_pixels(tmp_path / "99.npy", 1)


def test_pillow_reads_ordinary_pictures_as_always(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, (shape, mode) in enumerate(
        [((5, 7), "L"), ((5, 7, 3), "RGB"), ((5, 7, 4), "RGBA"), ((5, 7, 4), "CMYK")]
    ):
        path = tmp_path / f"{number}.tif"
        Image.frombytes(mode, (7, 5), rng.bytes(int(np.prod(shape)))).save(path, compression="tiff_lzw")
        for channels in (1, 3, 4 if len(mode) == 4 else 3):
            assert not has_reader(path, channels, PixelValues())
            assert torch.equal(read_pixels(path, channels), data.read_image(path, channels))
    faded = np.full((5, 7, 2), (50, 100), np.uint8)
    tifffile.imwrite(tmp_path / "faded.tif", faded, photometric="minisblack", extrasamples=["assocalpha"])
    assert not has_reader(tmp_path / "faded.tif", 1, PixelValues())
    if any(mode == "La" for mode, _ in TiffImagePlugin.OPEN_INFO.values()):  # from Pillow 13 on
        assert torch.allclose(read_pixels(tmp_path / "faded.tif", 1), torch.tensor((50 + 155) / 127.5 - 1), atol=0.02)
    else:
        with pytest.raises(DataError, match=r"faded\.tif is .*not an image that Pillow reads"):
            read_pixels(tmp_path / "faded.tif", 1)
    values = np.arange(35, dtype=np.uint16).reshape(5, 7)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert not has_reader(tmp_path / "a.png", 1, PixelValues())
    turned = tmp_path / "turned.tif"
    tifffile.imwrite(turned, values, extratags=[(274, 3, 1, 6, True)])
    assert not has_reader(turned, 1, PixelValues())
    assert read_pixels(turned, 1).shape == (1, 7, 5)
    np.save(tmp_path / "a.npy", values)
    assert has_reader(tmp_path / "a.npy", 1, PixelValues())
    assert torch.allclose(read_pixels(tmp_path / "a.npy", 1), data.read_image(tmp_path / "a.png", 1), atol=1e-6, rtol=0)


_RNG = np.random.default_rng(1)
_GRAY = _RNG.integers(0, 255, (48, 64), np.uint8)
_RGB = _RNG.integers(0, 255, (48, 64, 3), np.uint8)
_SCIENTIFIC: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "ome": (_GRAY, {"ome": True, "metadata": {"axes": "YX"}}),
    "imagej": (_GRAY, {"imagej": True}),
    "geo": (_RGB, {"photometric": "rgb", "extratags": [(33550, 12, 3, (2.0, 2.0, 0.0), True)]}),
    "tiles": (_RGB, {"photometric": "rgb", "tile": (16, 16)}),
    "channels": (_RGB, {"photometric": "minisblack", "planarconfig": "contig"}),
    "pages": (_RNG.integers(0, 255, (3, 48, 64), np.uint8), {"photometric": "minisblack"}),
    "deep": (_GRAY.astype(np.uint16) * 257, {}),
    "deep_color": (_RGB.astype(np.uint16) * 257, {"photometric": "rgb"}),
    "float": ((_GRAY / 255).astype(np.float32), {}),
    "stack": (_RNG.integers(0, 255, (3, 48, 64), np.uint8), {"photometric": "minisblack", "truncate": True}),
}


@pytest.mark.parametrize(("kind", "shape_is_last"), [*((kind, False) for kind in _SCIENTIFIC), ("stack", True)])
def test_other_tiffs_are_read_by_region(kind: str, shape_is_last: bool, tmp_path: Path) -> None:
    pixels, options = _SCIENTIFIC[kind]
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, **options)
    if kind == "stack":
        put_shape(path, last=shape_is_last)
    channels = 1 if pixels.ndim == 2 else 3
    assert has_reader(path, channels, PixelValues())
    assert has_reader(path, 3, PixelValues())  # gray is repeated
    expected = np.moveaxis(np.atleast_3d(pixels), 2, 0) if pixels.shape[0] == 48 else pixels
    scale = 1.0 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    np.testing.assert_allclose(read_pixels(path, channels), expected / scale * 2 - 1, atol=1e-6)


def test_channels_that_only_pillow_converts(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, _RGB, photometric="rgb", tile=(16, 16))
    assert not has_reader(path, 1, PixelValues())
    assert torch.equal(read_pixels(path, 1), data.read_image(path, 1))
    assert has_reader(path, 5, PixelValues())  # neither reads it
    with pytest.raises(DataError, match=r"image\.tif has 3 channels but input_dim is 5"):
        read_pixels(path, 5)


def test_a_picture_and_a_slice_may_be_a_pair(tmp_path: Path) -> None:
    for part in PARTS:
        (tmp_path / part).mkdir()
        for index in range(2):
            if part.endswith("A"):
                Image.fromarray(_RGB).save(tmp_path / part / f"{index}.jpg")
            else:
                tifffile.imwrite(tmp_path / part / f"{index}.tif", _GRAY.astype(np.uint16) * 257)
    settings = config(tmp_path, pairs="folders", input_dim_b=1, flip=False)
    data.check(settings)
    a, b = training_datasets(settings)
    whole = read_pixels(tmp_path / "trainB" / "0.tif", 1)[0].unfold(0, 32, 1).unfold(1, 40, 1)
    place = (whole == b[0][0]).all(dim=(2, 3)).nonzero()
    assert len(place) == 1 and len(a) == len(b) == 2
    top, left = place[0].tolist()
    assert torch.equal(a[0], data.read_image(tmp_path / "trainA" / "0.jpg", 3)[:, top : top + 32, left : left + 40])


def test_pairs_stay_pairs_if_a_file_has_no_usable_region(tmp_path: Path) -> None:
    for part in PARTS:
        (tmp_path / part).mkdir()
        for index in range(3):
            pixels = slide(index) if part.endswith("B") or index != 1 else np.full((200, 333, 3), 250, np.uint8)
            np.save(tmp_path / part / f"{index}.npy", pixels)
    a, b = training_datasets(config(tmp_path, pairs="folders"))
    assert [Path(path).name for path in a.paths] == [Path(path).name for path in b.paths] == ["0.npy", "2.npy"]


def test_notes_of_one_folder_for_both_parts_are_given_once(slides: Path) -> None:
    folders = {f"data_folder_{part}_{domain}": str(slides / "trainA") for part in ("train", "test") for domain in "ab"}
    notes = data.check(config(slides, data_root=None, new_size=None, crop_image_width=32, **folders))
    assert len(notes) == len(set(notes))
    assert any("regions are used" in note for note in notes)


def test_regions_are_looked_at_once_with_progress(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    settings = config(slides, min_foreground=0.125)  # a rule that no other test has
    data.check(settings, progress=lambda done, total: calls.append((done, total)))
    total = 4 * 2 * (200 // 32) * (333 // 40)
    assert calls == [(done, total) for done in range(1, total + 1)]
    monkeypatch.setattr(ImageReader, "read", None)
    data.check(settings, progress=lambda done, total: calls.append((done, total)))
    training_datasets(settings)
    assert len(calls) == total


def test_many_files_are_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    for index in range(1030):
        np.save(tmp_path / f"{index}.npy", np.full((4, 4), index % 251, np.uint8))
        requests.append(Request(str(tmp_path / f"{index}.npy"), 1, PixelValues(), (4, 4), Rule("auto", 0.5)))
    index_together(requests)
    monkeypatch.setattr(ImageReader, "read", None)
    assert [usable_cells(request).total for request in requests] == [1] * 1030


def test_palettes_bits_and_lab_are_read_by_pillow(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    palette = _RNG.integers(0, 65535, (3, 256), np.uint16)
    tifffile.imwrite(path, _GRAY, photometric="palette", colormap=palette, tile=(16, 16))
    assert not has_reader(path, 3, PixelValues())
    expected = ((palette >> 8).astype(np.float32) / 255 * 2 - 1)[:, _GRAY]
    np.testing.assert_allclose(read_pixels(path, 3), expected, atol=1e-6)
    tifffile.imwrite(path, _GRAY > 99, photometric="minisblack", tile=(16, 16))
    assert not has_reader(path, 1, PixelValues())
    np.testing.assert_array_equal(read_pixels(path, 1)[0], np.where(_GRAY > 99, 1, -1))
    tifffile.imwrite(path, _GRAY, photometric="miniswhite", tile=(16, 16))
    np.testing.assert_allclose(read_pixels(path, 1)[0], (255 - _GRAY) / 255 * 2 - 1, atol=1e-6)
