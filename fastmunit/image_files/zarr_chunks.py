"""The size that an encoded chunk of a Zarr array has after decompression, before it is decompressed."""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastmunit.errors import DataError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SHARDS = "sharding_indexed"
# Filters may store values with other types, of at most 8 bytes, and checksums take a few bytes.
_VALUE_BYTES, _EXTRA_BYTES = 8, 1024
_HEADER_BYTES = 18


class ChunkBound(NamedTuple):
    """The outermost codec of the stored chunks of an array, and the size that they may have.

    Attributes:
        codec: Name of the outermost codec.
        size: Maximum size of a decompressed chunk in bytes.
        in_shards: True if chunks are parts of files.
    """

    codec: str
    size: int
    in_shards: bool

    def check(self, data: Any, key: str) -> None:
        """Check a chunk, as zarr's buffer.

        Raises:
            DataError: If it would be larger after decompression than the metadata allow.
        """
        if self.codec in ("zstd", "blosc", "lz4"):
            size = _size_in_header(self.codec, data[:_HEADER_BYTES].to_bytes())
        elif self.codec in _DECOMPRESSORS:
            size = _size_up_to(self.codec, data.to_bytes(), self.size)
        else:
            return
        if size > self.size:
            raise DataError(
                f"its part {key!r} has {size:,} bytes or more after decompression, where its metadata say at most "
                f"{self.size:,}: it is damaged."
            )


def chunk_bound(array: Any) -> ChunkBound:
    """Return what the metadata of a zarr array say about its stored chunks."""
    metadata = array.metadata.to_dict()
    shape = getattr(array, "shards", None) or array.chunks
    if "compressor" in metadata:
        codec, in_shards = _name(metadata["compressor"]), False
    else:
        last = list(metadata["codecs"])[-1]
        codec, in_shards = _name(last), _name(last) == _SHARDS
        if in_shards:
            codec, shape = _name(list(last["configuration"]["codecs"])[-1]), array.chunks
    return ChunkBound(codec, math.prod(shape) * _VALUE_BYTES + _EXTRA_BYTES, in_shards)


def _name(codec: Any) -> str:
    found = codec.get("name", codec.get("id")) if isinstance(codec, Mapping) else codec
    return str(found).removeprefix("numcodecs.")


def _size_in_header(codec: str, data: bytes) -> int:
    """Return the size that the header of a chunk states, or 0 if it states none."""
    if codec == "blosc":
        return int.from_bytes(data[4:8], "little")
    if codec == "lz4":
        return int.from_bytes(data[:4], "little")
    # RFC 8878, section 3.1.1.1
    if len(data) < 6 or data[:4] != _ZSTD_MAGIC:
        return 0
    descriptor = data[4]
    single_segment = bool(descriptor & 0x20)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)


def _size_up_to(codec: str, data: bytes, limit: int) -> int:
    """Return the size of a chunk after decompression, or a larger number than `limit` if it is above that."""
    try:
        return len(_DECOMPRESSORS[codec]().decompress(data, limit + 1))
    except (zlib.error, OSError, EOFError, lzma.LZMAError):
        return 0  # reading it names the damage


_DECOMPRESSORS: dict[str, Any] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
