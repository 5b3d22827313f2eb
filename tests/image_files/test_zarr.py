import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image, writer_like
from fastmunit.region import Region
from tests.image_files.images import HEIGHT, WIDTH, check_reading, copied, pixels

zarr = pytest.importorskip("zarr", minversion="3")

VERSIONS = (2, 3)


def write_ome(path: Path, image: np.ndarray, version: int, levels: int = 2) -> dict[str, Any]:
    """Write an OME-Zarr image (t, c, z, y, x) and return its metadata."""
    kinds = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
    scales = {
        "version": "0.4",
        "axes": [{"name": name, "type": kind} for name, kind in kinds.items()],
        "datasets": [
            {
                "path": f"s{level}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, 1.0, 2.0, 0.5 * 2**level, 0.5 * 2**level]}
                ],
            }
            for level in range(levels)
        ],
    }
    window = {"start": 0, "end": 4095, "min": 0, "max": 65535}
    omero = {"channels": [{"label": name, "color": "00FF00", "window": window} for name in "abc"]}
    metadata = {"multiscales": [scales], "omero": omero}
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.attrs.update({"ome": metadata} if version == 3 else metadata)
    group.attrs["lab"] = "ours"
    for level in range(levels):
        part = image[..., :: 2**level, :: 2**level]
        keys = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if version == 2 else {}
        group.create_array(f"s{level}", shape=part.shape, dtype=part.dtype, chunks=(1, 2, 3, 16, 32), **keys)[:] = part
    return metadata


@pytest.mark.parametrize("version", VERSIONS)
def test_ome_zarr(tmp_path: Path, version: int) -> None:
    image = pixels(2, 3, 4)
    source, target = tmp_path / "image.ome.zarr", tmp_path / "copy.ome.zarr"
    metadata = write_ome(source, image, version)
    check_reading(source, image.swapaxes(1, 2).reshape(8, 3, HEIGHT, WIDTH))
    with open_image(source) as reader:
        assert is_image_file(source)
        assert reader.levels == ((37, 53), (19, 27)) and reader.window == (0.0, 4095.0)
        assert reader.channel_names == ("a", "b", "c")
    copied(source, target)
    group = zarr.open_group(target, mode="r")
    attributes = group.attrs.asdict()
    assert attributes["lab"] == "ours"
    found = attributes["ome"] if version == 3 else attributes
    assert found["omero"] == metadata["omero"]
    assert found["multiscales"][0]["axes"] == metadata["multiscales"][0]["axes"]
    first, second = (
        dataset["coordinateTransformations"][0]["scale"] for dataset in found["multiscales"][0]["datasets"]
    )
    assert first == [1.0, 1.0, 2.0, 0.5, 0.5]
    assert second == pytest.approx([1.0, 1.0, 2.0, 0.5 * 37 / 19, 0.5 * 53 / 27])
    array = group["s0"]
    assert array.metadata.zarr_format == version and array.chunks == (1, 2, 3, 16, 32) and array.dtype == np.uint16
    np.testing.assert_array_equal(array[:], image)
    assert group["s1"].shape == (2, 3, 4, 19, 27)


def test_other_channels(tmp_path: Path) -> None:
    write_ome(tmp_path / "image.zarr", pixels(1, 3, 2), 2)
    values = copied(tmp_path / "image.zarr", tmp_path / "copy.zarr", 2, "float32", ("H", "E"))
    check_reading(tmp_path / "copy.zarr", values)
    with open_image(tmp_path / "copy.zarr") as reader:
        assert reader.channel_names == ("H", "E") and reader.dtype == np.float32


@pytest.mark.parametrize("version", VERSIONS)
def test_array(tmp_path: Path, version: int) -> None:
    image = pixels(dtype="float32")
    options: dict[str, Any] = {"shards": (32, 32), "dimension_names": ("lat", "lon")} if version == 3 else {}
    array = zarr.create_array(
        tmp_path / "image.zarr", shape=image.shape, dtype="float32", chunks=(16, 16), zarr_format=version, **options
    )
    array[:] = image
    array.attrs["units"] = "K"
    check_reading(tmp_path / "image.zarr", image[None, None])
    copied(tmp_path / "image.zarr", tmp_path / "copy.zarr")
    after = zarr.open_array(tmp_path / "copy.zarr", mode="r")
    assert after.attrs.asdict() == {"units": "K"}
    assert (after.chunks, after.shards) == (array.chunks, array.shards)
    assert getattr(after.metadata, "dimension_names", None) == options.get("dimension_names")
    np.testing.assert_array_equal(after[:], image)
    values = copied(tmp_path / "image.zarr", tmp_path / "rgb.zarr", channels=3)
    check_reading(tmp_path / "rgb.zarr", values)


def test_group_with_one_array(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "image.zarr", mode="w")
    group.create_array("data", shape=(3, HEIGHT, WIDTH), dtype="uint16")[:] = pixels(3)
    check_reading(tmp_path / "image.zarr", pixels(3)[None])
    copied(tmp_path / "image.zarr", tmp_path / "copy.zarr")
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "copy.zarr")["data"][:], pixels(3))
    group.create_array("more", shape=(3, 3), dtype="uint16")
    with pytest.raises(DataError, match=r"got 2 arrays \(data, more\): give the path of one of them"):
        open_image(tmp_path / "image.zarr")
    check_reading(tmp_path / "image.zarr" / "data", pixels(3)[None])


def test_only_chunks_of_a_region_are_read(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    array = zarr.create_array(path, shape=(64, 64), dtype="uint16", chunks=(16, 16), zarr_format=2)
    array[:] = 7
    (path / "3.3").write_bytes(b"damaged")
    with open_image(path) as reader:
        assert (reader.read(Region(1, 2, 40, 40)) == 7).all()
        with pytest.raises(DataError, match=r"image.zarr"):
            reader.read()


def test_parts_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    path, secret = tmp_path / "image.zarr", tmp_path / "secret"
    array = zarr.create_array(path, shape=(32, 32), dtype="uint8", chunks=(32, 32), compressors=None, zarr_format=2)
    array[:] = 1
    secret.write_bytes(b"s" * 1024)
    (path / "0.0").unlink()
    (path / "0.0").symlink_to(secret)
    with open_image(path) as reader, pytest.raises(DataError, match=r"'0.0' is outside of its folder"):
        reader.read()
    (path / "0.0").unlink()
    os.mkfifo(path / "0.0")
    with open_image(path) as reader, pytest.raises(DataError, match=r"'0.0' is not a regular file"):
        reader.read()


def test_paths_of_datasets_are_inside(tmp_path: Path) -> None:
    for bad in ("../other", "/etc", "s0/../../x", "", 5):
        path = tmp_path / "image.zarr"
        write_ome(path, pixels(1, 1, 1), 2)
        attributes = json.loads((path / ".zattrs").read_text())
        attributes["multiscales"][0]["datasets"][0]["path"] = bad
        (path / ".zattrs").write_text(json.dumps(attributes))
        with pytest.raises(DataError, match=r"expected the path of a dataset inside of the image"):
            open_image(path)


def test_codecs_that_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    zarr.create_array(path, shape=(32, 32), dtype="uint8", chunks=(32, 32), zarr_format=2)[:] = 1
    metadata = json.loads((path / ".zarray").read_text())
    for place in ("compressor", "filters"):
        codec = {"id": "pickle"}
        (path / ".zarray").write_text(json.dumps(metadata | {place: [codec] if place == "filters" else codec}))
        with pytest.raises(DataError, match=r"image.zarr"):
            open_image(path)


def test_damaged_metadata(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    zarr.create_array(path, shape=(32, 32), dtype="uint8", chunks=(32, 32), zarr_format=2)[:] = 1
    good = json.loads((path / ".zarray").read_text())
    huge = good | {"shape": [10**7, 10**7], "chunks": [10**6, 10**6]}
    for content in ("{", "[]", json.dumps(huge), json.dumps(good | {"dtype": "|O"}), json.dumps(good | {"shape": [5]})):
        (path / ".zarray").write_text(content)
        with pytest.raises(DataError, match=r"image.zarr"):
            open_image(path)


def test_types_that_are_no_pixels_are_refused(tmp_path: Path) -> None:
    for dtype in ("complex64", "bool"):
        zarr.create_array(tmp_path / "image.zarr", shape=(5, 5), dtype=dtype, overwrite=True)
        with pytest.raises(DataError, match=rf"type {dtype}"):
            open_image(tmp_path / "image.zarr")


def test_existing_folders_are_kept(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "image.zarr", shape=(5, 5), dtype="uint8")
    (tmp_path / "copy.zarr").mkdir()
    (tmp_path / "copy.zarr" / "notes.txt").write_text("mine")
    with open_image(tmp_path / "image.zarr") as reader:
        with pytest.raises(DataError, match=r"copy.zarr exists and is not an empty folder: delete it"):
            writer_like(reader, tmp_path / "copy.zarr", 1, "uint8")
        (tmp_path / "empty.zarr").mkdir()
        with writer_like(reader, tmp_path / "empty.zarr", 1, "uint8") as writer:
            writer.write(np.ones((1, 5, 5), np.uint8))
    assert (zarr.open_array(tmp_path / "empty.zarr")[:] == 1).all()
    assert [path.name for path in (tmp_path / "copy.zarr").iterdir()] == ["notes.txt"]
