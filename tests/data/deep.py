"""PNGs that Pillow cannot write: with 16 bits per color, and damaged ones with correct checksums."""

import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import takewhile

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# First column, first row, and steps of each of the seven passes of an interlaced PNG.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def stored_rows(pixels: np.ndarray, interlaced: bool = False) -> bytes:
    """Return the bytes of all rows, each after its filter byte. Filters 0 to 2 (none, left, above) alternate."""
    parts = [pixels]
    if interlaced:
        parts = [pixels[top::down, left::right] for left, top, right, down in _PASSES]
    return b"".join(row for part in parts if part.size for row in _filtered(part))


def deep_png(
    pixels: np.ndarray, orientation: int = 1, interlaced: bool = False, rows: bytes | None = None, late: bool = False
) -> bytes:
    """Encode (H, W, 1 to 4) uint16. `rows` replaces `stored_rows`, `late` puts the orientation after the data."""
    height, width, bands = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[bands], 0, 0, int(interlaced))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = chunk(b"eXIf", exif.tobytes()[6:])
    data = zlib.compress(stored_rows(pixels, interlaced) if rows is None else rows)
    half = len(data) // 2
    content = SIGNATURE + chunk(b"IHDR", header) + (b"" if late else turned)
    content += chunk(b"IDAT", data[:half]) + chunk(b"IDAT", data[half:]) + (turned if late else b"")
    return content + chunk(b"IEND", b"")


def with_changed_rows(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return a PNG with changed decompressed data and correct checksums."""
    chunks = list(_chunks(content))
    data = zlib.decompress(b"".join(part for name, part in chunks if name == b"IDAT"))
    before = [chunk(name, part) for name, part in takewhile(lambda item: item[0] != b"IDAT", chunks)]
    return SIGNATURE + b"".join(before) + chunk(b"IDAT", zlib.compress(change(data), 1)) + chunk(b"IEND", b"")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(SIGNATURE)
    while position < len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        yield name, content[position + 8 : position + 8 + length]
        position += 12 + length


def _filtered(pixels: np.ndarray) -> Iterator[bytes]:
    above = np.zeros(pixels[0].size * 2, dtype=np.uint8)
    pixel = 2 * pixels.shape[2]
    for index, row in enumerate(pixels):
        levels = np.frombuffer(row.astype(">u2").tobytes(), dtype=np.uint8)
        left = np.concatenate([np.zeros(pixel, dtype=np.uint8), levels[:-pixel]])
        yield bytes([index % 3]) + (levels - (np.zeros_like(levels), left, above)[index % 3]).tobytes()
        above = levels
