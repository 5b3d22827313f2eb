"""Levels of pyramids: reading them by region, and what is no level."""

import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image
from fastmunit.image_files.tiff_reader import TiffReader
from fastmunit.region import Region
from tests.image_files.images import check_level, pixels

TILES: dict[str, Any] = {"tile": (16, 16), "compression": "zlib", "metadata": None}


def halves(image: np.ndarray, count: int) -> list[np.ndarray]:
    """Return an image (..., height, width) and smaller copies, which differ from it in every pixel."""
    return [image[..., :: 2**level, :: 2**level] + level for level in range(count)]


def write_subifds(path: Path, levels: list[np.ndarray], ome: bool = False, **options: Any) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    options = {"photometric": "minisblack", **TILES, **options}
    if ome:
        options["metadata"] = {"axes": "CYX"}
    with tifffile.TiffWriter(path, ome=ome) as file:
        file.write(levels[0], subifds=len(levels) - 1, **options)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **options)


def write_pages(path: Path, levels: list[np.ndarray], **options: Any) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels):
            file.write(level, subfiletype=int(number > 0), photometric="minisblack", **{**TILES, **options})


@pytest.mark.parametrize("options", [{}, {"compression": None}, {"tile": None, "rowsperstrip": 5}], ids=str)
@pytest.mark.parametrize("ome", [False, True])
def test_subifds(tmp_path: Path, ome: bool, options: dict[str, Any]) -> None:
    path, levels = tmp_path / "image.ome.tif", halves(pixels(3), 3)
    write_subifds(path, levels, ome, **options)
    for number, level in enumerate(levels):
        check_level(path, number, level[None])


def test_pages_of_their_own(tmp_path: Path) -> None:
    levels = halves(pixels(), 3)
    write_pages(tmp_path / "image.tif", levels)
    for number, level in enumerate(levels):
        check_level(tmp_path / "image.tif", number, level[None, None])


def test_slide(tmp_path: Path) -> None:
    """Write a slide as Aperio does: the image, a thumbnail, the levels, and a label in strips."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    path, levels = tmp_path / "slide.svs", halves(pixels(3, dtype="uint8"), 3)
    strips = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels):
            options = {**strips, **TILES}
            file.write(
                level.transpose(1, 2, 0), description="Aperio Image Library v12" if not number else "", **options
            )
            if number == 0:
                file.write(level[:, ::3, ::3].transpose(1, 2, 0), **strips)
        file.write(np.zeros((9, 11, 3), np.uint8), subfiletype=1, **strips)
    for number, level in enumerate(levels):
        check_level(path, number, level[None])


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr(tmp_path: Path, version: int) -> None:
    pytest.importorskip("zarr", minversion="3")
    from tests.image_files.test_zarr import write_ome

    image = pixels(2, 3, 4)
    write_ome(tmp_path / "image.zarr", image, version, levels=3)
    for number in range(3):
        level = image[..., :: 2**number, :: 2**number].swapaxes(1, 2)
        check_level(tmp_path / "image.zarr", number, level.reshape(8, 3, *level.shape[-2:]))


def test_formats_without_pyramid(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", pixels(3))
    check_level(tmp_path / "image.npy", 0, pixels(3)[None])
    with open_image(tmp_path / "image.npy") as reader:
        assert reader.levels == ((37, 53),)


def test_labels_masks_and_other_types_are_no_levels(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    image = pixels()
    others = ((image[:9, :9], 1), (image[::2, ::2], 1), (image[::2, ::2].astype(np.uint8), 1), (image[::3, ::3], 1))
    with tifffile.TiffWriter(tmp_path / "image.tif") as file:
        for other, kind in ((image, 0), *others):
            file.write(other, subfiletype=kind, metadata=None, photometric="minisblack")
    with open_image(tmp_path / "image.tif") as reader:
        assert isinstance(reader, TiffReader)
        position = reader._structure.pages[2].tags[254].position
    with (tmp_path / "image.tif").open("r+b") as changed:
        changed.seek(position)
        changed.write(b"\5")  # a mask, which tifffile writes only with 1 bit
    check_level(tmp_path / "image.tif", 1, image[None, None, ::3, ::3])
    with open_image(tmp_path / "image.tif") as reader:
        assert len(reader.levels) == 2


def test_levels_of_some_pages_only_are_left_out(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "image.tif") as file:
        file.write(pixels(), metadata=None)
        file.write(pixels(seed=1), metadata=None)
        file.write(pixels()[::2, ::2], subfiletype=1, metadata=None)
    with open_image(tmp_path / "image.tif") as reader:
        assert reader.channels == 2 and reader.levels == ((37, 53),)


def test_levels_with_fewer_planes_are_left_out(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    from tests.image_files.test_zarr import write_ome

    path, image = tmp_path / "image.zarr", pixels(2, 3, 4)
    write_ome(path, image, 2, levels=3)
    group = zarr.open_group(path, mode="a")
    del group["s1"]
    group.create_array("s1", data=image[:, :, ::2, ::2, ::2])
    with open_image(path) as reader:
        assert reader.levels == ((37, 53), (10, 14))
    check_level(path, 1, image[..., ::4, ::4].swapaxes(1, 2).reshape(8, 3, 10, 14))


def test_damaged_levels_are_named_and_the_image_is_read(tmp_path: Path) -> None:
    path, image = tmp_path / "image.tif", pixels()
    write_pages(path, halves(image, 2))
    with open_image(path) as reader:
        assert isinstance(reader, TiffReader)
        counts = reader._structure.pages[1].tags[325].position
    data = bytearray(path.read_bytes())
    data[counts : counts + 4] = b"\xff\xff\xff\x0f"
    path.write_bytes(data)
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read()[0], image)
        with pytest.raises(DataError, match=r"image\.tif: page 2 is truncated"):
            reader.read(level=1)


def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    write_pages(path, halves(pixels(), 2))
    write_pages(tmp_path / "other.tif", halves(pixels(seed=1), 2))
    with open_image(path) as reader:
        (tmp_path / "other.tif").replace(path)
        np.testing.assert_array_equal(reader.read()[0], pixels())
        with pytest.raises(DataError, match=r"image\.tif: the file has been replaced: open it again"):
            reader.read(level=1)
        with pickle.loads(pickle.dumps(reader)) as again:
            np.testing.assert_array_equal(again.read(level=1)[0], pixels(seed=1)[::2, ::2] + 1)


def test_readers_close_when_they_are_deleted(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", pixels())
    reader = open_image(tmp_path / "image.npy")
    descriptor = reader._descriptor
    assert descriptor is not None
    os.fstat(descriptor)
    del reader
    with pytest.raises(OSError, match=r"descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("size", [(256, 256), (100, 333)])
def test_each_tile_is_decoded_once_per_row_of_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Read 4096 x 4096 pixels in tiles of 256 region by region, and count how often each tile is decoded."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    path, side = tmp_path / "image.tif", 4096
    tile = np.zeros((256, 256), np.uint16)
    options = {"shape": (side, side), "dtype": np.uint16, "tile": (256, 256), "compression": "zlib", "maxworkers": 1}
    tifffile.imwrite(path, iter([tile] * 256), **options)
    decoded: Counter[int] = Counter()
    with open_image(path) as reader:
        assert isinstance(reader, TiffReader)
        (source,) = reader._sources.values()
        decode = source.decode  # type: ignore[union-attr]

        def counted(data: bytes, index: int, **tables: Any) -> Any:
            decoded[index] += 1
            return decode(data, index, **tables)

        monkeypatch.setattr(source, "decode", counted)
        for top in range(0, side, size[0]):
            for left in range(0, side, size[1]):
                reader.read(Region(top, left, min(size[0], side - top), min(size[1], side - left)))
    assert set(decoded) == set(range(256))
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize("name", ["a" * 300 + ".tif", "a\0b.tif", "a\0b", "b" * 300])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    assert not is_image_file(tmp_path / name)
    assert not is_image_file(tmp_path / name / "image.tif")
