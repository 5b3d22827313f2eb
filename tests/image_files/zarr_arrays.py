"""Zarr arrays whose metadata and chunks are written byte by byte, as zarr would not write them."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from google_crc32c import value as crc32c

SIDE = 16
LIMIT = SIDE * SIDE * 8 + 1024  # what a chunk of SIDE x SIDE values may have after decompression
BYTES = {"name": "bytes"}
CHECKSUM = {"name": "crc32c"}
INDEX_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
NAMES = ("zstd", "blosc", "gzip", "lz4", "zlib", "bz2", "lzma")
OWN = {
    "zstd": {"level": 0, "checksum": False},
    "gzip": {"level": 1},
    "blosc": {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0},
}
"""The options of the codecs that zarr has itself. Others come from numcodecs."""


def codec(name: str) -> dict[str, Any]:
    """Return the metadata of a compressor of version 3."""
    if name in OWN:
        return {"name": name, "configuration": OWN[name]}
    return {"name": f"numcodecs.{name}", "configuration": {}}


def encoded(name: str, values: np.ndarray) -> bytes:
    """Return values as a compressor of numcodecs encodes them."""
    options = {"preset": 0} if name == "lzma" else {}  # its usual dictionary has 8 MiB
    return bytes(numcodecs.get_codec({"id": name, **options}).encode(np.ascontiguousarray(values)))


def image(side: int = 2 * SIDE) -> np.ndarray:
    """Return an image that is larger than a chunk."""
    return np.arange(side * side, dtype=np.uint8).reshape(side, side) % 97


def tiles(values: np.ndarray) -> list[np.ndarray]:
    """Return the chunks of an image row by row."""
    starts = range(0, len(values), SIDE)
    return [values[top : top + SIDE, left : left + SIDE] for top in starts for left in starts]


def write_array(path: Path, codecs: Sequence[Any], chunks: Sequence[bytes | None], **changes: Any) -> None:
    """Write an array (2 x SIDE, 2 x SIDE) of uint8 whose chunks are files. None is a missing one."""
    _write(path, codecs, SIDE, dict(zip(("0/0", "0/1", "1/0", "1/1"), chunks, strict=True)), changes)


def sharded(
    codecs: Sequence[Any], at_start: bool = False, checksum: bool = True, endian: str = "little", **changes: Any
) -> dict[str, Any]:
    """Return the metadata of the codec of shards."""
    index = {"name": "bytes", "configuration": {"endian": endian}}
    options = {
        "chunk_shape": [SIDE, SIDE],
        "codecs": list(codecs),
        "index_codecs": [index, CHECKSUM] if checksum else [index],
        "index_location": "start" if at_start else "end",
    }
    return {"name": "sharding_indexed", "configuration": options | changes}


def shard(
    chunks: Sequence[bytes | None],
    at_start: bool = False,
    checksum: bool = True,
    endian: str = "little",
    entries: dict[int, tuple[int, int]] | None = None,
) -> bytes:
    """Return the bytes of a shard.

    Args:
        chunks: Its chunks. None is a missing one.
        at_start: Whether its index is at the start.
        checksum: Whether its index has a checksum.
        endian: Byte order of the index.
        entries: Offsets and lengths that replace those of the chunks.
    """
    offset = (16 * len(chunks) + 4 * checksum) if at_start else 0
    index = []
    for number, chunk in enumerate(chunks):
        entry = (2**64 - 1, 2**64 - 1) if chunk is None else (offset, len(chunk))
        index.extend((entries or {}).get(number, entry))
        offset += len(chunk or b"")
    table = struct.pack(f"{'<' if endian == 'little' else '>'}{len(index)}Q", *index)
    if checksum:
        table += crc32c(table).to_bytes(4, "little")
    data = b"".join(chunk or b"" for chunk in chunks)
    return table + data if at_start else data + table


def write_shard(path: Path, shards: dict[str, Any], content: bytes, after: Sequence[Any] = (), **changes: Any) -> None:
    """Write an array (2 x SIDE, 2 x SIDE) of uint8 that is one shard of four chunks."""
    _write(path, [shards, *after], 2 * SIDE, {"0/0": content}, changes)


def _write(path: Path, codecs: Sequence[Any], side: int, files: dict[str, bytes | None], changes: Any) -> None:
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [2 * SIDE, 2 * SIDE],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [side, side]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 5,
        "codecs": list(codecs),
        "attributes": {},
    }
    path.mkdir(exist_ok=True)
    (path / "zarr.json").write_text(json.dumps(metadata | changes))
    for name, content in files.items():
        if content is not None:
            (path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
            (path / "c" / name).write_bytes(content)
