"""The size that a stored chunk of a Zarr array has after decompression, before it is decompressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fastmunit.errors import DataError
from fastmunit.image_files.packages import needed
from fastmunit.image_files.zarr_shards import ShardFormat
from fastmunit.image_files.zstd_frames import frame_sizes

_BLOSC_HEADER_BYTES = 16
_STEP_BYTES = 1 << 18
# No compressor makes its input much larger; headers and checksums take a few bytes.
_MAX_STORED_FACTOR, _EXTRA_BYTES = 2, 1 << 16


class ChunkFormat(NamedTuple):
    """The format of the stored chunks of an array.

    Attributes:
        codec: Name of their compressor, or empty if they have none.
        options: Options of the compressor from the metadata.
        checksum_bytes: Length of the checksums after the compressed data.
        size: Maximum size of a decompressed chunk in bytes.
        shard: The format of the shards that have the chunks, or None if each chunk is a file.
    """

    codec: str
    options: Mapping[str, Any]
    checksum_bytes: int
    size: int
    shard: ShardFormat | None

    @property
    def stored_size(self) -> int:
        """The maximum size of a chunk as it is stored, in bytes."""
        return _MAX_STORED_FACTOR * self.size + _EXTRA_BYTES

    def check(self, data: bytes, key: str) -> None:
        """Check a chunk as it is stored.

        Args:
            data: The bytes of the chunk.
            key: Its name, for the message.

        Raises:
            DataError: If it is damaged, or would be larger after decompression than the metadata allow.
        """
        if len(data) < self.checksum_bytes:
            raise DataError(f"its part {key!r} has a chunk that is cut off.")
        measure = _SIZES.get(self.codec, _size_of_files)
        size = measure(self, data[: len(data) - self.checksum_bytes], key)
        if size > self.size:
            raise DataError(
                f"its part {key!r} has {size:,} bytes or more after decompression, where its metadata say at most "
                f"{self.size:,}: it is damaged."
            )


def _damaged(codec: str, key: str) -> DataError:
    return DataError(f"its part {key!r} has a chunk that {codec} cannot read: it is damaged or cut off.")


def _size_in_blosc(chunk: ChunkFormat, data: bytes, key: str) -> int:
    size = int.from_bytes(data[4:8], "little", signed=True)
    # Blosc reads as many bytes as its header says.
    if len(data) < _BLOSC_HEADER_BYTES or size < 0 or int.from_bytes(data[12:16], "little") > len(data):
        raise _damaged("blosc", key)
    return size


def _size_in_lz4(chunk: ChunkFormat, data: bytes, key: str) -> int:
    size = int.from_bytes(data[:4], "little", signed=True)
    if len(data) < 4 or size < 0:
        raise _damaged("lz4", key)
    return size


def _size_in_zstd(chunk: ChunkFormat, data: bytes, key: str) -> int:
    """Return the size that zstd frames state, or what their blocks can have if one of them states none.

    Without a stated size, numcodecs decodes all frames as one stream, and finds a false size of another frame too late.
    """
    try:
        sizes = frame_sizes(data)
    except DataError as error:
        raise _damaged("zstd", key) from error
    if sizes.stated is not None:
        return sizes.stated
    if sizes.bound > chunk.size and _fits(data, chunk.size):
        return chunk.size
    return sizes.bound


def _fits(data: bytes, size: int) -> bool:
    """Check by decompression whether zstd frames have at most `size` bytes. They never take more memory.

    Encoders may write blocks that are a lot smaller than the largest ones, which `frame_sizes` assumes.
    """
    zstd = needed("numcodecs.zstd", "zarr", "a Zarr image")
    try:
        zstd.decompress(data, np.empty(size, np.uint8))
    except RuntimeError as error:
        # This is how numcodecs says that they are smaller. Everything else is refused.
        return "expected to decompress" in str(error)
    return True


def _size_in_zlib(chunk: ChunkFormat, data: bytes, key: str) -> int:
    try:
        return len(zlib.decompressobj().decompress(data, chunk.size + 1))
    except zlib.error as error:
        raise _damaged("zlib", key) from error


def _size_of_files(chunk: ChunkFormat, data: bytes, key: str) -> int:
    """Return the size after decompression, or a larger number than the maximum if it is above that.

    The classes of files read all members or streams, as numcodecs does.
    """
    size = 0
    try:
        with _FILES[chunk.codec](io.BytesIO(data), chunk.options) as file:
            while size <= chunk.size and (block := file.read(_STEP_BYTES)):
                size += len(block)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise _damaged(chunk.codec, key) from error
    return size


def _lzma_file(data: BinaryIO, options: Mapping[str, Any]) -> lzma.LZMAFile:
    return lzma.LZMAFile(data, format=options.get("format", lzma.FORMAT_XZ), filters=options.get("filters"))


_FILES: dict[str, Callable[[BinaryIO, Mapping[str, Any]], Any]] = {
    "gzip": lambda data, options: gzip.GzipFile(fileobj=data, mode="rb"),
    "bz2": lambda data, options: bz2.BZ2File(data),
    "lzma": _lzma_file,
}
_SIZES: dict[str, Callable[[ChunkFormat, bytes, str], int]] = {
    "": lambda chunk, data, key: len(data),
    "blosc": _size_in_blosc,
    "lz4": _size_in_lz4,
    "zstd": _size_in_zstd,
    "zlib": _size_in_zlib,
}
COMPRESSORS = frozenset(_SIZES) - {""} | frozenset(_FILES)
