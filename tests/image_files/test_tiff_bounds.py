"""Strips and tiles of TIFFs that decode to more than their tags say."""

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.encoded_size import (
    jpeg2000_size,
    jpeg_size,
    lerc_size,
    png_size,
    require_jpeg_tables,
    webp_size,
)
from fastmunit.image_files.open import open_image
from tests.image_files.encoded_tiffs import SIDE, read_measured, write_encoded

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

LARGE = 3000
ALLOWED = 8 << 20
"""Bytes that a refused image may take. Decoded, it has `LARGE` ** 2, and decoders need several times that."""


def gray(side: int) -> np.ndarray:
    return (np.indices((side, side)).sum(0) % 200).astype(np.uint8)


def color(side: int) -> np.ndarray:
    return np.stack([gray(side)] * 3, -1)


def jpeg2000(values: np.ndarray, boxes: bool = False) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="JP2" if boxes else "J2K"))


def jpeg(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values))


def webp(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.webp_encode(values, lossless=True))


# Codec, TIFF's number, encoder, samples.
CODECS: dict[str, tuple[int, Callable[[np.ndarray], bytes], int]] = {
    "jpeg": (7, jpeg, 1),
    "jpeg color": (33007, jpeg, 3),
    "jpeg 2000": (34712, jpeg2000, 1),
    "jpeg 2000 boxes": (34712, lambda values: jpeg2000(values, boxes=True), 1),
    "jpeg 2000 aperio": (33005, jpeg2000, 3),
    "webp": (50001, webp, 3),
    "webp lossy": (50001, lambda values: bytes(imagecodecs.webp_encode(values, lossless=False)), 3),
    "webp old": (34927, webp, 3),
    "png": (34933, lambda values: bytes(imagecodecs.png_encode(values)), 1),
    "lerc": (34887, lambda values: bytes(imagecodecs.lerc_encode(values)), 1),
}
LOSSY = {"jpeg", "jpeg color", "webp lossy"}


def image(samples: int, side: int) -> np.ndarray:
    return gray(side) if samples == 1 else color(side)


@pytest.mark.parametrize("strips", [False, True], ids=["tiles", "strips"])
@pytest.mark.parametrize("name", CODECS)
def test_codecs_are_read(tmp_path: Path, name: str, strips: bool) -> None:
    compression, encode, samples = CODECS[name]
    values = image(samples, SIDE)
    with open_image(
        write_encoded(tmp_path / "image.tif", compression, encode(values), samples, strips=strips)
    ) as reader:
        found = reader.read().transpose(1, 2, 0).reshape(values.shape)
    np.testing.assert_allclose(found.astype(int), values, atol=30 if name in LOSSY else 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_parts_larger_than_their_tags_say(tmp_path: Path) -> None:
    warm, paths = tmp_path / "warm", []
    warm.mkdir()
    for name, (compression, encode, samples) in CODECS.items():
        write_encoded(warm / f"{name}.tif", compression, encode(image(samples, SIDE)), samples)
        large = encode(np.zeros_like(image(samples, LARGE)))
        paths.append(write_encoded(tmp_path / f"{name}.tif", compression, large, samples))
        paths.append(write_encoded(tmp_path / f"{name} strips.tif", compression, large, samples, strips=True))
    bands = CODECS["lerc"][1](np.zeros((SIDE, SIDE), np.uint8)) * 10_000
    paths.append(write_encoded(tmp_path / "bands.tif", 34887, bands))
    for path, (text, grown) in zip(paths, read_measured(warm, paths), strict=True):
        assert f"{path.name}: one of its " in text and "decodes to" in text and "where the tags say 32 x 32" in text
        assert grown < ALLOWED, path.name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_compressors_of_bytes_stop_at_the_tile(tmp_path: Path) -> None:
    warm, content, start = tmp_path / "warm", bytes(1 << 25), bytes(SIDE * SIDE)
    warm.mkdir()
    encoders = {
        5: imagecodecs.lzw_encode,
        8: zlib.compress,
        32773: lambda data: b"\x81\0" * (len(data) // 128),
        34925: imagecodecs.lzma_encode,
        50000: imagecodecs.zstd_encode,
    }
    paths = []
    for compression, encode in encoders.items():
        good, bomb = bytes(encode(start)), bytes(encode(content))
        write_encoded(warm / f"{compression}.tif", compression, good)
        for kind, data in (("one", bomb), ("members", good + bomb)):
            paths.append(write_encoded(tmp_path / f"{compression} {kind}.tif", compression, data))
    for path, (text, grown) in zip(paths, read_measured(warm, paths), strict=True):
        assert text == "(1, 32, 32)" or path.name in text
        assert grown < ALLOWED, path.name


@pytest.mark.parametrize(("compression", "name"), [(50002, "JPEGXL"), (34934, "JPEGXR"), (22610, "JPEGXR_NDPI")])
def test_codecs_without_a_bound_are_refused(tmp_path: Path, compression: int, name: str) -> None:
    path = write_encoded(tmp_path / "image.tif", compression, bytes(100))
    with pytest.raises(DataError, match=rf"image\.tif: its compression {name} is not read, as the size"):
        open_image(path)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg", "photometric": "rgb", "subsampling": (2, 2), "tile": (16, 32)},
        {"compression": "jpeg", "photometric": "rgb", "rowsperstrip": 16},
        {"compression": "jpeg", "photometric": "minisblack", "planarconfig": "separate", "tile": (16, 16)},
        {"compression": "jpeg2000", "photometric": "rgb", "tile": (16, 32)},
        {"compression": "jpeg2000", "photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 7},
        {"compression": "webp", "photometric": "rgb", "rowsperstrip": 7},
        {"compression": "png", "photometric": "rgb", "tile": (16, 16)},
        {"compression": "lerc", "photometric": "rgb", "tile": (16, 16)},
        {"compression": "lerc", "photometric": "rgb", "rowsperstrip": 7},
    ],
    ids=str,
)
def test_edges(tmp_path: Path, options: dict) -> None:
    """Read images whose sides are no multiples of their tiles and strips."""
    values = color(50)[:39, :, :]
    separate = options.get("planarconfig") == "separate"
    stored = np.ascontiguousarray(values.transpose(2, 0, 1)) if separate else values
    tifffile.imwrite(tmp_path / "image.tif", stored, metadata=None, **options)
    with open_image(tmp_path / "image.tif") as reader:
        found = reader.read()
    expected = tifffile.imread(tmp_path / "image.tif")
    np.testing.assert_array_equal(found, expected if separate else expected.transpose(2, 0, 1))


@pytest.mark.parametrize("compression", ["jpeg2000", "png", "lerc"])
def test_sixteen_bits(tmp_path: Path, compression: str) -> None:
    values = gray(40).astype(np.uint16) * 300
    tifffile.imwrite(tmp_path / "image.tif", values, compression=compression, tile=(16, 16))
    with open_image(tmp_path / "image.tif") as reader:
        np.testing.assert_array_equal(reader.read()[0], values)


def test_headers_of_jpeg_2000() -> None:
    good = jpeg2000(gray(255))
    assert jpeg2000_size(good) == (255, 255, 1)
    small, boxed = bytearray(good), jpeg2000(gray(32), boxes=True)
    struct.pack_into(">II", small, 24, 1, 1)
    with pytest.raises(DataError, match=r"65,025 tiles of 1 x 1 pixels"):
        jpeg2000_size(bytes(small))
    at = boxed.index(b"\xff\x4f\xff\x51")
    lying = boxed[:at] + good
    assert jpeg2000_size(lying) == (255, 255, 1)  # the box says 32 x 32
    with pytest.raises(DataError, match="have a palette"):
        jpeg2000_size(boxed.replace(b"colr", b"pclr"))
    for data in (b"", good[:30], boxed[:20], boxed[:at], bytes(100), good[:8] + bytes(8) + good[16:]):
        with pytest.raises(DataError, match="JPEG 2000"):
            jpeg2000_size(data)


def test_headers_of_jpeg() -> None:
    good = jpeg(color(40))
    assert jpeg_size(good) == (40, 40, 3)
    at = good.index(b"\xff\xc0")
    larger = good[at : at + 5] + struct.pack(">HH", 3000, 30) + good[at + 9 : at + 19]
    assert jpeg_size(good[:at] + larger + good[at:]) == (3000, 40, 3)  # whichever a decoder reads
    assert jpeg_size(good[:at] + b"\xff" * 9 + good[at:]) == (40, 40, 3)
    empty = bytearray(good)
    empty[at + 5 : at + 7] = bytes(2)
    for data in (b"", good[:2], good[: at + 6], bytes(empty), good[:2] + b"\0" + good[2:], good[:2] + b"\xff\xd9"):
        with pytest.raises(DataError, match="its JPEG data have no valid header"):
            jpeg_size(data)
    with pytest.raises(DataError, match="its JPEG tables have an image"):
        require_jpeg_tables(good)


def test_headers_of_webp_png_and_lerc() -> None:
    assert webp_size(webp(color(40)))[:2] == (40, 40)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\0" + b"\x0f\0\0"
    data = webp(color(40))
    assert webp_size(data[:12] + canvas + data[12:])[:2] == (40, 65536)
    with pytest.raises(DataError, match="animation"):
        webp_size(data[:12] + canvas[:8] + b"\2" + canvas[9:] + data[12:])
    png = bytes(imagecodecs.png_encode(gray(32)))
    assert png_size(png)[:2] == (32, 32)
    text = zlib.compress(bytes(1 << 20))
    with pytest.raises(DataError, match="a chunk b'zTXt', which is not read"):
        png_size(png[:33] + struct.pack(">I", len(text)) + b"zTXt" + text + bytes(4) + png[33:])
    lerc = bytes(imagecodecs.lerc_encode(gray(32)))
    assert lerc_size(lerc) == (32, 32, 1)
    assert lerc_size(lerc * 3) == (32, 32, 3)
    for broken in (b"", lerc[:20], b"CntZImage " + lerc, lerc[:6] + b"\x09" + lerc[7:]):
        with pytest.raises(DataError, match="its LERC data have no valid header"):
            lerc_size(broken)
