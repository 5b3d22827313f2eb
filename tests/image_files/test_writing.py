"""The promises of all writers: complete or untouched targets, and named errors. Extras that are not installed."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fastmunit import files
from fastmunit.errors import DataError, FastmunitError
from fastmunit.image_files import staging
from fastmunit.image_files.open import is_image_file, open_image, suffixes, writer_like
from fastmunit.image_files.staging import halve
from fastmunit.image_files.writer import ImageWriter
from fastmunit.region import Region
from tests.image_files.images import HEIGHT, WIDTH, pixels

FORMATS = ("image.npy", "image.tif", "image.nii", "image.zarr")


def source(folder: Path, name: str) -> Path:
    """Write an image of uint16 in a format."""
    path = folder / name
    image = pixels()
    if name.endswith(".npy"):
        np.save(path, image)
    elif name.endswith(".tif"):
        pytest.importorskip("tifffile").imwrite(path, image)
    elif name.endswith(".nii"):
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(image.T, np.eye(4)), path)
    else:
        zarr = pytest.importorskip("zarr", minversion="3")
        zarr.create_array(path, shape=image.shape, dtype=image.dtype)[:] = image
    return path


def remaining(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_missing_pixels_and_aborted_writers_leave_nothing(tmp_path: Path, name: str) -> None:
    with open_image(source(tmp_path, name)) as reader:
        target = tmp_path / "out" / f"new{Path(name).suffix}"
        writer = writer_like(reader, target, 1, "uint16")
        writer.write(pixels(1)[:, 1:], Region(1, 0, HEIGHT - 1, WIDTH))
        with pytest.raises(DataError, match=r"was not written: 53 of 1,961 pixels are missing"):
            writer.finish()
        with suppress(KeyError), writer_like(reader, target, 1, "uint16") as writer:
            writer.write(pixels(1))
            raise KeyError
        writer = writer_like(reader, target, 1, "uint16")
        writer.write(pixels(1))
        writer.abort()
        writer.finish()
        with pytest.raises(DataError, match=r"already finished or aborted"):
            writer.write(pixels(1))
    assert remaining(tmp_path / "out") == []


@pytest.mark.parametrize("name", FORMATS)
def test_full_disk_while_staging(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path, name)
    written = []

    def pwrite(descriptor: int, data: bytes, position: int) -> int:
        if len(written) >= 0.9 * HEIGHT:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(position)
        return original(descriptor, data, position)

    original = os.pwrite
    target = tmp_path / "out" / f"new{Path(name).suffix}"
    monkeypatch.setattr(os, "pwrite", pwrite)

    def fill(writer: ImageWriter) -> None:
        for row in range(HEIGHT):
            writer.write(pixels(1)[:, row : row + 1, :30], Region(row, 0, 1, 30))

    with open_image(path) as reader, writer_like(reader, target, 1, "uint16") as writer:
        with pytest.raises(FastmunitError, match=r"cannot write .*new.*: No space left"):
            fill(writer)
        assert len(written) >= 0.9 * HEIGHT
        writer.abort()
    assert remaining(tmp_path / "out") == []


@pytest.mark.parametrize("name", FORMATS[:3])
def test_full_disk_while_encoding_keeps_the_old_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path, name)
    before = path.read_bytes()

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_image(path) as reader:
        writer = writer_like(reader, path, 1, "float32")
        writer.write(pixels(1, dtype="float32"))
        monkeypatch.setattr(files.os, "fsync", fsync)
        with pytest.raises(FastmunitError, match=rf"cannot write .*{name}: No space left on device"):
            writer.finish()
    assert path.read_bytes() == before
    assert remaining(tmp_path) == [name]


def test_full_disk_while_a_folder_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path, "image.zarr")

    def rename(self: Path, target: Path) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with open_image(path) as reader:
        writer = writer_like(reader, tmp_path / "new.zarr", 1, "uint16")
        writer.write(pixels(1))
        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(FastmunitError, match=r"cannot write .*new.zarr: Disk quota exceeded"):
            writer.finish()
    assert remaining(tmp_path) == ["image.zarr"]


def test_disk_space_is_reserved_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = errno.ENOSPC

    def fallocate(descriptor: int, offset: int, size: int) -> None:
        assert size == HEIGHT * WIDTH * (4 if code == errno.ENOSPC else 2)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(staging.os, "posix_fallocate", fallocate)
    with open_image(source(tmp_path, "image.npy")) as reader, pytest.raises(FastmunitError, match=r"No space left"):
        writer_like(reader, tmp_path / "new.npy", 1, "float32")
    code = errno.EOPNOTSUPP  # a file system that cannot
    with open_image(tmp_path / "image.npy") as reader, writer_like(reader, tmp_path / "new.npy", 1, "uint16") as writer:
        writer.write(pixels(1))
    np.testing.assert_array_equal(np.load(tmp_path / "new.npy"), pixels())


def test_an_image_can_replace_itself(tmp_path: Path) -> None:
    path = source(tmp_path, "image.npy")
    with open_image(path) as reader, writer_like(reader, path, 1, "uint16") as writer:
        for top in range(0, HEIGHT, 10):
            region = Region(top, 0, min(10, HEIGHT - top), WIDTH)
            writer.write(reader.read(region) + np.uint16(1), region)
    np.testing.assert_array_equal(np.load(path), pixels() + 1)


def test_wrong_arrays_and_regions(tmp_path: Path) -> None:
    with open_image(source(tmp_path, "image.npy")) as reader:
        for region, plane in ((Region(0, 0, HEIGHT + 1, 1), 0), (Region(-1, 0, 1, 1), 0), (Region(0, 0, -1, 1), 0)):
            with pytest.raises(DataError, match=r"expected a region inside 37 x 53 pixels"):
                reader.read(region, plane)
        with pytest.raises(DataError, match=r"expected a plane from 0 to 0, got 1"):
            reader.read(plane=1)
        with writer_like(reader, tmp_path / "new.npy", 1, "uint16") as writer:
            for bad in (pixels(2), pixels(1, dtype="float32"), pixels()):
                with pytest.raises(DataError, match=r"expected an array \(1, 37, 53\) of uint16, got"):
                    writer.write(bad)
            with pytest.raises(DataError, match=r"expected a region inside"):
                writer.write(pixels(1), Region(1, 0, HEIGHT, WIDTH))
            writer.write(pixels(1))
        with pytest.raises(DataError, match=r"integers or floats, got complex128"):
            writer_like(reader, tmp_path / "new.npy", 1, "complex128")
        with pytest.raises(DataError, match=r"expected 2 channel names, got 3: a, b, c"):
            writer_like(reader, tmp_path / "new.npy", 2, "uint8", ["a", "b", "c"])


def test_paths_that_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "dangling.npy").symlink_to(tmp_path / "nowhere")
    for name, message in (
        ("pipe.tif", "is a FIFO"),
        ("text.tif", "has no known format"),
        ("empty.npy", "has no known format"),
        ("dangling.npy", "does not exist"),
        ("missing.tif", "does not exist"),
    ):
        assert not is_image_file(tmp_path / name)
        with pytest.raises(DataError, match=message):
            open_image(tmp_path / name)
    assert {".tif", ".svs", ".npy", ".nii.gz", ".zarr", ".dcm", ".png"} <= set(suffixes())


def test_links_to_images_are_followed(tmp_path: Path) -> None:
    path = source(tmp_path, "image.npy")
    (tmp_path / "link.npy").symlink_to(path)
    with open_image(tmp_path / "link.npy") as reader:
        np.testing.assert_array_equal(reader.read()[0], pixels())


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("image.tif", "tifffile", "tiff"), ("image.nii", "nibabel", "nifti"), ("image.zarr", "zarr", "zarr")],
)
def test_missing_packages(tmp_path: Path, name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert is_image_file(path)
    command = rf'needs the package {package}, not installed here: pip install "fastmunit\[{extra}\]"'
    with pytest.raises(DataError, match=command):
        open_image(path)


def test_halve() -> None:
    integers = np.array([[[1, 2, 9], [3, 4, 9], [7, 7, 5]]], np.uint8)
    np.testing.assert_array_equal(halve(integers, None), [[[2, 9], [7, 5]]])
    np.testing.assert_array_equal(halve(integers, 9), [[[2, 9], [7, 5]]])
    floats = np.array([[[1, np.nan], [3, 8]]], np.float32)
    np.testing.assert_array_equal(halve(floats, None), [[[4]]])
    np.testing.assert_array_equal(halve(floats, 8), [[[2]]])
    assert np.isnan(halve(np.full((1, 2, 2), np.nan), None)).all()
