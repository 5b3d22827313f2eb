"""The size that compressed images state in their headers, before a decoder allocates it.

Each function reads the header that decoders use. Where a format repeats a size, as in the boxes around JPEG 2000, the
largest one counts. Pillow's readers are no help here: they trust those boxes, allocate frames of WebP as they open it,
and refuse JPEGs of 12 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from fastmunit.errors import DataError
from fastmunit.image_files.png import SIGNATURE, read_header

_JPEG_START, _JPEG_END, _JPEG_SCAN = 0xD8, 0xD9, 0xDA
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
# Start of frame: all kinds of JPEG, then JPEG-LS.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_JPEG_2000_START = b"\xff\x4f\xff\x51"  # of a codestream, and of the segment with its size
# Decoders allocate some kilobytes for each tile inside of a JPEG 2000 image.
_MAX_TILES, _MIN_TILE_PIXELS = 1024, 1024
_WEBP_ANIMATION = 2  # a bit of the flags of VP8X
_LERC_START = b"Lerc2 "
_LERC_VERSIONS = range(1, 7)
# Text and color profiles may decompress to megabytes each.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"sBIT", b"gAMA", b"cHRM", b"sRGB", b"pHYs"})


class EncodedSize(NamedTuple):
    """The size of an image after decoding."""

    height: int
    width: int
    samples: int


def _damaged(codec: str) -> DataError:
    return DataError(f"its {codec} data have no valid header: it is damaged.")


def _largest(sizes: list[EncodedSize], codec: str) -> EncodedSize:
    """Return the largest height, width and number of samples. Zeros are refused."""
    if not sizes or min(map(min, sizes)) < 1:
        raise _damaged(codec)
    return EncodedSize(*map(max, zip(*sizes, strict=True)))


def jpeg_size(data: bytes) -> EncodedSize:
    """Return the size of a JPEG or JPEG-LS image.

    Raises:
        DataError: If there is no valid header before the first scan.
    """
    sizes = []
    for marker, start, end in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            if end - start < 6:
                raise _damaged("JPEG")
            sizes.append(EncodedSize(*struct.unpack_from(">xHHB", data, start)))
    return _largest(sizes, "JPEG")


def require_jpeg_tables(data: bytes) -> None:
    """Raise DataError unless `data` are tables of JPEG without an image."""
    if any(marker in _JPEG_FRAMES for marker, _, _ in _jpeg_segments(data)):
        raise DataError("its JPEG tables have an image: it is damaged.")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the markers up to the first scan or the end, and where their segments begin and end."""
    if data[:2] != bytes((0xFF, _JPEG_START)):
        raise _damaged("JPEG")
    position = 2
    while True:
        if data[position : position + 1] != b"\xff":
            raise _damaged("JPEG")
        while data[position : position + 1] == b"\xff":  # any number of them may come before a marker
            position += 1
        marker = data[position] if position < len(data) else _JPEG_START
        if marker in (_JPEG_END, _JPEG_SCAN):
            return
        position += 1
        if marker in _JPEG_ALONE:
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if marker in (0, _JPEG_START) or not position + 2 <= end <= len(data):
            raise _damaged("JPEG")
        yield marker, position + 2, end
        position = end


def jpeg2000_size(data: bytes) -> EncodedSize:
    """Return the size of a JPEG 2000 image: a codestream, or one in boxes.

    Raises:
        DataError: If there is no valid header, or the image has a palette or tiny tiles, which need much more memory.
    """
    start = _codestream(data)
    if len(data) < start + 42 or data[start : start + 4] != _JPEG_2000_START:
        raise _damaged("JPEG 2000")
    right, bottom, left, top, width, height, x, y, samples = struct.unpack_from(">8IH", data, start + 8)
    size = _largest([EncodedSize(bottom - top, right - left, samples)], "JPEG 2000")
    if not width or not height or x > left or y > top:
        raise _damaged("JPEG 2000")
    tiles = -(-(right - x) // width) * -(-(bottom - y) // height)
    if tiles > max(_MAX_TILES, size.height * size.width // _MIN_TILE_PIXELS):
        raise DataError(f"its JPEG 2000 data have {tiles:,} tiles of {height} x {width} pixels: it is damaged.")
    return size


def _codestream(data: bytes) -> int:
    """Return the position of the codestream in a JPEG 2000 image."""
    if data.startswith(_JPEG_2000_START):
        return 0
    position = 0
    while len(head := data[position : position + 16]) >= 8:
        length, kind = struct.unpack_from(">I4s", head)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if not 8 <= length <= len(data) - position:
            break
        if kind == b"jp2h" and b"pclr" in data[position : position + length]:
            raise DataError("its JPEG 2000 data have a palette: convert it to RGB.")
        position += length
    raise _damaged("JPEG 2000")


def webp_size(data: bytes) -> EncodedSize:
    """Return the size of a WebP image.

    Raises:
        DataError: If there is no valid header, or it is an animation.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise _damaged("WebP")
    sizes, position = [], 12
    while len(head := data[position : position + 18]) >= 8:
        kind, length, content = head[:4], int.from_bytes(head[4:8], "little"), head[8:].ljust(10, b"\0")
        if kind == b"VP8X":
            if content[0] & _WEBP_ANIMATION:
                raise DataError("its WebP data are an animation: it is damaged.")
            width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (4, 7))
            sizes.append(EncodedSize(height, width, 4))
        elif kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", content, 6)
            sizes.append(EncodedSize(height & 0x3FFF, width & 0x3FFF, 3))
        elif kind == b"VP8L":
            bits = int.from_bytes(content[1:5], "little")
            sizes.append(EncodedSize(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), 4))
        position += 8 + length + (length & 1)
    return _largest(sizes, "WebP")


def png_size(data: bytes) -> EncodedSize:
    """Return the size of a PNG image.

    Raises:
        DataError: If there is no valid header, or there are chunks that no pixels need.
    """
    header = read_header(data[:29])
    if header is None:
        raise _damaged("PNG")
    position = len(SIGNATURE)
    while len(head := data[position : position + 8]) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind not in _PNG_CHUNKS:
            raise DataError(f"its PNG data have a chunk {kind!r}, which is not read: write it without metadata.")
        position += length + 12
    return _largest([EncodedSize(header.height, header.width, 4)], "PNG")


def lerc_size(data: bytes) -> EncodedSize:
    """Return the size of a LERC image. Its samples are in one part or in several.

    Raises:
        DataError: If there is no valid header, or parts have different sizes.
    """
    sizes: list[EncodedSize] = []
    position = 0
    while data.startswith(_LERC_START, position):
        head = data[position : position + 40]
        version = int.from_bytes(head[6:10], "little", signed=True)
        if len(head) < 40 or version not in _LERC_VERSIONS:
            raise _damaged("LERC")
        fields = struct.unpack_from("<6i", head, 10 if version < 3 else 14)  # later ones begin with a checksum
        height, width, samples = (*fields[:2], 1) if version < 4 else fields[:3]
        length = fields[4] if version < 4 else fields[5]
        if length < 1 or (sizes and sizes[0][:2] != (height, width)):
            raise _damaged("LERC")
        sizes.append(EncodedSize(height, width, samples))
        position += length
    size = _largest(sizes, "LERC")
    return size._replace(samples=sum(part.samples for part in sizes))
