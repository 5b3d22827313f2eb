from pathlib import Path

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image
from fastmunit.image_files.zstd_frames import FrameSizes, frame_sizes

pytest.importorskip("zarr", minversion="3")
pytest.importorskip("google_crc32c")
numcodecs = pytest.importorskip("numcodecs")

from tests.image_files.test_zarr_bounds import TOO_LARGE, check, check_refused  # noqa: E402
from tests.image_files.zarr_arrays import (  # noqa: E402
    BYTES,
    LIMIT,
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

MAX_BLOCK = 1 << 17
SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
WINDOW = 0x50  # 1 MiB


def block(kind: int, size: int, content: bytes, last: bool = True) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content


def raw(content: bytes, last: bool = True) -> bytes:
    return block(0, len(content), content, last)


def repeated(size: int, last: bool = True) -> bytes:
    """Return a block of 4 bytes that decodes to `size` bytes."""
    return block(1, size, b"\x07", last)


def frame(*blocks: bytes, size: int | None = None) -> bytes:
    header = bytes([0, WINDOW]) if size is None else bytes([0x80, WINDOW]) + size.to_bytes(4, "little")
    return b"\x28\xb5\x2f\xfd" + header + b"".join(blocks)


def without_size(data: bytes) -> bytes:
    """Return a frame of numcodecs without the size that it states."""
    assert data[4] in (0x20, 0x60, 0xA0)
    return frame(data[5 + (1, 2, 4)[data[4] >> 6] :])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 65791, 65792, 70000, 131072, 131073, 1000000])
@pytest.mark.parametrize("checksum", [False, True])
def test_sizes_that_numcodecs_states(size: int, checksum: bool) -> None:
    values = np.random.default_rng(0).integers(0, 50, size, dtype=np.uint8)
    data = bytes(numcodecs.Zstd(checksum=checksum).encode(values))
    found = frame_sizes(data)
    assert found.stated == size <= found.bound
    assert frame_sizes(data + data).stated == 2 * size
    for cut in {0, 1, 4, 5, 6, len(data) // 2, len(data) - 1}:
        with pytest.raises(DataError, match=r"a zstd frame that is damaged or cut off"):
            frame_sizes(data[:cut])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (frame(raw(b"abc")), (None, 3)),
        (frame(raw(b"abc", last=False), repeated(500)), (None, 503)),
        (frame(block(2, 10, b"x" * 10)), (None, MAX_BLOCK)),
        (frame(repeated(500), size=500), (500, 500)),
        (frame(repeated(500), size=3), (3, 500)),
        (frame(repeated(500)) + frame(raw(b"abc"), size=3), (None, 503)),
        (SKIPPABLE + frame(repeated(500), size=500) + SKIPPABLE, (500, 500)),
        (SKIPPABLE, (0, 0)),
    ],
)
def test_sizes_of_frames(data: bytes, expected: tuple[int | None, int]) -> None:
    assert frame_sizes(data) == FrameSizes(*expected)


@pytest.mark.parametrize(
    "data",
    [
        frame(block(3, 4, b"abcd")),
        frame(repeated(MAX_BLOCK + 1)),
        frame(raw(b"abc", last=False)),
        frame(raw(b"abc")) + b"more",
        SKIPPABLE[:-1],
        b"\x27\xb5\x2f\xfd" + frame(raw(b"abc"))[4:],
    ],
)
def test_damaged_frames(data: bytes) -> None:
    with pytest.raises(DataError, match=r"a zstd frame that is damaged or cut off"):
        frame_sizes(data)


def write(path: Path, chunk: bytes, in_shard: bool) -> None:
    chunks = [chunk, *(encoded("zstd", tile) for tile in tiles(image())[1:])]
    if in_shard:
        write_shard(path, sharded([BYTES, codec("zstd")]), shard(chunks))
    else:
        write_array(path, [BYTES, codec("zstd")], chunks)


FIRST = tiles(image())[0].tobytes()
BOMB = frame(*[repeated(MAX_BLOCK, last=False)] * 80, repeated(1))  # 10 MiB


@pytest.mark.parametrize("in_shard", [False, True])
def test_frames_without_a_size_are_read(tmp_path: Path, in_shard: bool) -> None:
    path = tmp_path / "image.zarr"
    single = without_size(encoded("zstd", tiles(image())[0]))
    assert frame_sizes(single).stated is None and frame_sizes(single).bound > LIMIT
    for chunk in (
        single,
        frame(raw(FIRST)),
        frame(*(raw(FIRST[start : start + 1], last=start == 255) for start in range(256))),
        frame(raw(FIRST[:100]), size=100) + frame(raw(FIRST[100:])),
        SKIPPABLE + single + SKIPPABLE,
    ):
        write(path, chunk, in_shard)
        check(path, image())


@pytest.mark.parametrize("in_shard", [False, True])
def test_bombs_are_refused(tmp_path: Path, in_shard: bool) -> None:
    path = tmp_path / "image.zarr"
    large = encoded("zstd", np.random.default_rng(0).integers(0, 9, 4 << 20, dtype=np.uint8)[: 1 << 16])
    for chunk in (
        BOMB,
        SKIPPABLE + BOMB,
        frame(raw(FIRST)) + BOMB,
        frame(raw(FIRST), size=SIDE**2) + BOMB,
        frame(repeated(MAX_BLOCK), size=LIMIT + 1),
        # Decoded as a stream, since the first frame states no size, so that the false size is found too late.
        frame(raw(FIRST)) + frame(BOMB[6:], size=1),
        frame(*[repeated(1 << 12)], size=1 << 12),
        without_size(large),
    ):
        write(path, chunk, in_shard)
        check_refused(path, None, match=TOO_LARGE)


@pytest.mark.parametrize(
    "chunk", [b"", SKIPPABLE, frame(repeated(9), size=0), frame(raw(FIRST))[:-1], bytes(range(99))]
)
def test_damaged_chunks_are_named(tmp_path: Path, chunk: bytes) -> None:
    write(tmp_path / "image.zarr", chunk, in_shard=False)
    check_refused(tmp_path / "image.zarr", None, match=r"image\.zarr")


def test_many_small_blocks_are_read(tmp_path: Path) -> None:
    """Read a chunk without a stated size, which has more blocks than its size needs."""
    path, side = tmp_path / "image.zarr", 256
    part = encoded("zstd", np.random.default_rng(0).integers(0, 3, side * 4).astype(np.uint8))
    content = without_size(part)[9:]  # after the headers of the frame and of its block
    chunk = frame(*(block(2, len(content), content, last=number == 63) for number in range(64)))
    grid = {"name": "regular", "configuration": {"chunk_shape": [side, side]}}
    write_array(path, [BYTES, codec("zstd")], [chunk, None, None, None], shape=[side, side], chunk_grid=grid)
    assert frame_sizes(chunk).bound > 8 * side**2 + 1024
    expected = np.frombuffer(numcodecs.Zstd().decode(chunk), np.uint8).reshape(side, side)
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read()[0], expected)
