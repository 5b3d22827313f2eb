"""Scientific image files as images of a domain: by region and slice, with the channels of the configuration."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from fastmunit.data.images import ImageHeader, check_bands, read_header
from fastmunit.data.memory_limit import memory_excess
from fastmunit.data.opening import ImageFile
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError
from fastmunit.files import printable
from fastmunit.image_files.open import is_image_file, open_image
from fastmunit.image_files.reader import ImageReader
from fastmunit.region import Region

_TIFF = (".tif", ".tiff")
_PNG = ".png"
_OPEN_READERS = 32
_BAND_ROWS = 512


def has_reader(path: ImageFile, channels: int, values: PixelValues, max_pixels: int | None = None) -> bool:
    """Return True if an image is read by `image_files`, and False if Pillow reads it.

    Pillow reads PNGs and ordinary pictures in TIFFs: one page in strips with at most 8 bits per sample. Without a value
    range, channel names or slices, it also reads other TIFFs whose channels only it can convert: color to gray, or
    transparent parts to white.

    Args:
        path: The file, or the folder of formats that are folders.
        channels: Channels of an image of the domain.
        values: How pixels are read.
        max_pixels: Maximum number of pixels for Pillow.
    """
    if not isinstance(path, str | os.PathLike):
        return False
    suffix = Path(path).suffix.lower()
    if suffix == _PNG or not is_image_file(path):
        return False
    if suffix not in _TIFF or values != PixelValues():
        return True
    try:
        found = _opened(os.fspath(path), file_state(path), channels).channels
    except DataError:
        return True
    return found == channels or (found, channels) == (1, 3) or not _pillow_converts(path, channels, max_pixels)


def keeps_format(path: str | os.PathLike[str], channels: int, values: PixelValues, max_pixels: int | None) -> bool:
    """Return True if outputs for an image are written in its own format unless something else is asked for.

    These are the images that `has_reader` names, and 16-bit PNGs whose channels need no conversion.
    """
    if Path(path).suffix.lower() != _PNG:
        return has_reader(path, channels, values, max_pixels)
    if not is_image_file(path):
        return False
    try:
        DomainReader(path, channels, values)
    except DataError:
        return False
    return True


def _pillow_converts(path: str | os.PathLike[str], channels: int, max_pixels: int | None) -> bool:
    try:
        check_bands(path, read_header(path, max_pixels), channels)
    except DataError:
        return False
    return True


class DomainReader:
    """An image file that is read as images of a domain, slice by slice and by region.

    Args:
        path: The file, or the folder of formats that are folders.
        channels: Channels of an image: those of a slice times `values.slices`.
        values: How pixels are read.

    Attributes:
        reader: The open file.
        nodata: Value without data: that of the configuration, or else of the file, or None.

    Raises:
        DataError: If the file cannot be opened, or does not have the channels.
    """

    def __init__(self, path: str | os.PathLike[str], channels: int, values: PixelValues) -> None:
        self.reader = reader = _opened(os.fspath(path), file_state(path), channels // values.slices)
        self._slices, self._name = values.slices, printable(path)
        count = channels // values.slices
        self._channels: list[int] | None = None
        if values.channel_names and reader.channel_names:
            missing = [name for name in values.channel_names if name not in reader.channel_names]
            if missing:
                raise DataError(
                    f"{self._name} has no channel {missing[0]!r}: it has {', '.join(reader.channel_names)}. Correct "
                    f"channel_names{values.keys}."
                )
            self._channels = [reader.channel_names.index(name) for name in values.channel_names]
        elif reader.channels != count:
            if reader.channels != 1 or count != 3:
                raise DataError(
                    f"{self._name} has {reader.channels} channels but input_dim is {channels}"
                    f"{f' for {values.slices} slices' if values.slices > 1 else ''}: set input_dim to "
                    f"{reader.channels * values.slices}, or name the channels to read in channel_names{values.keys}."
                )
            self._channels = [0, 0, 0]
        own = None if values.range is None else values.range.nodata
        self.nodata = reader.nodata if own is None else own

    @property
    def header(self) -> ImageHeader:
        """The size of a slice, and its channels."""
        reader = self.reader
        return ImageHeader(reader.height, reader.width, reader.channels, reader.planes, reader.dtype != np.uint8)

    def read(self, region: Region | None = None, plane: int = 0) -> np.ndarray:
        """Read a region of a slice and its neighbors: (channels, height, width) of stored values.

        At the ends of a volume, the last slice is repeated.
        """
        half = self._slices // 2
        last = self.reader.planes - 1
        known: dict[int, np.ndarray] = {}
        for near in range(plane - half, plane + half + 1):
            place = min(max(near, 0), last)
            if place not in known:
                pixels = self.reader.read(region, place)
                known[place] = pixels if self._channels is None else pixels[self._channels]
        places = [min(max(near, 0), last) for near in range(plane - half, plane + half + 1)]
        return np.concatenate([known[place] for place in places])

    def read_whole(self, plane: int = 0) -> np.ndarray:
        """Read a whole slice and its neighbors. Raises DataError if it does not fit in memory."""
        reader = self.reader
        size = reader.height * reader.width * reader.channels * self._slices
        excess = memory_excess(size * (reader.dtype.itemsize + 12))  # and float64 of one channel, and float32
        if excess is not None:
            raise DataError(
                f"{self._name}: {reader.height}x{reader.width} (height x width) would take {excess}: leave new_size "
                "out to train on regions of it."
            )
        return self.read(None, plane)


def require_all_pixels(path: ImageFile, channels: int, values: PixelValues) -> None:
    """Read every pixel of a file once, in bands of rows. Raises DataError if one cannot be read."""
    assert isinstance(path, str | os.PathLike)
    reader = DomainReader(path, channels, values).reader
    for plane in range(reader.planes):
        for top in range(0, reader.height, _BAND_ROWS):
            reader.read(Region(top, 0, min(_BAND_ROWS, reader.height - top), reader.width), plane)


def file_state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the time of the last change and the size of a file. Raises DataError if it is gone."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise DataError(f"image {printable(path)} cannot be read ({error.strerror}): check the path.") from error
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(_OPEN_READERS)
def _opened(path: str, _state: tuple[int, int], channels: int) -> ImageReader:
    """Open a file once per process; a reader may be used after a fork and by threads, and is closed after the last use.

    Pages of a TIFF that does not describe them are channels, or else the slices of a volume.
    """
    reader = open_image(path)
    if reader.channels in (channels, 1) or Path(path).suffix.lower() not in _TIFF:
        return reader
    volume = open_image(path, "planes")
    return volume if volume.channels == channels else reader
