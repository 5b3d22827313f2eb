"""The codecs of a Zarr array, as its metadata list them, and how its chunks are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmunit.errors import DataError
from fastmunit.image_files.zarr_chunks import COMPRESSORS, ChunkFormat
from fastmunit.image_files.zarr_shards import ShardFormat

_SHARDS = "sharding_indexed"
_CHECKSUM, _CHECKSUM_BYTES = "crc32c", 4
# Filters of numcodecs that decode to values of `dtype` from values of `astype`.
_CASTS = frozenset({"delta", "fixedscaleoffset", "quantize"})
# Codecs that decode bytes and nothing else. Others are refused by name: numcodecs' "pickle", for one, runs code. The
# size that pcodec and zfpy decode to is known to their decoders only, so they are refused, too.
_CODECS = (
    frozenset({"bytes", "transpose", _SHARDS, "shuffle", "packbits", "bitround"})
    | frozenset({"adler32", "crc32", _CHECKSUM, "fletcher32", "jenkins_lookup3"})
    | COMPRESSORS
    | _CASTS
)
_MAX_CHUNK_BYTES = 1 << 30
_MAX_INDEX_BYTES = 1 << 28
# Filters may store values with other types, of at most 8 bytes, and checksums take a few bytes.
_VALUE_BYTES, _EXTRA_BYTES = 8, 1024


class _Codec(NamedTuple):
    name: str
    options: Mapping[str, Any]

    @property
    def base(self) -> str:
        """The name without the prefix of codecs from numcodecs."""
        return self.name.removeprefix("numcodecs.")


def chunk_format(metadata: Mapping[str, Any], value_bytes: int) -> ChunkFormat:
    """Return how the chunks of an array are stored.

    Args:
        metadata: The metadata of the array as a dictionary, of Zarr version 2 or 3.
        value_bytes: Bytes of a value of the array.

    Raises:
        DataError: If a codec is not known to be safe, chunks are too large, or the size of chunks after decompression
            could not be checked before.
    """
    if metadata["zarr_format"] == 2:
        codecs = [*(metadata.get("filters") or ()), metadata.get("compressor")]
        # Zarr's own codecs have no prefix in version 3, and exist in version 3 only.
        chain = [_Codec(f"numcodecs.{codec['id']}", codec) for codec in codecs if codec is not None]
        _require_known(chain)
        return _format(chain, metadata["chunks"], value_bytes, None)
    grid = metadata["chunk_grid"]
    if grid["name"] != "regular":
        raise DataError(f"its chunks form a grid of the kind {grid['name']!r}: write it in chunks of one size.")
    shape: Sequence[int] = grid["configuration"]["chunk_shape"]
    chain = _parsed(metadata["codecs"])
    if all(codec.base != _SHARDS for codec in chain):
        return _format(chain, shape, value_bytes, None)
    if len(chain) > 1:
        raise _unchecked(chain)
    options = chain[0].options
    inner = _parsed(options["codecs"])
    if any(codec.base == _SHARDS for codec in inner):
        raise _unchecked([*chain, *inner])
    shard = _shard(options, shape)
    return _format(inner, options["chunk_shape"], value_bytes, shard)


def _parsed(codecs: Sequence[Any]) -> list[_Codec]:
    chain = [
        _Codec(str(codec["name"]), codec.get("configuration") or {})
        if isinstance(codec, Mapping)
        else _Codec(str(codec), {})
        for codec in codecs
    ]
    _require_known(chain)
    return chain


def _require_known(chain: Sequence[_Codec]) -> None:
    unknown = sorted({codec.name.removeprefix("numcodecs.") for codec in chain if codec.base not in _CODECS})
    if unknown:
        raise DataError(
            f"its chunks are encoded with {', '.join(unknown)}, which is not read: write it again, "
            "for example with zstd."
        )


def _unchecked(chain: Sequence[_Codec]) -> DataError:
    names = ", then ".join(codec.name for codec in chain)
    return DataError(
        f"its chunks are encoded with {names}, and their size after decompression cannot be checked before: write it "
        "again with one compressor, which is the last codec, for example zstd."
    )


def _format(chain: Sequence[_Codec], shape: Sequence[int], value_bytes: int, shard: ShardFormat | None) -> ChunkFormat:
    """Return the format of chunks of `shape` that a chain of codecs encodes, in the order of encoding."""
    size = math.prod(shape) * value_bytes
    if size > _MAX_CHUNK_BYTES:
        raise DataError(
            f"its chunks {tuple(shape)} have {size:,} bytes, more than {_MAX_CHUNK_BYTES:,}: write it in "
            "smaller chunks."
        )
    if math.prod(_widening(codec) for codec in chain) > _VALUE_BYTES:
        raise _unchecked(chain)
    compressors = [index for index, codec in enumerate(chain) if codec.base in COMPRESSORS]
    codec, after = "", []
    options: Mapping[str, Any] = {}
    if compressors:
        last = compressors[-1]
        codec, options, after = chain[last].base, chain[last].options, list(chain[last + 1 :])
        if len(compressors) > 1 or any(following.name != _CHECKSUM for following in after):
            raise _unchecked(chain)
    return ChunkFormat(
        codec=codec,
        options=options,
        checksum_bytes=_CHECKSUM_BYTES * len(after),
        size=math.prod(shape) * _VALUE_BYTES + _EXTRA_BYTES,
        shard=shard,
    )


def _widening(codec: _Codec) -> float:
    """Return how many times as large as its input a filter may be after decoding."""
    if codec.base == "packbits":
        return 8
    stored = codec.options.get("astype")
    if codec.base not in _CASTS or stored is None:
        return 1
    dtype = codec.options.get("dtype")
    return max(1, (_VALUE_BYTES if dtype is None else np.dtype(dtype).itemsize) / np.dtype(stored).itemsize)


def _shard(options: Mapping[str, Any], shape: Sequence[int]) -> ShardFormat:
    """Return the format of shards of `shape`, from the options of their codec."""
    index_codecs = _parsed(options["index_codecs"])
    if [codec.name for codec in index_codecs] not in (["bytes"], ["bytes", _CHECKSUM]):
        names = ", then ".join(codec.name for codec in index_codecs)
        raise DataError(
            f"the indices of its shards are encoded with {names}, where bytes, then {_CHECKSUM} are expected: write it "
            "again with those."
        )
    order = index_codecs[0].options.get("endian")
    if order not in ("little", "big"):
        raise DataError(f"expected the byte order little or big of the indices of its shards, got {order!r}.")
    chunks = math.prod(size // chunk for size, chunk in zip(shape, options["chunk_shape"], strict=True))
    shard = ShardFormat(
        chunks=chunks,
        byte_order=order,
        checksum_bytes=_CHECKSUM_BYTES * (len(index_codecs) - 1),
        index_at_start=options["index_location"] == "start",
    )
    if shard.index_bytes > _MAX_INDEX_BYTES:
        raise DataError(f"its shards {tuple(shape)} have {chunks:,} chunks: write it in larger chunks.")
    return shard
