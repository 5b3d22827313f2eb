"""Image files as sources and sinks of pixels, for images that are translated by region."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fastmunit.data.images import normalize
from fastmunit.data.pixels import Stored
from fastmunit.data.readers import DomainReader, file_state
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.files import printable
from fastmunit.image_files.decoded_cache import MAX_BYTES
from fastmunit.image_files.writer import ImageWriter
from fastmunit.region import Region

_PREVIEW = 1024

Image = TypeVar("Image", Tensor, np.ndarray)


class FileSource:
    """A slice of an image file as a source.

    Args:
        image: The open file.
        channels: Channels of an image.
        values: How pixels are read.
        plane: Index of the slice.

    Attributes:
        plane: Index of the slice.
        planes: Number of slices of the file.
    """

    def __init__(self, image: DomainReader, channels: int, values: PixelValues, plane: int) -> None:
        self.channels, self.height, self.width = channels, image.reader.height, image.reader.width
        self.plane, self.planes = plane, image.reader.planes
        self._image, self._values = image, values
        self._name = printable(image.reader.path)
        stored = channels * self.height * self.width * image.reader.dtype.itemsize
        self.kept_bytes = min(MAX_BYTES, stored)

    @property
    def identity(self) -> str:
        """The file, its size and time of the last change, and the slice."""
        path = self._image.reader.path
        return f"{path.resolve()} {file_state(path)} {self.plane} {self._values}"

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) in a region, in [-1, 1]."""
        pixels = Stored(self._image.read(region, self.plane), self._image.nodata)
        return normalize(pixels.to_unit(self._values, self._name))[None]

    def preview(self) -> Tensor:
        """Return the image (C, h, w) with every n-th pixel of each axis, so that it is small."""
        step = preview_step(self.height, self.width)
        rows = [self.read(Region(top, 0, 1, self.width))[0, :, :, ::step] for top in range(0, self.height, step)]
        return torch.cat(rows, dim=1)


class FileSink:
    """A slice of an image file as a sink.

    Args:
        writer: The file.
        plane: Index of the slice.
        mapping: Range of values.
        source: The image that is translated, for pixels without data.
        nodata: Value of pixels without data in all channels of the image, or None.
        slices: Number of neighboring slices that an output consists of. The one in the middle is written.
    """

    def __init__(
        self,
        writer: ImageWriter,
        plane: int,
        mapping: ValueRange,
        source: MissingPixels,
        nodata: float | None,
        slices: int,
    ) -> None:
        self._writer, self._plane, self._mapping = writer, plane, mapping
        self._source, self._nodata, self._slices = source, nodata, slices
        self._step = preview_step(writer.height, writer.width)
        shape = (-(-writer.height // self._step), -(-writer.width // self._step))
        self.preview = torch.empty(writer.channels, *shape)

    def write(self, tile: Tensor, region: Region) -> None:
        """Write the values (1, C', h, w) of a region, in [-1, 1]."""
        output = center(tile[0].float(), self._slices)
        values = self._mapping.from_network(output, self._writer.dtype)
        if self._nodata is not None:
            values[:, self._source.missing(region)] = self._nodata
        self._writer.write(values, region, self._plane)
        top, left = -region.top % self._step, -region.left % self._step
        part = output[:, top :: self._step, left :: self._step]
        row, column = (region.top + top) // self._step, (region.left + left) // self._step
        self.preview[:, row : row + part.shape[1], column : column + part.shape[2]] = part


class MissingPixels:
    """The pixels of a slice that have no data in any channel.

    Args:
        image: The open file.
        values: How pixels are read.
        plane: Index of the slice.
    """

    def __init__(self, image: DomainReader, values: PixelValues, plane: int) -> None:
        self._image, self._values, self._plane = image, values, plane

    def missing(self, region: Region) -> np.ndarray:
        """Return where pixels of a region have no data, as booleans (h, w)."""
        return missing_pixels(self._image.read(region, self._plane), self._image, self._values)


def missing_pixels(pixels: np.ndarray, image: DomainReader, values: PixelValues) -> np.ndarray:
    """Return where stored values (C, h, w) have no data in any channel of the slice in the middle, (h, w)."""
    middle = center(pixels, values.slices)
    mapping = values.range_of(middle.dtype, image.nodata, printable(image.reader.path))
    return np.all(mapping.missing(middle), axis=0)


def center(image: Image, slices: int) -> Image:
    """Return the channels of the slice in the middle."""
    count = len(image) // slices
    return image[slices // 2 * count :][:count]


def preview_step(height: int, width: int) -> int:
    """Return the distance of pixels of a preview."""
    return -(-max(height, width) // _PREVIEW)
