"""`.npy` files and 16-bit PNGs."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image, writer_like
from fastmunit.region import Region
from tests.image_files.images import HEIGHT, WIDTH, check_reading, copied, pixels


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "int64", "float16", ">f8"])
def test_npy_types(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "image.npy", pixels(2, dtype=dtype))
    check_reading(tmp_path / "image.npy", pixels(2, dtype=dtype)[None])
    copied(tmp_path / "image.npy", tmp_path / "copy.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "copy.npy"), pixels(2, dtype=dtype))


def test_npy_dimensions(tmp_path: Path) -> None:
    stack, path = pixels(4, 3), tmp_path / "image.npy"
    cases = (
        (stack[0, 0], stack[:1, :1]),
        (stack[0], stack[:1]),
        (stack[0].transpose(1, 2, 0), stack[:1]),
        (stack, stack),
        (stack.transpose(0, 2, 3, 1), stack),
    )
    for stored, expected in cases:
        for array in (stored, np.asfortranarray(stored)):
            np.save(path, array)
            check_reading(path, expected)
            copied(path, tmp_path / "copy.npy")
            np.testing.assert_array_equal(np.load(tmp_path / "copy.npy"), stored)


def test_npy_gets_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", pixels())
    values = copied(tmp_path / "image.npy", tmp_path / "copy.npy", channels=3, dtype="float32")
    np.testing.assert_array_equal(np.load(tmp_path / "copy.npy"), values[0])


def test_npy_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "image.npy"
    for array, message in (
        (np.array([{}, {}], dtype=object), "Python objects, which would need pickle"),
        (pixels(dtype="complex64"), "type complex64: expected integers or floats"),
        (pixels() > 3, "type bool"),
        (np.zeros(5), "expected 2, 3 or 4 dimensions, got 1"),
        (np.zeros((0, 5)), "expected a height between 1"),
        (np.zeros((5, 5), [("a", "f4")]), "expected integers or floats"),
    ):
        np.save(path, array)
        with pytest.raises(DataError, match=message):
            open_image(path)


def test_npy_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "image.npy"
    np.save(path, pixels())
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"image.npy.* is truncated: expected at least 4,050 bytes .* got 4,049"):
        open_image(path)
    path.write_bytes(data.replace(b"(37, 53)", b"(9999999999, 53)") if len(data) < 100 else data[:60])
    with pytest.raises(DataError, match=r"image.npy"):
        open_image(path)


def write_png(path: Path, image: np.ndarray, *chunks: tuple[bytes, bytes]) -> None:
    """Write a PNG (height, width, channels) of 16 bits with the filter that stores differences to the left."""
    color = {1: 0, 2: 4, 3: 2, 4: 6}[image.shape[2]]
    rows = image.astype(">u2").view(np.uint8).reshape(len(image), -1)
    step = 2 * image.shape[2]
    filtered = rows.copy()
    filtered[:, step:] -= rows[:, :-step]
    data = b"".join(b"\1" + row.tobytes() for row in filtered)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, color, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")):
            checksum = zlib.crc32(kind + content)
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))


def deep(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, channels), dtype=np.uint16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png(tmp_path: Path, channels: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    image = deep(channels)
    write_png(tmp_path / "image.png", image)
    check_reading(tmp_path / "image.png", image.transpose(2, 0, 1)[None])
    copied(tmp_path / "image.png", tmp_path / "copy.png")
    decoded = imagecodecs.png_decode((tmp_path / "copy.png").read_bytes())
    np.testing.assert_array_equal(decoded.reshape(image.shape), image)
    with Image.open(tmp_path / "copy.png") as opened:
        opened.verify()
    if channels == 1:
        with Image.open(tmp_path / "copy.png") as opened:
            np.testing.assert_array_equal(np.asarray(opened), image[..., 0])


def test_png_is_written_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmunit.image_files import staging

    pytest.importorskip("imagecodecs")
    monkeypatch.setattr(staging, "_MAX_VALUES", WIDTH * 3 * 5)
    write_png(tmp_path / "image.png", deep(3))
    copied(tmp_path / "image.png", tmp_path / "copy.png")
    check_reading(tmp_path / "copy.png", deep(3).transpose(2, 0, 1)[None])


def test_png_metadata_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    chunks = ((b"sBIT", b"\x0c\x0c\x0c"), (b"pHYs", struct.pack(">IIB", 3000, 2000, 1)), (b"tEXt", b"Title\0slide"))
    write_png(tmp_path / "image.png", deep(3), *chunks)
    with open_image(tmp_path / "image.png") as reader:
        assert (reader.bits, reader.value_range, reader.channel_names) == (12, (0.0, 4095.0), ("R", "G", "B"))
    copied(tmp_path / "image.png", tmp_path / "copy.png")
    with Image.open(tmp_path / "copy.png") as opened:
        assert opened.info["Title"] == "slide"
        assert opened.info["dpi"] == pytest.approx((3000 * 0.0254, 2000 * 0.0254))


def test_png_channels_and_types(tmp_path: Path) -> None:
    write_png(tmp_path / "image.png", deep(1))
    with open_image(tmp_path / "image.png") as reader:
        for channels, dtype in ((5, "uint16"), (3, "uint8"), (1, "float32")):
            with pytest.raises(DataError, match=r"a 16-bit PNG has 1 to 4 channels of uint16, got"):
                writer_like(reader, tmp_path / "copy.png", channels, dtype)


def test_8_bit_png_is_an_ordinary_image(tmp_path: Path) -> None:
    Image.fromarray(pixels(dtype="uint8")).save(tmp_path / "image.png")
    assert not is_image_file(tmp_path / "image.png")
    write_png(tmp_path / "image.png", deep(1))
    assert is_image_file(tmp_path / "image.png")


def test_damaged_png(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    path = tmp_path / "image.png"
    write_png(path, deep(3))
    data = path.read_bytes()
    cases = (
        (data[:-30], "ends before its pixels do: it is truncated"),
        (data[:5000] + b"!" + data[5001:], "has a wrong checksum"),
        (
            data[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + data[24:],
            "too few for 2147483647 x 2147483647 pixels",
        ),
        (data[:16] + struct.pack(">II", 0, 5) + data[24:], "expected a width between 1"),
    )
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message), open_image(path) as reader:
            reader.read(Region(0, 0, 1, 1))
