"""Reading of whole image files with the value range of their domain."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from PIL import PngImagePlugin
from torch import Tensor

from fastmunit.data.images import decode_image, decode_stored, normalize
from fastmunit.data.opening import ImageFile, name_of, opened
from fastmunit.data.readers import DomainReader, has_reader, require_all_pixels
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError


class Stored(NamedTuple):
    """An image as it is stored.

    Attributes:
        pixels: Values (C, H, W) of any real type.
        nodata: Value without data that the file declares, or None.
    """

    pixels: np.ndarray
    nodata: float | None = None

    def to_unit(self, values: PixelValues, name: str) -> Tensor:
        """Map the values to float32 in [0, 1].

        Raises:
            DataError: If there is no range, and values are neither uint8, nor uint16, nor floats in [0, 1]. The message
                names the image.
        """
        if values.range is None and self.pixels.dtype.kind == "f":
            low, high = float(self.pixels.min()), float(self.pixels.max())
            if not 0 <= low <= high <= 1:
                raise DataError(f"{name}: float values {low:g}..{high:g} are outside [0, 1]: {values.advice}.")
        return values.range_of(self.pixels.dtype, self.nodata, name).to_unit(self.pixels)


def read_stored(path: ImageFile, channels: int, max_pixels: int | None, values: PixelValues) -> Stored:
    """Read an image file as it is stored. See `read_planes` for the arguments and errors."""
    if has_reader(path, channels, values, max_pixels):
        return _read_alone(path, channels, values)
    planes = decode_stored(path, channels // values.slices, max_pixels)
    return Stored(planes.repeat(values.slices, 1, 1).numpy())


def read_planes(
    path: ImageFile, channels: int, max_pixels: int | None = None, values: PixelValues | None = None
) -> Tensor:
    """Decode an image file like `decode_image`, with the value range and the slices of its domain.

    Args:
        path: File to read.
        channels: Number of channels to return: those of a slice times `values.slices`. A file without slices is
            repeated.
        max_pixels: Maximum number of pixels. None is Pillow's limit.
        values: How pixels are read. None is the rule of `decode_image`.

    Returns:
        A tensor (C, H, W), uint8 or float32 in [0, 1].

    Raises:
        DataError: If the file cannot be used; see `decode_image`.
    """
    values = values or PixelValues()
    if values.range is not None or has_reader(path, channels, values, max_pixels):
        return read_stored(path, channels, max_pixels, values).to_unit(values, name_of(path))
    planes = decode_image(path, channels // values.slices, max_pixels)
    return planes if values.slices == 1 else planes.repeat(values.slices, 1, 1)


def read_pixels(
    path: ImageFile, channels: int, max_pixels: int | None = None, values: PixelValues | None = None
) -> Tensor:
    """Read an image as input of a network: (C, H, W) float32 in [-1, 1]. See `read_planes` for the arguments."""
    return normalize(read_planes(path, channels, max_pixels, values))


def verify_image(
    path: ImageFile, channels: int, max_pixels: int | None = None, values: PixelValues | None = None
) -> None:
    """Check that an image can be decoded completely, and that the checksums of a PNG are correct.

    See `read_planes` for the arguments.

    Raises:
        DataError: If `read_planes` raises, or a checksum is wrong.
    """
    if has_reader(path, channels, values or PixelValues(), max_pixels):
        require_all_pixels(path, channels, values or PixelValues())
        return
    with opened(path, max_pixels) as image:
        if isinstance(image, PngImagePlugin.PngImageFile):  # Pillow decodes PNGs without checking them
            image.verify()
    read_planes(path, channels, max_pixels, values)


def _read_alone(path: ImageFile, channels: int, values: PixelValues) -> Stored:
    """Read a file of `image_files` that holds one slice."""
    assert isinstance(path, str | os.PathLike)
    source = DomainReader(path, channels, values)
    if source.reader.planes > 1:
        raise DataError(
            f"{name_of(path)} has {source.reader.planes} slices, where one image is expected: give one of them, as "
            "an array or in a file of its own."
        )
    return Stored(source.read_whole(), source.nodata)
