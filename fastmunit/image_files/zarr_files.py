"""The store of zarr that reads checked bytes of a folder. Importing it needs zarr."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from fastmunit.errors import DataError
from fastmunit.image_files.zarr_chunks import ChunkFormat
from fastmunit.image_files.zarr_spans import read_chunks, span_of

_METADATA_NAMES = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
_MAX_METADATA_BYTES = 1 << 24


class CheckedStore(Store):
    """A read-only store that reads regular files inside of its folder, and chunks of the size that is declared.

    Every byte is read by `_read`, which checks it. The store inherits from zarr's abstract class, since another store
    would inherit or forward methods of future versions of zarr that read around the checks. It has no methods that
    zarr would call without its event loop.
    """

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, root: Path) -> None:
        super().__init__(read_only=True)
        self._root = root.resolve()
        self._formats: dict[str, ChunkFormat] = {}

    def add(self, path: str, chunk: ChunkFormat) -> None:
        """Let the chunks of an array be read.

        Args:
            path: The path of the array in the folder.
            chunk: How its chunks are stored.

        Raises:
            DataError: If it is inside of another array, or contains one: a file could be a chunk of both.
        """
        for other in self._formats:
            if other != path and (_is_below(other, path) or _is_below(path, other)):
                raise DataError(f"its array {max(path, other, key=len)!r} is inside of another array: move it out.")
        self._formats[path] = chunk

    def read_metadata(self, name: str) -> bytes | None:
        """Return a file in the folder itself that describes it, or None if it is missing."""
        found = self._read(name, (None,))
        return None if found is None else found[0]

    def _read(self, key: str, spans: Sequence[Any]) -> list[bytes] | None:
        """Read parts of a file, or return None if it is missing.

        Args:
            key: The path of the file in the folder.
            spans: What to read: a byte range of zarr, or None for the whole file.

        Raises:
            DataError: If the file is refused.
        """
        descriptor = self._opened(key)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if key.rsplit("/", 1)[-1] not in _METADATA_NAMES:
                return read_chunks(file, self._format(key), spans, key)
            content = file.read(_MAX_METADATA_BYTES + 1)
            if len(content) > _MAX_METADATA_BYTES:
                raise DataError(f"its part {key!r} has more than {_MAX_METADATA_BYTES:,} bytes: it is damaged.")
            return [content[slice(*span_of(span, len(content)))] for span in spans]

    def _format(self, key: str) -> ChunkFormat:
        for path, chunk in self._formats.items():
            if _is_below(key, path):
                return chunk
        raise DataError(f"its part {key!r} is not a chunk of one of its images: check its metadata.")

    def _opened(self, key: str) -> int | None:
        """Return the descriptor of a file, or None if there is none."""
        try:
            path = self._inside(key)
            state = path.lstat()
            if stat.S_ISDIR(state.st_mode):
                return None
            if not stat.S_ISREG(state.st_mode):
                raise DataError(f"its part {key!r} is not a regular file: copy the image again.")
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _inside(self, key: str) -> Path:
        """Return a path in the folder without links.

        Raises:
            DataError: If it is outside.
        """
        path = Path(os.path.realpath(self._root / key))
        if not path.is_relative_to(self._root):
            raise DataError(f"its part {key!r} is outside of its folder: replace the link by the file.")
        return path

    def _names(self, prefix: str) -> list[str]:
        try:
            return sorted(os.listdir(self._inside(prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _exists(self, key: str) -> bool:
        descriptor = self._opened(key)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return a file or a part of it as zarr's buffer, or None if it is missing."""
        found = await asyncio.to_thread(self._read, key, (byte_range,))
        return None if found is None else prototype.buffer.from_bytes(found[0])

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[Any], *, prototype: Any, **_: Any
    ) -> AsyncIterator[Sequence[tuple[int, Any]]]:
        """Yield the index and the buffer of each part of a file. Zarr's own method reads several chunks as one part."""
        found = await asyncio.to_thread(self._read, key, byte_ranges)
        if found is not None:
            yield [(index, prototype.buffer.from_bytes(data)) for index, data in enumerate(found)]

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return parts of files as zarr's buffers, with None for those that are missing."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether there is a file."""
        return await asyncio.to_thread(self._exists, key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        for name in await asyncio.to_thread(self._names, prefix):
            yield name

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Raise an error: zarr lists all files below a folder only to copy, delete or add them up."""
        raise self._refusal()

    def list(self) -> AsyncIterator[str]:
        """Raise an error like `list_prefix`."""
        raise self._refusal()

    async def set(self, key: str, value: Any) -> None:
        """Raise an error, since nothing is written."""
        raise self._refusal()

    async def delete(self, key: str) -> None:
        """Raise an error, since nothing is written."""
        raise self._refusal()

    def _refusal(self) -> DataError:
        return DataError(f"{self} is read by region only: open it with zarr to list or change its files.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckedStore) and self._root == other._root

    def __str__(self) -> str:
        return self._root.as_uri()

    def __repr__(self) -> str:
        return f"CheckedStore({self})"


def _is_below(key: str, path: str) -> bool:
    return not path or key.startswith(f"{path}/")
