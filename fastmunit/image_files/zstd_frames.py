"""The size that zstd frames have after decompression, from their headers (RFC 8878)."""

from __future__ import annotations

from typing import NamedTuple

from fastmunit.errors import DataError

_MAGIC = b"\x28\xb5\x2f\xfd"
# The lowest of 16 magic numbers of frames that decoders skip.
_SKIPPABLE = 0x184D2A50
_RAW, _RLE, _COMPRESSED = range(3)
_MAX_BLOCK_BYTES = 1 << 17
_DAMAGED = "a zstd frame that is damaged or cut off"


class FrameSizes(NamedTuple):
    """The size of frames after decompression.

    Attributes:
        stated: The sum of the sizes that the headers state, or None if one of them states none.
        bound: The largest sum that the blocks can have, whatever the headers state.
    """

    stated: int | None
    bound: int


def frame_sizes(data: bytes) -> FrameSizes:
    """Return the size of all frames in `data` after decompression.

    Raises:
        DataError: If `data` are anything else than whole frames.
    """
    stated: int | None = 0
    bound = position = 0
    while position < len(data):
        if int.from_bytes(data[position : position + 4], "little") & ~15 == _SKIPPABLE:
            position += 8 + _number(data, position + 4, 4)
        else:
            start, size = _header(data, position)
            stated = None if stated is None or size is None else stated + size
            position, blocks = _blocks(data, start, has_checksum=bool(data[position + 4] & 4))
            bound += blocks
    if position != len(data) or not data:
        raise DataError(_DAMAGED)
    return FrameSizes(stated, bound)


def _header(data: bytes, position: int) -> tuple[int, int | None]:
    """Return the position of the first block of a frame, and the size that its header states."""
    if data[position : position + 4] != _MAGIC:
        raise DataError(_DAMAGED)
    descriptor = _number(data, position + 4, 1)
    single_segment = bool(descriptor & 0x20)
    start = position + 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    size = _number(data, start, width) + (256 if width == 2 else 0) if width else None
    return start + width, size


def _blocks(data: bytes, position: int, has_checksum: bool) -> tuple[int, int]:
    """Return the position after the blocks of a frame, and the largest size that they can have together."""
    bound, last = 0, False
    while not last:
        header = _number(data, position, 3)
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind > _COMPRESSED or size > _MAX_BLOCK_BYTES:
            raise DataError(_DAMAGED)
        bound += _MAX_BLOCK_BYTES if kind == _COMPRESSED else size
        position += 3 + (1 if kind == _RLE else size)
    return position + 4 * has_checksum, bound


def _number(data: bytes, position: int, width: int) -> int:
    if position + width > len(data):
        raise DataError(_DAMAGED)
    return int.from_bytes(data[position : position + width], "little")
