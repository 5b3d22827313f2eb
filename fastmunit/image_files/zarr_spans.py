"""Reading of chunks and shards of a Zarr array by byte range, each of them checked. Importing it needs zarr."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from fastmunit.errors import DataError
from fastmunit.image_files.zarr_chunks import ChunkFormat
from fastmunit.image_files.zarr_shards import ShardFormat


def span_of(byte_range: Any, file_bytes: int) -> tuple[int, int]:
    """Return where a byte range of zarr starts and ends in a file of that size.

    Args:
        byte_range: The byte range, or None for the whole file.
        file_bytes: Size of the file.
    """
    if byte_range is None:
        return 0, file_bytes
    if isinstance(byte_range, RangeByteRequest):
        return min(byte_range.start, file_bytes), min(byte_range.end, file_bytes)
    if isinstance(byte_range, OffsetByteRequest):
        return min(byte_range.offset, file_bytes), file_bytes
    if isinstance(byte_range, SuffixByteRequest):
        return max(0, file_bytes - byte_range.suffix), file_bytes
    raise DataError(f"expected a byte range of zarr, got {byte_range!r}.")


def read_chunks(file: BinaryIO, chunk: ChunkFormat, byte_ranges: Sequence[Any], key: str) -> list[bytes]:
    """Read parts of a file with a chunk, or with a shard: its index, one of its chunks, or the whole shard.

    Args:
        file: The file.
        chunk: The format of its chunks.
        byte_ranges: Byte ranges of zarr, or None for the whole file.
        key: The name of the file, for messages.

    Raises:
        DataError: If a chunk that is read is larger than declared, or damaged.
    """
    file_bytes = os.fstat(file.fileno()).st_size
    if chunk.shard is not None:
        return [_read_shard(file, chunk, chunk.shard, span_of(part, file_bytes), key) for part in byte_ranges]
    # A part of a chunk does not tell the size of the chunk.
    whole = _read_span(file, (0, file_bytes), chunk.stored_size, key)
    chunk.check(whole, key)
    return [whole[slice(*span_of(part, file_bytes))] for part in byte_ranges]


def _read_shard(file: BinaryIO, chunk: ChunkFormat, shard: ShardFormat, span: tuple[int, int], key: str) -> bytes:
    file_bytes = os.fstat(file.fileno()).st_size
    index_span = shard.index_span(file_bytes)
    is_whole = span == (0, file_bytes)
    if not is_whole and span != index_span:
        data = _read_span(file, span, chunk.stored_size, key)
        chunk.check(data, key)
        return data
    data = _read_span(file, span, shard.chunks * chunk.stored_size + shard.index_bytes, key)
    try:
        spans = shard.chunk_spans(data[slice(*index_span)] if is_whole else data, file_bytes)
    except DataError as error:
        raise DataError(f"its part {key!r} is not a shard: {error}.") from error
    if is_whole:
        for start, end in spans:
            chunk.check(data[start:end], key)
    return data


def _read_span(file: BinaryIO, span: tuple[int, int], limit: int, key: str) -> bytes:
    start, end = span
    if end - start > limit:
        raise DataError(
            f"its part {key!r} has {end - start:,} bytes, where its metadata say at most {limit:,}: it is damaged."
        )
    file.seek(start)
    return file.read(max(0, end - start))
