"""Opening of Zarr folders that may come from anybody: nothing outside of the folder is read, and no code is run."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastmunit.errors import DataError
from fastmunit.image_files.packages import needed
from fastmunit.image_files.zarr_chunks import ChunkBound, chunk_bound

METADATA_NAMES = ("zarr.json", ".zgroup", ".zarray")
_ALL_METADATA_NAMES = (*METADATA_NAMES, ".zattrs", ".zmetadata")
_MAX_METADATA_BYTES = 1 << 24
_MAX_CHUNK_BYTES = 1 << 30
# Codecs that decode bytes and nothing else. Others are refused by name: numcodecs' "pickle", for one, runs code.
_CODECS = frozenset(
    {"bytes", "transpose", "sharding_indexed", "gzip", "zlib", "zstd", "blosc", "lz4", "bz2", "lzma", "shuffle"}
    | {"delta", "fixedscaleoffset", "packbits", "adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"}
    | {"bitround", "quantize", "pcodec", "zfpy"}
)


def opened(path: Path) -> Any:
    """Return the zarr array or group of a folder.

    Raises:
        DataError: If zarr is not installed, or the folder is no Zarr array or group.
    """
    zarr = needed("zarr", "zarr", "a Zarr image")
    store = _checked_store(zarr, path)
    if _is_array(path):
        return zarr.open_array(store, mode="r")
    return zarr.open_group(store, mode="r", use_consolidated=False)


def require_safe(array: Any) -> None:
    """Check the codecs of an array, and the size of its chunks, before a chunk is read.

    From then on, chunks that would be larger after decompression than the array declares are refused.

    Raises:
        DataError: If a codec is not known to be safe, or chunks are too large.
    """
    names = set(_codec_names(array.metadata.to_dict()))
    unknown = sorted(name for name in names if name.removeprefix("numcodecs.") not in _CODECS)
    if unknown:
        raise DataError(
            f"its chunks are encoded with {', '.join(unknown)}, which is not read: write it again, "
            "for example with zstd."
        )
    size = array.dtype.itemsize
    for length in array.chunks:
        size *= length
    if size > _MAX_CHUNK_BYTES:
        raise DataError(
            f"its chunks {array.chunks} have {size:,} bytes, more than {_MAX_CHUNK_BYTES:,}: write it in "
            "smaller chunks."
        )
    array.store_path.store.bounds[array.store_path.path] = chunk_bound(array)


def _is_array(path: Path) -> bool:
    if (path / ".zarray").is_file():
        return True
    document = path / "zarr.json"
    if not document.is_file():
        return False
    if document.stat().st_size > _MAX_METADATA_BYTES:
        raise DataError(f"its zarr.json has more than {_MAX_METADATA_BYTES:,} bytes: it is damaged.")
    found = json.loads(document.read_bytes())
    return isinstance(found, dict) and found.get("node_type") == "array"


def _codec_names(metadata: Any) -> Iterable[str]:
    """Yield the names of all codecs in the metadata of an array, including those inside of shards."""
    if isinstance(metadata, Mapping):
        if "id" in metadata:
            yield str(metadata["id"])
        for key, value in metadata.items():
            if key in ("codecs", "index_codecs"):
                for codec in value or ():
                    yield str(codec["name"]) if isinstance(codec, Mapping) else str(codec)
                    yield from _codec_names(codec)
            elif key in ("configuration", "filters", "compressor"):
                yield from _codec_names(value)
    elif isinstance(metadata, list | tuple):
        for item in metadata:
            yield from _codec_names(item)


def _checked_store(zarr: Any, path: Path) -> Any:
    """Return a read-only store that reads regular files inside of its folder only."""
    root = path.resolve()

    class CheckedStore(zarr.storage.WrapperStore):
        bounds: dict[str, ChunkBound]

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            data = await super().get(_checked(root, key), prototype, byte_range)
            self._require_bound(key, data, byte_range)
            return data

        async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> Any:
            spans = [(_checked(root, key), span) for key, span in key_ranges]
            parts = await super().get_partial_values(prototype, spans)
            for (key, span), data in zip(spans, parts, strict=True):
                self._require_bound(key, data, span)
            return parts

        def _require_bound(self, key: str, data: Any, byte_range: Any) -> None:
            bound = self.bounds.get(max((path for path in self.bounds if _is_below(key, path)), key=len, default=""))
            if bound is None or data is None or key.rsplit("/", 1)[-1] in _ALL_METADATA_NAMES:
                return
            if bound.in_shards == (byte_range is not None):
                bound.check(data, key)

    store = CheckedStore(zarr.storage.LocalStore(root, read_only=True))
    store.bounds = {}
    return store


def _is_below(key: str, path: str) -> bool:
    return not path or key.startswith(f"{path}/")


def _checked(root: Path, key: str) -> str:
    """Return the key of a file, if it is missing or a regular file inside of `root`."""
    found = root / key
    try:
        state = found.stat()
    except OSError:
        return key
    if not found.resolve().is_relative_to(root):
        raise DataError(f"its part {key!r} is outside of its folder: replace the link by the file.")
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise DataError(f"its part {key!r} is not a regular file: copy the image again.")
    limit = _MAX_METADATA_BYTES if key.rsplit("/", 1)[-1] in _ALL_METADATA_NAMES else None
    if limit is not None and state.st_size > limit:
        raise DataError(f"its part {key!r} has more than {limit:,} bytes: it is damaged.")
    return key
