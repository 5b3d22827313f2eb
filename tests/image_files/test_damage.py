"""Damaged files: TIFF structures by hand, and all formats at random, in another process that may crash."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastmunit.data.pixels import read_pixels
from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image
from tests.image_files.images import pixels

ROOT = Path(__file__).parents[2]


def tiff(path: Path, tags: list[tuple[int, int, int, int]], following: int = 0, data: bytes = bytes(4000)) -> Path:
    """Write a TIFF with one directory at byte 8 and `data` after it: tags are (code, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", following) + data)
    return path


def header(height: int = 20, width: int = 10, strips: int = 1, rows: int = 20, **changes: int) -> list:
    """Return the tags of an uncompressed image of bytes, changed by tag_CODE=value."""
    values = {
        256: width,
        257: height,
        258: 8,
        259: 1,
        262: 1,
        273: 200,
        277: 1,
        278: rows,
        279: min(height * width, 10**9),
    }
    values |= {int(name.removeprefix("tag_")): value for name, value in changes.items()}
    counts = {273: strips, 279: strips}
    return [(code, 4, counts.get(code, 1), value) for code, value in values.items()]


def test_structure_that_is_sound(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    with open_image(tiff(tmp_path / "image.tif", header())) as reader:
        assert reader.read().shape == (1, 20, 10)


@pytest.mark.parametrize(
    ("tags", "following", "message"),
    [
        (header(), 8, "directories of pages form a cycle at byte 8"),
        (header(), 10**6, "truncated or damaged"),
        (header(tag_330=8), 0, "form a cycle"),
        (header(height=2**31 - 1, width=2**31 - 1), 0, "expected 107374183 strips, got 1"),
        (header(height=10**5, width=10**5, rows=10**5), 0, "is truncated: expected at least"),
        (header(height=10**5, width=10**5, tag_259=8), 0, "expected 5000 strips, got 1"),
        (header(height=10**5, width=10**5, rows=10**5, tag_259=8), 0, "has strips of 10,000,000,000 bytes"),
        (header(rows=3), 0, "expected 7 strips, got 1"),
        (header(rows=3, tag_259=5), 0, "expected 7 strips, got 1"),
        (header(strips=5000), 0, "values of tag 273 end at byte"),
        (header(tag_279=10), 0, "expected 200 bytes in its strips, got 10"),
        (header(tag_259=5, tag_279=10**6), 0, "page 1 is truncated: expected 1,000,000 bytes"),
        (header(tag_259=12345), 0, "12345"),
        (header(tag_273=0), 0, "image.tif"),
        (header(width=0), 0, "image.tif"),
        ([(256, 4, 1, 5)], 0, "image.tif"),
    ],
)
def test_structures_that_are_not(tmp_path: Path, tags: list, following: int, message: str) -> None:
    pytest.importorskip("tifffile")
    path = tiff(tmp_path / "image.tif", tags, following)
    with pytest.raises(DataError, match=message), open_image(path) as reader:
        reader.read()


def test_long_cycle(tmp_path: Path) -> None:
    """Refer from the last of 150 pages to the 120th."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((150, 4, 4), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
        tags = len(file.pages[149].tags)
    data = bytearray(path.read_bytes())
    position = offsets[149] + 2 + 12 * tags
    data[position : position + 4] = struct.pack("<I", offsets[120])
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"form a cycle"):
        open_image(path)


def test_truncated_pages(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "image.tif"
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}, {"compression": "lzw", "tile": (16, 16)}):
        tifffile.imwrite(path, pixels(3), photometric="minisblack", **options)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 9 // 10])
        with pytest.raises(DataError, match=r"image.tif.*truncated"), open_image(path) as reader:
            reader.read()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_stacks_are_not_pictures(tmp_path: Path, share: float) -> None:
    """Pillow would read the first page, without the description: one channel of three."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, pixels(3, dtype="uint8"), photometric="minisblack", metadata={"axes": "CYX"}, tile=(16, 16))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert is_image_file(path)
    with pytest.raises(DataError, match=r"cells\.ome\.tif: .*truncated or damaged; copy it again"):
        read_pixels(path, 3)


def test_deep_descriptions_are_no_axes(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels(dtype="uint8"), description='{"shape": ' + "[" * 10**5, metadata=None)
    assert not is_image_file(path)
    with open_image(path) as reader:
        assert reader.planes == 1


def read_damaged(seed: int, count: int, folder: Path) -> int:
    """Return the number of damaged files that were read."""
    for package in ("tifffile", "imagecodecs", "nibabel", "pydicom"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "tests.image_files.fuzz", str(seed), str(count), str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False, timeout=1800)
    assert run.returncode == 0, f"{folder}: {run.stderr[-4000:]}"
    found = re.search(r"of \d+ damaged ones (\d+) read", run.stdout)
    assert found, run.stdout
    return int(found[1])


def test_damaged_files_are_read_or_named(tmp_path: Path) -> None:
    assert 30 < read_damaged(0, 250, tmp_path / "files") < 220  # damage reaches the decoders


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_damaged_files_are_read_or_named(tmp_path: Path, seed: int) -> None:
    assert read_damaged(seed, 10_000, tmp_path / "files") > 1000
