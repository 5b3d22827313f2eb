"""Pixels of an image that is being written, on disk and in no particular order."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastmunit.image_files.raw_array import RawArray
from fastmunit.region import Region

# Values that are read at once when an image is written from its staged pixels.
_MAX_VALUES = 1 << 20


class Staging:
    """An unnamed temporary file with the pixels of an image, shape (planes, channels, height, width).

    The file has no name, so nothing is left of it if the process is killed.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], dtype: np.dtype) -> None:
        """Create the file with all of its disk space, so that a full disk is known before the pixels are computed.

        Raises:
            OSError: If the disk has no room.
        """
        self.shape, self.dtype, self._folder = shape, dtype, folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._pixels = RawArray(self._file.fileno(), 0, shape, dtype)
        try:
            reserve(self._file.fileno(), self._pixels.nbytes)
        except BaseException:
            self.close()
            raise

    def write(self, array: np.ndarray, region: Region, plane: int) -> None:
        """Write a region (channels, height, width) of a plane.

        Raises:
            OSError: If the disk is full.
        """
        self._pixels.write((plane, 0, region.top, region.left), array[None])

    def read(self, region: Region, plane: int, channels: slice = slice(None)) -> np.ndarray:
        """Read a region (channels, height, width) of a plane."""
        first, last, _ = channels.indices(self.shape[1])
        starts = (plane, first, region.top, region.left)
        return self._pixels.read(starts, (1, last - first, region.height, region.width))[0]

    def bands(self, plane: int, channels: slice = slice(None)) -> Iterator[np.ndarray]:
        """Yield a plane from top to bottom as bands (channels, rows, width) of a bounded number of values."""
        _, count, height, width = self.shape
        rows = max(1, _MAX_VALUES // (count * width))
        for top in range(0, height, rows):
            yield self.read(Region(top, 0, min(rows, height - top), width), plane, channels)

    def halved(self, nodata: float | None) -> Staging:
        """Return the next level of a pyramid, in a file of its own: means of 2 x 2 pixels, rounded for integers.

        Pixels that are NaN or `nodata` are left out of the means. The last row and column are repeated if needed.

        Raises:
            OSError: If the disk is full.
        """
        planes, channels, height, width = self.shape
        level = Staging(self._folder, (planes, channels, (height + 1) // 2, (width + 1) // 2), self.dtype)
        side = max(2, int((_MAX_VALUES / channels) ** 0.5) // 2 * 2)
        try:
            for plane in range(planes):
                for top in range(0, height, side):
                    for left in range(0, width, side):
                        region = Region(top, left, min(side, height - top), min(side, width - left))
                        half = halve(self.read(region, plane), nodata)
                        level.write(half, Region(top // 2, left // 2, *half.shape[1:]), plane)
        except BaseException:
            level.close()
            raise
        return level

    def close(self) -> None:
        """Close the file, which frees its space."""
        self._file.close()


def halve(array: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return means of 2 x 2 pixels of an array (channels, height, width); see `Staging.halved`."""
    padded = np.pad(array, ((0, 0), (0, array.shape[1] % 2), (0, array.shape[2] % 2)), mode="edge")
    blocks = padded.reshape(array.shape[0], padded.shape[1] // 2, 2, padded.shape[2] // 2, 2).astype(np.float64)
    missing = np.isnan(blocks)
    if nodata is not None:
        missing |= blocks == nodata
    if not missing.any():
        means = blocks.mean(axis=(2, 4))
    else:
        valid = (~missing).sum(axis=(2, 4))
        sums = np.where(missing, 0.0, blocks).sum(axis=(2, 4))
        means = np.where(valid > 0, sums / np.maximum(valid, 1), np.nan if nodata is None else nodata)
    return (means if array.dtype.kind == "f" else np.rint(means)).astype(array.dtype)


def reserve(descriptor: int, size: int) -> None:
    """Give a file a size and the disk space for it, where the file system can tell.

    Raises:
        OSError: If the disk has no room.
    """
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (OSError, AttributeError) as error:  # AttributeError: macOS
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.ftruncate(descriptor, size)
