"""The index of a shard of a Zarr array: where its chunks are (Zarr 3, codec sharding_indexed)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmunit.errors import DataError

# The offset and the length of a chunk that is missing.
_MISSING = 2**64 - 1


class ShardFormat(NamedTuple):
    """The format of the shards of an array.

    Attributes:
        chunks: Number of chunks of a shard.
        byte_order: Byte order of the index: little or big.
        checksum_bytes: Length of the checksum after the index.
        index_at_start: True if the index is at the start of the file, False if it is at the end.
    """

    chunks: int
    byte_order: str
    checksum_bytes: int
    index_at_start: bool

    @property
    def index_bytes(self) -> int:
        """The length of the index with its checksum."""
        return 16 * self.chunks + self.checksum_bytes

    def index_span(self, file_bytes: int) -> tuple[int, int]:
        """Return where the index of a file of that size starts and ends."""
        start = 0 if self.index_at_start else max(0, file_bytes - self.index_bytes)
        return start, min(start + self.index_bytes, file_bytes)

    def chunk_spans(self, index: bytes, file_bytes: int) -> list[tuple[int, int]]:
        """Return where the chunks of a shard start and end, without those that are missing.

        Args:
            index: The bytes of the index.
            file_bytes: Size of the file.

        Raises:
            DataError: If the file is cut off, or a chunk is outside of it or in its index.
        """
        if len(index) < self.index_bytes:
            raise DataError(
                f"it has {file_bytes:,} bytes, where the index of a shard has {self.index_bytes:,}: it is cut off"
            )
        kind = "<u8" if self.byte_order == "little" else ">u8"
        entries = np.frombuffer(index, kind, 2 * self.chunks).reshape(-1, 2)
        found = np.unique(entries[(entries != _MISSING).any(axis=1)], axis=0)
        first, end = (self.index_bytes, file_bytes) if self.index_at_start else (0, file_bytes - self.index_bytes)
        spans = [(offset, offset + length) for offset, length in found.tolist()]
        for start, stop in spans:
            # The index is not checked as a chunk, so no chunk may be there.
            if start < first or stop > end:
                raise DataError(
                    f"its index has a chunk at bytes {start:,} to {stop:,}, where its chunks are between {first:,} and "
                    f"{end:,}: it is damaged"
                )
        return spans
