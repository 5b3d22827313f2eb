"""Limits of Zarr images of anybody: no reading outside of their folder, no more data than they declare."""

import asyncio
import bz2
import gzip
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image
from fastmunit.region import Region

zarr = pytest.importorskip("zarr", minversion="3")
pytest.importorskip("google_crc32c")
numcodecs = pytest.importorskip("numcodecs")

from tests.image_files.zarr_arrays import (  # noqa: E402
    BYTES,
    CHECKSUM,
    INDEX_BYTES,
    LIMIT,
    NAMES,
    SIDE,
    codec,
    encoded,
    image,
    shard,
    sharded,
    tiles,
    write_array,
    write_shard,
)

ROOT = Path(__file__).parents[2]
FIRST, SECOND, LAST = (
    Region(0, 0, SIDE, SIDE),
    Region(0, SIDE, SIDE, SIDE),
    Region(SIDE, SIDE, SIDE, SIDE),
)
TOP = Region(0, 0, SIDE, 2 * SIDE)
TOO_LARGE = rf"image\.zarr: its part 'c/0/0' has .* bytes or more after decompression, .* at most {LIMIT:,}"
BOMB = np.full(1 << 22, 7, np.uint8)
AT_START = pytest.mark.parametrize("at_start", [False, True], ids=["index at the end", "index at the start"])


def chunks_of(name: str, values: np.ndarray) -> list[bytes]:
    return [encoded(name, tile) for tile in tiles(values)]


@cache
def bomb(name: str) -> bytes:
    return encoded(name, BOMB)


def with_checksum(data: bytes) -> bytes:
    from google_crc32c import value

    return data + value(data).to_bytes(4, "little")


@contextmanager
def bounded_memory(limit: int = 3 << 20) -> Iterator[None]:
    """Check that a block allocates less than a bomb has."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        wait_for_decoders()
        tracemalloc.stop()


def wait_for_decoders() -> None:
    """Wait for the other chunks of a read that has failed.

    Python 3.11 crashes if tracemalloc stops while threads allocate.
    """
    from zarr.core.sync import _get_loop

    deadline = time.monotonic() + 10
    while asyncio.all_tasks(_get_loop()) and time.monotonic() < deadline:
        time.sleep(0.001)


def check(path: Path, expected: np.ndarray) -> None:
    """Check the values of a whole image, and of regions of it."""
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read()[0], expected)
        for region in (FIRST, TOP, Region(3, 5, 20, 9)):
            np.testing.assert_array_equal(reader.read(region)[0], expected[region.slices])


def check_refused(path: Path, *regions: Region | None, match: str) -> None:
    with open_image(path) as reader:
        for region in regions:
            with bounded_memory(), pytest.raises(DataError, match=match):
                reader.read(region)


# The store


def test_the_store_inherits_no_way_to_read() -> None:
    from zarr.abc import store as abc

    from fastmunit.image_files.zarr_files import CheckedStore

    assert CheckedStore.__bases__ == (abc.Store,)
    for name in ("SupportsGetSync", "SupportsSetSync", "SupportsDeleteSync"):
        if hasattr(abc, name):
            assert not issubclass(CheckedStore, getattr(abc, name))
    # Those that zarr implements call those that are listed here. Look at new ones before adding them.
    own = {name for name in vars(abc.Store) if name.startswith(("get", "_get"))} - set(vars(CheckedStore))
    assert own <= {"_get_bytes", "_get_bytes_sync", "_get_json", "_get_json_sync", "_get_many", "getsize"} | {
        "getsize_prefix",
        "get_ranges_sync",
    }


@pytest.mark.parametrize("region", [None, FIRST], ids=["whole", "region"])
@AT_START
def test_links_of_shards_are_refused(tmp_path: Path, region: Region | None, at_start: bool) -> None:
    path, secret = tmp_path / "image.zarr", tmp_path / "secret"
    content = shard(chunks_of("zstd", image()), at_start)
    write_shard(path, sharded([BYTES, codec("zstd")], at_start), content)
    (path / "c/0/0").rename(secret)
    (path / "c/0/0").symlink_to(secret)
    check_refused(path, region, match=r"image\.zarr: its part 'c/0/0' is outside of its folder: replace the link")
    (path / "c/0/0").unlink()
    (path / "c/0").rmdir()
    (tmp_path / "0").mkdir()
    secret.rename(tmp_path / "0" / "0")
    (path / "c/0").symlink_to(tmp_path / "0")
    check_refused(path, region, match=r"'c/0/0' is outside of its folder")
    (path / "c/0").unlink()
    (tmp_path / "0").rename(path / "0")
    (path / "c/0").symlink_to("../0")  # a link that stays inside
    check(path, image())


@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zgroup"])
def test_links_of_metadata_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.zarr"
    zarr.create_array(path, shape=(5, 5), dtype="uint8", zarr_format=3 if name == "zarr.json" else 2)
    found = path / name if (path / name).exists() else path / ".zarray"
    found.rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"image\.zarr: its part '{name}' is outside of its folder"):
        open_image(path)


def test_links_to_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    write_array(path, [BYTES], [None, *(tile.tobytes() for tile in tiles(image())[1:])])
    (path / "c/0/0").symlink_to(tmp_path / "missing")
    check_refused(path, FIRST, match=r"'c/0/0' is outside of its folder")
    (path / "c/0/0").unlink()
    (path / "c/0/0").symlink_to("0")  # a loop
    check_refused(path, FIRST, match=r"image\.zarr")


def test_nothing_is_written_or_listed(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    write_array(path, [BYTES], [tile.tobytes() for tile in tiles(image())])
    with open_image(path) as reader:
        for change in (lambda: reader.array.__setitem__(0, 0), lambda: reader.array.nbytes_stored()):
            with pytest.raises(DataError, match=r"open it with zarr to list or change its files"):
                change()
    check(path, image())


def test_chunks_that_are_larger_than_declared_are_not_read(tmp_path: Path) -> None:
    """Files that are mostly holes take no space on the disk."""
    path = tmp_path / "image.zarr"
    for name in ("", *NAMES):
        write_array(path, [BYTES, *([codec(name)] if name else [])], [b"", None, None, None])
        os.truncate(path / "c/0/0", 1 << 40)
        match = r"image\.zarr: its part 'c/0/0' has 1,099,511,627,776 bytes, where its metadata say at most"
        check_refused(path, None, FIRST, match=match)
    write_shard(path, sharded([BYTES]), b"")
    os.truncate(path / "c/0/0", 1 << 40)
    check_refused(path, None, match=r"1,099,511,627,776 bytes, where its metadata say at most")
    # Each entry of its index is zero.
    check_refused(path, FIRST, match=r"image\.zarr")


def test_arrays_inside_of_arrays_are_refused(tmp_path: Path) -> None:
    """A file could be a chunk of both, and be checked as a chunk of one only."""
    path = tmp_path / "image.zarr"
    group = zarr.open_group(path, mode="w")
    scales = [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "a"}, {"path": "a/c"}]}]
    group.attrs["ome"] = {"multiscales": scales}
    for name in ("a", "a/c"):
        write_array(path / name, [BYTES, codec("zstd")], chunks_of("zstd", image()))
    with pytest.raises(DataError, match=r"image\.zarr: its array 'a/c' is inside of another array: move it out"):
        open_image(path)


# Shards


@pytest.mark.parametrize("name", NAMES)
@AT_START
def test_bombs_in_shards_are_refused(tmp_path: Path, name: str, at_start: bool) -> None:
    path = tmp_path / "image.zarr"
    good = chunks_of(name, image())
    codecs = sharded([BYTES, codec(name)], at_start)
    for number, regions in ((0, (None, FIRST, TOP)), (1, (None, SECOND, TOP)), (3, (None, LAST))):
        chunks = [*good[:number], bomb(name), *good[number + 1 :]]
        write_shard(path, codecs, shard(chunks, at_start))
        check_refused(path, *regions, match=TOO_LARGE)
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read(TOP)[0], image()[TOP.slices])
    write_shard(path, codecs, shard(good, at_start))
    check(path, image())


@pytest.mark.parametrize("name", ["", "zstd", "blosc", "gzip", "lz4"])
@AT_START
@pytest.mark.parametrize("missing", [(0,), (0, 1, 2), (0, 1, 2, 3)])
def test_missing_chunks_of_shards_are_filled(
    tmp_path: Path, name: str, at_start: bool, missing: tuple[int, ...]
) -> None:
    path, expected = tmp_path / "image.zarr", image()
    for number in missing:
        tiles(expected)[number][:] = 5
    chunks = [encoded(name, tile) if name else tile.tobytes() for tile in tiles(expected)]
    content = shard([None if number in missing else chunk for number, chunk in enumerate(chunks)], at_start)
    write_shard(path, sharded([BYTES, *([codec(name)] if name else [])], at_start), content)
    check(path, expected)


@AT_START
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_indices_of_all_kinds(tmp_path: Path, at_start: bool, checksum: bool, endian: str) -> None:
    path = tmp_path / "image.zarr"
    codecs = sharded([BYTES, codec("zstd")], at_start, checksum, endian)
    good = chunks_of("zstd", image())
    write_shard(path, codecs, shard(good, at_start, checksum, endian))
    check(path, image())
    write_shard(path, codecs, shard([bomb("zstd"), *good[1:]], at_start, checksum, endian))
    check_refused(path, None, FIRST, match=TOO_LARGE)


@AT_START
def test_indices_that_point_elsewhere_are_refused(tmp_path: Path, at_start: bool) -> None:
    path = tmp_path / "image.zarr"
    chunks = [tile.tobytes() for tile in tiles(image())]
    index_bytes = 4 * 16 + 4
    size = index_bytes + 4 * SIDE * SIDE
    index = 0 if at_start else size - index_bytes
    for entry in (
        (index, index_bytes),  # the index itself
        (index + 1, 8),
        (0, size),
        (size, 1),
        (size - 1, 100),
        (2**64 - 1, 100),
        (100, 2**64 - 1),
        (2**64 - 50, 60),  # the sum overflows
        (2**63, 2**63),
    ):
        write_shard(path, sharded([BYTES], at_start), shard(chunks, at_start, entries={3: entry}))
        match = r"image\.zarr: its part 'c/0/0' is not a shard: its index has a chunk at bytes"
        check_refused(path, None, FIRST, LAST, match=match)


@AT_START
def test_shards_that_are_cut_off_are_named(tmp_path: Path, at_start: bool) -> None:
    path = tmp_path / "image.zarr"
    content = shard(chunks_of("zstd", image()), at_start)
    for size in (0, 1, 16, 63, 67, 68, 100, len(content) - 1):
        write_shard(path, sharded([BYTES, codec("zstd")], at_start), content[:size])
        check_refused(path, None, FIRST, match=r"image\.zarr")


# Chains of codecs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("checksums", [1, 2])
@pytest.mark.parametrize("in_shard", [False, True])
def test_checksums_after_a_compressor(tmp_path: Path, name: str, checksums: int, in_shard: bool) -> None:
    path = tmp_path / "image.zarr"
    codecs = [BYTES, codec(name), *[CHECKSUM] * checksums]
    good = chunks_of(name, image())
    for content, expected in ((good, image()), ([bomb(name), *good[1:]], None)):
        chunks = content
        for _ in range(checksums):
            chunks = [with_checksum(chunk) for chunk in chunks]
        if in_shard:
            write_shard(path, sharded(codecs), shard(chunks))
        else:
            write_array(path, codecs, chunks)
        if expected is None:
            check_refused(path, None, FIRST, match=TOO_LARGE)
        else:
            check(path, expected)


GZIP, ZSTD = codec("gzip"), codec("zstd")
CRC32 = {"name": "numcodecs.crc32", "configuration": {}}
SHUFFLE = {"name": "numcodecs.shuffle", "configuration": {"elementsize": 1}}
WIDEN = {"name": "numcodecs.delta", "configuration": {"dtype": "<f8", "astype": "|u1"}}
UNCHECKED = r"cannot be checked before: write it again with one compressor, which is the last codec, for example zstd"


@pytest.mark.parametrize(
    ("codecs", "names"),
    [
        ([BYTES, GZIP, ZSTD], "bytes, then gzip, then zstd"),
        ([BYTES, ZSTD, ZSTD], "bytes, then zstd, then zstd"),
        ([BYTES, GZIP, CRC32], "bytes, then gzip, then numcodecs.crc32"),
        ([BYTES, GZIP, CHECKSUM, ZSTD], "bytes, then gzip, then crc32c, then zstd"),
        ([BYTES, GZIP, SHUFFLE], "bytes, then gzip, then numcodecs.shuffle"),
        ([BYTES, codec("zlib"), {"name": "numcodecs.crc32c", "configuration": {}}], "zlib, then numcodecs.crc32c"),
        ([WIDEN, WIDEN, BYTES, ZSTD], "numcodecs.delta, then numcodecs.delta"),
    ],
)
@pytest.mark.parametrize("in_shard", [False, True])
def test_chains_that_cannot_be_checked_are_refused(
    tmp_path: Path, codecs: list[Any], names: str, in_shard: bool
) -> None:
    path = tmp_path / "image.zarr"
    if in_shard:
        write_shard(path, sharded(codecs), b"")
    else:
        write_array(path, codecs, [b""] * 4)
    with pytest.raises(DataError, match=rf"image\.zarr: its chunks are encoded with .*{names}.* {UNCHECKED}"):
        open_image(path)


@pytest.mark.parametrize("after", [[GZIP], [CHECKSUM], [ZSTD, CHECKSUM]])
def test_codecs_after_shards_are_refused(tmp_path: Path, after: list[Any]) -> None:
    path = tmp_path / "image.zarr"
    write_shard(path, sharded([BYTES, ZSTD]), b"", after)
    with pytest.raises(DataError, match=rf"image\.zarr: its chunks are encoded with sharding_indexed, .* {UNCHECKED}"):
        open_image(path)


def test_nested_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    write_shard(path, sharded([sharded([BYTES, ZSTD], chunk_shape=[8, 8])]), b"")
    with pytest.raises(DataError, match=r"sharding_indexed, then sharding_indexed"):
        open_image(path)


@pytest.mark.parametrize("codecs", [[INDEX_BYTES, GZIP], [INDEX_BYTES, CHECKSUM, GZIP], [INDEX_BYTES, CRC32]])
def test_compressed_indices_are_refused(tmp_path: Path, codecs: list[Any]) -> None:
    path = tmp_path / "image.zarr"
    write_shard(path, sharded([BYTES, ZSTD], index_codecs=codecs), b"")
    # zarr 3.4 refuses some of them itself.
    match = r"image\.zarr.*(indices of its shards are encoded with bytes, then|index_codecs.* fixed-size)"
    with pytest.raises(DataError, match=match):
        open_image(path)


def version_2(path: Path, content: bytes, filters: list[Any] | None, compressor: Any) -> None:
    path.mkdir(exist_ok=True)
    metadata = {"zarr_format": 2, "shape": [SIDE, SIDE], "chunks": [SIDE, SIDE], "dtype": "|u1", "fill_value": 0}
    metadata |= {"order": "C", "filters": filters, "compressor": compressor}
    (path / ".zarray").write_text(json.dumps(metadata))
    (path / "0.0").write_bytes(content)


def test_compressors_among_filters(tmp_path: Path) -> None:
    path, values = tmp_path / "image.zarr", image(SIDE)
    zlib, zstd = {"id": "zlib"}, {"id": "zstd"}
    for filters, compressor in (
        ([zlib], zstd),
        ([zlib, zlib], None),
        ([zlib], {"id": "crc32c"}),
        ([zlib], {"id": "crc32"}),
    ):
        version_2(path, b"", filters, compressor)
        with pytest.raises(
            DataError, match=rf"image\.zarr: its chunks are encoded with numcodecs.zlib, .* {UNCHECKED}"
        ):
            open_image(path)
    version_2(path, encoded("zlib", values), [{"id": "shuffle", "elementsize": 1}, zlib], None)
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read()[0], values)
    version_2(path, bomb("zlib"), [zlib], None)
    check_refused(path, None, match=r"bytes or more after decompression")


def test_filters_that_widen_values(tmp_path: Path) -> None:
    path, values = tmp_path / "image.zarr", image(SIDE)
    widen = {"id": "delta", "dtype": "<f8", "astype": "|u1"}
    for filters in ([widen, widen], [widen, {"id": "packbits"}], [{"id": "packbits"}] * 3):
        version_2(path, b"", filters, {"id": "zstd"})
        with pytest.raises(DataError, match=UNCHECKED):
            open_image(path)
    delta = numcodecs.Delta("|u1")
    version_2(path, encoded("zstd", delta.encode(values)), [delta.get_config()], {"id": "zstd"})
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read()[0], values)


@pytest.mark.parametrize("name", ["pcodec", "zfpy", "pickle"])
def test_codecs_without_a_bound_are_refused(tmp_path: Path, name: str) -> None:
    version_2(tmp_path / "image.zarr", b"", None, {"id": name})
    with pytest.raises(DataError, match=r"image\.zarr"):
        open_image(tmp_path / "image.zarr")


# Compressors


PARTS = {
    "gzip": gzip.compress,
    "bz2": partial(bz2.compress, compresslevel=1),
    "lzma": partial(lzma.compress, preset=0),
    "zstd": lambda data: encoded("zstd", np.frombuffer(data, np.uint8)),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("in_shard", [False, True])
def test_several_members(tmp_path: Path, name: str, in_shard: bool) -> None:
    path, compress = tmp_path / "image.zarr", PARTS[name]

    def write(chunk: bytes) -> None:
        chunks = [chunk, *chunks_of(name, image())[1:]]
        if in_shard:
            write_shard(path, sharded([BYTES, codec(name)]), shard(chunks))
        else:
            write_array(path, [BYTES, codec(name)], chunks)

    first = tiles(image())[0].tobytes()
    write(compress(first[:100]) + compress(first[100:]))
    check(path, image())
    for chunk in (
        compress(first) + bomb(name),
        compress(first[:1]) * 4 + bomb(name),
        compress(BOMB[: LIMIT // 2].tobytes()) * 4,
    ):
        write(chunk)
        check_refused(path, None, FIRST, match=TOO_LARGE)
    write(compress(first)[:-10])
    check_refused(
        path, FIRST, match=rf"image\.zarr: its part 'c/0/0' has a chunk that {name} cannot read: it is damaged"
    )


def test_lzma_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    options = {"id": "lzma", "format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 1}]}
    own = numcodecs.get_codec(dict(options))
    version_2(path, own.encode(image(SIDE)), None, options)
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read()[0], image(SIDE))
    version_2(path, own.encode(BOMB), None, options)
    check_refused(path, None, match=r"bytes or more after decompression")


@pytest.mark.parametrize(
    ("name", "position", "values"),
    [
        ("blosc", 4, (-1, -(2**31), 2**31 - 1, LIMIT + 1)),
        ("blosc", 8, (-1, 2**31 - 1)),
        ("blosc", 12, (2**31 - 1,)),
        ("lz4", 0, (-1, -(2**31), 2**31 - 1, LIMIT + 1, 0)),
    ],
)
def test_headers_that_lie(tmp_path: Path, name: str, position: int, values: tuple[int, ...]) -> None:
    path, good = tmp_path / "image.zarr", chunks_of(name, image())
    for value in values:
        chunk = bytearray(good[0])
        struct.pack_into("<i", chunk, position, value)
        write_array(path, [BYTES, codec(name)], [bytes(chunk), *good[1:]])
        check_refused(path, None, FIRST, match=r"image\.zarr")
    for size in (0, 1, 3, 4, 8, 15, 16, len(good[0]) - 1):
        write_array(path, [BYTES, codec(name)], [good[0][:size], *good[1:]])
        check_refused(path, None, FIRST, match=r"image\.zarr")


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 210), pytest.param(1, 10_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_damaged_chunks_are_read_or_named(tmp_path: Path, seed: int, count: int) -> None:
    for package in ("tifffile", "imagecodecs", "nibabel", "pydicom"):  # of the other formats that are damaged
        pytest.importorskip(package)
    command = [sys.executable, "-m", "tests.image_files.zarr_fuzz", str(seed), str(count), str(tmp_path / "images")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False, timeout=1800)
    assert run.returncode == 0, run.stderr[-4000:]
    found = re.search(rf"of {2 * count} damaged ones (\d+) read", run.stdout)
    assert found and 0.1 * count < int(found[1]) < count, run.stdout
