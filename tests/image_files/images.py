"""Images, copies of them, and regions, for the tests of all formats."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image, output_suffix, writer_like
from fastmunit.image_files.reader import ImageReader
from fastmunit.region import Region

HEIGHT, WIDTH = 37, 53
ODD_REGIONS = (
    Region(0, 0, 1, 1),
    Region(3, 5, 17, 9),
    Region(36, 0, 1, 53),
    Region(15, 31, 22, 22),
    Region(7, 7, 0, 3),
)


def pixels(*shape: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Return random values between 0 and 200 of an array (..., HEIGHT, WIDTH)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, (*shape, HEIGHT, WIDTH)).astype(dtype)


def whole(reader: ImageReader) -> np.ndarray:
    """Return all planes: (planes, channels, height, width)."""
    return np.stack([reader.read(plane=plane) for plane in range(reader.planes)])


def check_reading(path: Path, expected: np.ndarray, **options: Any) -> None:
    """Check the values (planes, channels, height, width), odd regions, and a reader that went through pickle."""
    with open_image(path, **options) as reader:
        found = whole(reader)
        assert found.dtype == reader.dtype
        np.testing.assert_array_equal(found, expected)
        with pickle.loads(pickle.dumps(reader)) as again:
            for region in ODD_REGIONS:
                rows, columns = region.slices
                for plane in {0, reader.planes - 1}:
                    wanted = expected[plane][:, rows, columns]
                    np.testing.assert_array_equal(reader.read(region, plane), wanted)
                    np.testing.assert_array_equal(again.read(region, plane), wanted)


def copied(
    source: Path,
    target: Path,
    channels: int | None = None,
    dtype: str | None = None,
    names: tuple[str, ...] | None = None,
    **options: Any,
) -> np.ndarray:
    """Write an image like `source`, by tiles from bottom to top, and return its values as they must be read again.

    With the channels and type of the source, the values are its own.
    """
    with open_image(source, **options) as reader:
        assert target.name.endswith(output_suffix(reader))
        count = channels or reader.channels
        kind = np.dtype(dtype or reader.dtype)
        same = count == reader.channels
        shape = (reader.planes, count, reader.height, reader.width)
        values = (whole(reader) if same else np.random.default_rng(1).integers(0, 200, shape)).astype(kind)
        with writer_like(reader, target, count, kind, names) as writer:
            for plane in range(reader.planes):
                for top in reversed(range(0, reader.height, 20)):
                    for left in range(0, reader.width, 31):
                        tile = values[plane, :, top : top + 20, left : left + 31]
                        writer.write(tile, Region(top, left, *tile.shape[1:]), plane)
    return values


def put_shape(path: Path, last: bool) -> None:
    """Move the shape in a description by tifffile to the end, as older releases write it, or to the beginning."""
    import tifffile

    entries = json.loads(tifffile.tiffcomment(path))
    shape = {"shape": entries.pop("shape")}
    tifffile.tiffcomment(path, json.dumps(entries | shape if last else shape | entries))


def check_level(path: Path, level: int, expected: np.ndarray) -> None:
    """Check the values (planes, channels, height, width) of a level, regions of it, and errors outside of it."""
    with open_image(path) as reader:
        height, width = reader.levels[level]
        assert expected.shape == (reader.planes, reader.channels, height, width)
        for region in (None, Region(0, 0, 1, 1), Region(1, 2, height - 1, width - 3), Region(height - 1, 0, 1, width)):
            rows, columns = (slice(None), slice(None)) if region is None else region.slices
            for plane in {0, reader.planes - 1}:
                found = reader.read(region, plane, level)
                assert found.dtype == reader.dtype
                np.testing.assert_array_equal(found, expected[plane][:, rows, columns])
        with pytest.raises(DataError, match=rf"expected a region inside {height} x {width} pixels"):
            reader.read(Region(0, 0, height + 1, 1), 0, level)
        for bad in (-1, len(reader.levels)):
            with pytest.raises(DataError, match=rf"expected a level from 0 to {len(reader.levels) - 1}, got {bad}\."):
                reader.read(None, 0, bad)
