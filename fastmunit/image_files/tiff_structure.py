"""The directories of a TIFF file, checked before a library that trusts them reads it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from fastmunit.errors import DataError
from fastmunit.image_files.tiff_pages import shaped_description

_MAX_PAGES = 1 << 16
_MAX_TAGS = 4096
_SUBIFDS = 330
_PARTS = (322, _SUBIFDS)  # tiles, and levels of a pyramid
# Georeference, and GDAL's metadata and value of missing data.
_GEOREFERENCE = (33550, 33922, 34264, 34735, 42112, 42113)
_WHITE, _GRAY, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
# Samples of a pixel by the interpretation of its colors, without alpha.
_SAMPLES = {_WHITE: 1, _GRAY: 1, _RGB: 3, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_CONVERTED = (_WHITE, _LAB, 9, 10)  # MinIsWhite and Lab, which Pillow converts
# Type code -> size in bytes, and the format of its values for the integer types.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}


class Tag(NamedTuple):
    """An entry of a directory: the code of its type, the number of values, and their position in the file."""

    type: int
    number: int
    position: int


class Directory(NamedTuple):
    """A directory, which describes one page or one level of a pyramid."""

    tags: dict[int, Tag]
    levels: tuple[dict[int, Tag], ...]
    """Tags of the directories of the smaller levels."""


class TiffStructure:
    """The directories of an open TIFF or BigTIFF file.

    Attributes:
        big: True for BigTIFF.
        pages: The directories in their order.
    """

    def __init__(self, descriptor: int) -> None:
        """Follow the chain of directories.

        Raises:
            DataError: If the file is not a TIFF, the chain is cyclic or leaves the file, or values do.
        """
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        start = self._bytes(0, 4)
        orders = {b"II": "<", b"MM": ">"}
        if start[:2] not in orders:
            raise DataError(f"expected a TIFF, which begins with II or MM, got {start[:2]!r}.")
        self._order = orders[start[:2]]
        version = self._number("H", 2)
        if version not in (42, 43):
            raise DataError(f"expected version 42 (TIFF) or 43 (BigTIFF) in the header, got {version}.")
        self.big = version == 43
        self._offset_format = "Q" if self.big else "I"
        self._seen: set[int] = set()
        self.pages: list[Directory] = []
        offset = self._number(self._offset_format, 8 if self.big else 4)
        while offset:
            if len(self.pages) == _MAX_PAGES:
                raise DataError(f"expected at most {_MAX_PAGES:,} pages: the file is damaged, or split it.")
            tags, following = self._directory(offset)
            levels = [self._directory(level)[0] for level in self.integers(tags, _SUBIFDS) if level]
            self.pages.append(Directory(tags, tuple(levels)))
            offset = following
        if not self.pages:
            raise DataError("the file has no pages: it is damaged.")

    def integers(self, tags: dict[int, Tag], code: int) -> tuple[int, ...]:
        """Return the integer values of a tag, or an empty tuple if there is no such tag."""
        tag = tags.get(code)
        if tag is None or tag.type not in _INTEGERS:
            return ()
        data = self._bytes(tag.position, tag.number * _SIZES[tag.type])
        return struct.unpack(f"{self._order}{tag.number}{_INTEGERS[tag.type]}", data)

    def integer(self, tags: dict[int, Tag], code: int, default: int) -> int:
        """Return the first integer value of a tag, or `default` if there is none."""
        values = self.integers(tags, code)
        return values[0] if values else default

    def text(self, tags: dict[int, Tag], code: int) -> str:
        """Return the text of a tag, or "" if there is no such tag."""
        tag = tags.get(code)
        if tag is None or tag.type not in (1, 2, 7):
            return ""
        return self._bytes(tag.position, tag.number).split(b"\0", 1)[0].decode("utf-8", "replace")

    def _directory(self, offset: int) -> tuple[dict[int, Tag], int]:
        """Return the tags of a directory and the offset of the next one, or 0."""
        if offset in self._seen:
            raise DataError(f"the directories of pages form a cycle at byte {offset:,}: the file is damaged.")
        self._seen.add(offset)
        count = self._number("Q" if self.big else "H", offset)
        if not 1 <= count <= _MAX_TAGS:
            raise DataError(f"expected a page with 1 to {_MAX_TAGS} tags, got {count:,}: the file is damaged.")
        head, width, inline = (8, 20, 8) if self.big else (2, 12, 4)
        data = self._bytes(offset + head, count * width)
        tags: dict[int, Tag] = {}
        for index in range(count):
            entry = data[index * width : (index + 1) * width]
            code, kind, number = struct.unpack(f"{self._order}HH{self._offset_format}", entry[: width - inline])
            size = number * _SIZES.get(kind, 1)
            if size <= inline:
                position = offset + head + index * width + width - inline
            else:
                (position,) = struct.unpack(f"{self._order}{self._offset_format}", entry[-inline:])
            if position + size > self._size:
                raise DataError(
                    f"the values of tag {code} end at byte {position + size:,} of {self._size:,}: the file is "
                    "truncated or damaged; copy it again."
                )
            tags.setdefault(code, Tag(kind, number, position))
        return tags, self._number(self._offset_format, offset + head + count * width)

    def _number(self, code: str, position: int) -> int:
        data = self._bytes(position, struct.calcsize(f"={code}"))
        return int(struct.unpack(f"{self._order}{code}", data)[0])

    def _bytes(self, position: int, count: int) -> bytes:
        if position + count > self._size:
            raise DataError(
                f"expected {count:,} bytes at byte {position:,}, got a file of {self._size:,}: it is truncated or "
                "damaged; copy it again."
            )
        return os.pread(self._descriptor, count, position)


def is_ordinary(path: Path) -> bool:
    """Return True if a TIFF is an ordinary picture, which Pillow reads without loss.

    Such a file is not BigTIFF, and has one page in strips with at most 8 bits per sample, no samples besides color and
    alpha, no georeference, and no OME-XML or description by ImageJ or Aperio. Palettes, fewer than 8 bits, and colors
    that Pillow converts (Lab, MinIsWhite) may be in tiles. Pages that a camera has turned (Orientation) may have more
    bits, because Pillow turns them back. A file whose directories are damaged is not ordinary: Pillow would read the
    pages and tags that are left, such as the first channel of a truncated stack.
    """
    try:
        with path.open("rb") as file:
            structure = TiffStructure(file.fileno())
            tags = structure.pages[0].tags
            bits = structure.integers(tags, 258) or (1,)
            description = structure.text(tags, 270).rstrip()
            is_turned = structure.integer(tags, 274, 1) != 1
            colors = structure.integer(tags, 262, 1)
            is_picture = _is_picture(structure, tags, colors)
    except DataError:
        return False
    except OSError:
        return True
    described = description.endswith("OME>") or description.startswith(("ImageJ=", "Aperio"))
    described |= bool((shaped_description(description) or {}).get("truncated"))  # a stack by tifffile
    if colors == _PALETTE or max(bits) < 8:
        return not structure.big
    if structure.big or described or any(code in tags for code in _GEOREFERENCE):
        return False
    if colors in _CONVERTED and max(bits) == 8:
        return is_picture
    if any(code in tags for code in _PARTS):
        return False
    return is_turned or (len(structure.pages) == 1 and max(bits) == 8 and is_picture)


def _is_picture(structure: TiffStructure, tags: dict[int, Tag], colors: int) -> bool:
    """Return True if Pillow reads all samples of 8-bit pixels: those of a color, and one of alpha. Others are channels.

    Pillow reads signed samples as unsigned.
    """
    signed = 2
    if signed in structure.integers(tags, 339):
        return False
    samples = structure.integer(tags, 277, 1)
    more = samples - _SAMPLES.get(colors, samples)
    if more != 1 or colors not in (_GRAY, _RGB):
        return more <= 0
    is_planar = structure.integer(tags, 284, 1) == 2
    premultiplied, alpha, corel_alpha = (1,), (2,), (999,)
    meaning = structure.integers(tags, 338)
    if colors == _RGB and meaning in ((), alpha, corel_alpha):  # Pillow takes an unnamed one for alpha
        return True
    return meaning in (premultiplied, alpha) and not is_planar
