"""Sources and sinks of pixels. The engine knows no file format."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from fastmunit.out_of_core.maps import Map
from fastmunit.region import Region


class PixelSource(Protocol):
    """An image that is read by region.

    Attributes:
        channels: Number of channels.
        height: Number of rows.
        width: Number of columns.
        kept_bytes: Bytes of memory that it takes to keep what it has read, at most.
    """

    channels: int
    height: int
    width: int
    kept_bytes: int

    @property
    def identity(self) -> str:
        """Text that is different for another image: an interrupted translation is resumed with the same one only."""

    def read(self, region: Region) -> Tensor:
        """Return the values (1, channels, h, w) in a region, in [-1, 1]."""


class PixelSink(Protocol):
    """An image that is written by region."""

    def write(self, tile: Tensor, region: Region) -> None:
        """Write the values (1, C, h, w) of a region, in [-1, 1] and on the CPU."""


class TensorSource:
    """An image in memory as a source.

    Args:
        image: Image (C, H, W) in [-1, 1].
    """

    def __init__(self, image: Tensor) -> None:
        self._image = image
        self.channels, self.height, self.width = image.shape
        self.kept_bytes = 0

    @cached_property
    def identity(self) -> str:
        """Digest of the image."""
        sha = hashlib.sha256(f"{tuple(self._image.shape)} {self._image.dtype}".encode())
        for row in self._image.detach().cpu().unbind(1):
            sha.update(row.contiguous().view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def read(self, region: Region) -> Tensor:
        rows, columns = region.slices
        return self._image[None, :, rows, columns]


class TensorSink:
    """An image in memory as a sink.

    Attributes:
        image: The image (C, H, W) in float32.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.image = torch.empty(channels, height, width)

    def write(self, tile: Tensor, region: Region) -> None:
        rows, columns = region.slices
        self.image[:, rows, columns] = tile[0]


class ImageMap(Map):
    """The image that is translated, extended at its right and bottom edges by reflection.

    Args:
        source: The image.
        height: Number of rows, at least those of the image.
        width: Number of columns.
        dtype: Type of the values.
        device: Device of the values.
    """

    def __init__(self, source: PixelSource, height: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__((source.channels, height, width), dtype)
        self._source, self._device = source, device
        self._rows, self._columns = _reflected(source.height, height), _reflected(source.width, width)

    def needs(self, region: Region) -> tuple[Region, ...]:
        return ()

    def compute(self, region: Region, tiles: object) -> Tensor:
        rows, columns = (index[part] for index, part in zip((self._rows, self._columns), region.slices, strict=True))
        top, left = int(rows.min()), int(columns.min())
        read = Region(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        tile = self._source.read(read)
        for dim, index in ((2, rows - top), (3, columns - left)):
            if len(index) != tile.shape[dim] or bool((index[1:] < index[:-1]).any()):
                tile = tile.index_select(dim, index)
        # A copy, because tiles may be overwritten.
        return tile.to(self._device, self.dtype, copy=True, memory_format=torch.channels_last)

    def working_bytes(self, region: Region, inputs: int) -> int:
        return 2 * self.bytes_of(region)


def _reflected(size: int, target: int) -> Tensor:
    """Return the pixels that an axis of `size` pixels consists of after the translator's padding to `target`."""
    index = torch.arange(size)
    while len(index) < target:
        missing = target - len(index)
        mirrored = index[:-1].flip(0)[:missing] if len(index) > 1 else index.expand(missing)
        index = torch.cat([index, mirrored])
    return index
