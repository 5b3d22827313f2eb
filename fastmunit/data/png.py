"""PNG decoding beyond Pillow: all 16 bits of color images, and a check for missing rows."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from PIL import Image, PngImagePlugin

from fastmunit.data.opening import ImageFile, content_of

# Layout of the bands of a PNG file -> layouts with which Pillow's decoder reads all of its bytes. The data are
# big-endian: a decoder that is set to little-endian keeps the low byte of each band instead of the high one. The two
# bands of LA have four bytes, like an RGBA pixel.
_LAYOUTS = {
    "RGB;16B": ("RGB;16B", "RGB;16L"),
    "RGBA;16B": ("RGBA;16B", "RGBA;16L"),
    "LA;16B": ("RGBA",),
}
# First column, first row, and steps to the right and down, of each pass of an interlaced PNG.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # bands of each color type in a header
_PIECE = 1 << 16


def stored_layout(image: Image.Image) -> str:
    """Return the layout and depth of the bands of a PNG file, or "" for other formats and decoded images."""
    return str(image.tile[0][3]) if isinstance(image, PngImagePlugin.PngImageFile) and image.tile else ""


def has_deep_colors(image: Image.Image) -> bool:
    """Return True if Pillow would reduce 16-bit bands of a PNG (LA, RGB, RGBA) to 8 bits.

    PNGs with one transparent color are excluded: Pillow compares that color after the reduction.
    """
    return stored_layout(image) in _LAYOUTS and "transparency" not in image.info


def deep_colors(path: ImageFile, layout: str) -> np.ndarray:
    """Return the stored bands of a PNG that `has_deep_colors`: (H, W, bands) uint16, without orientation.

    Args:
        path: File to read.
        layout: Result of `stored_layout` for the file.

    Raises:
        Exception: Any exception of Pillow if the file is damaged, including wrong checksums and missing rows.
    """
    content = content_of(path)
    with _opened(content) as image:
        image.verify()
    decoded = [_decoded(content, stored) for stored in _LAYOUTS[layout]]
    if len(decoded) == 1:
        return decoded[0].view(">u2").astype(np.uint16)
    high, low = decoded
    return high.astype(np.uint16) << 8 | low


def require_all_rows(path: ImageFile, image: Image.Image) -> None:
    """Check that no row of a PNG is missing. If the data end after a complete row, Pillow fills the others with zeros.

    Args:
        path: File to check.
        image: Image that Pillow decoded from the file. Other formats are not checked.

    Raises:
        ValueError: If rows are missing.
    """
    if isinstance(image, PngImagePlugin.PngImageFile) and _may_lack_rows(image):
        _require_all_rows(content_of(path))


def _may_lack_rows(image: Image.Image) -> bool:
    """Return True if rows of a decoded PNG may be missing, so that it must be decompressed again to check."""
    width, height = image.size
    last = image.crop((0, height - 1, width, height)).tobytes()
    return bool(image.info.get("interlace")) or not last.strip(b"\0")


def _require_all_rows(content: bytes) -> None:
    width, height, depth, color_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * _BANDS[color_type] * depth // 8))
    size = 0
    decompressor = zlib.decompressobj()
    for data in _image_data(content):
        rest = data
        while rest and size < expected:
            size += len(decompressor.decompress(rest, _PIECE))
            rest = decompressor.unconsumed_tail
    if size < expected:
        raise ValueError(f"its data end after {size} of {expected} bytes")


def _image_data(content: bytes) -> Iterator[bytes]:
    """Yield the contents of the IDAT chunks."""
    position = 8
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == b"IDAT":
            yield content[position + 8 : position + 8 + length]
        position += 12 + length


def _decoded(content: bytes, layout: str) -> np.ndarray:
    """Return the bands that Pillow decodes if the stored layout is set to `layout`: (H, W, bands) uint8."""
    with _opened(content) as image:
        decoder, extents, offset, _ = image.tile[0]
        image.tile = cast(Any, [(decoder, extents, offset, layout)])
        image.load()
        if _may_lack_rows(image):
            _require_all_rows(content)
        return np.array(image)


def _opened(content: bytes) -> PngImagePlugin.PngImageFile:
    return cast(PngImagePlugin.PngImageFile, Image.open(io.BytesIO(content), formats=("PNG",)))
