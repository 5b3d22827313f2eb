"""Pictures that Pillow reads and writes, as sources and sinks of pixels: decoded once, with one byte per value."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from fastmunit.data.animation import frame_bytes
from fastmunit.data.images import normalize, save_levels
from fastmunit.data.pixels import read_planes
from fastmunit.data.readers import file_state
from fastmunit.data.validate import image_header
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import FastmunitError
from fastmunit.files import printable
from fastmunit.image_files.staging import reserve
from fastmunit.region import Region
from fastmunit.translation.region_files import preview_step

CODEC_BYTES = 12
"""Bytes per pixel that Pillow and the conversion to an array take while a picture is decoded or encoded."""


class PictureSource:
    """A picture as a source. It is decoded when it is read for the first time.

    Args:
        path: The file.
        channels: Channels of an image.
        values: How pixels are read.
        max_pixels: Maximum number of pixels. None is Pillow's limit.

    Attributes:
        resident_bytes: Bytes that the decoded picture takes.

    Raises:
        DataError: If the header cannot be read, or does not have the channels.
    """

    def __init__(self, path: Path, channels: int, values: PixelValues, max_pixels: int | None) -> None:
        header = image_header(path, channels, values, max_pixels)
        self.channels, self.height, self.width = channels, header.height, header.width
        self._path, self._values, self._max_pixels = path, values, max_pixels
        item = 1 if values.range is None and not header.deep else 4
        self.resident_bytes = channels * item * header.height * header.width
        self.kept_bytes = 0  # the caller counts resident_bytes, also for a translation as a whole

    @cached_property
    def planes(self) -> Tensor:
        """The picture (C, H, W), uint8 or float32 in [0, 1]. Raises DataError if it cannot be decoded."""
        return read_planes(self._path, self.channels, self._max_pixels, self._values)

    @property
    def identity(self) -> str:
        """The file, its size and time of the last change."""
        return f"{self._path.resolve()} {file_state(self._path)} {self._values}"

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) in a region, in [-1, 1]."""
        rows, columns = region.slices
        return normalize(self.planes[:, rows, columns])[None]

    def preview(self) -> Tensor:
        """Return the image (C, h, w) with every n-th pixel of each axis, so that it is small."""
        step = preview_step(self.height, self.width)
        return normalize(self.planes[:, ::step, ::step])


class PictureSink:
    """A picture of 8 bits as a sink. Its values are in an unnamed file until it is saved.

    Args:
        path: File to write.
        folder: Folder for the unnamed file, which is created.
        channels: Number of channels.
        height: Number of rows.
        width: Number of columns.
    """

    def __init__(self, path: Path, folder: Path, channels: int, height: int, width: int) -> None:
        self._path, self._folder, self._shape = path, folder, (height, width, channels)

    @cached_property
    def _levels(self) -> np.ndarray:
        size = math.prod(self._shape)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self._folder) as file:
                reserve(file.fileno(), size)  # a full disk is an error now, not a crash later
                return np.memmap(file, np.uint8, "r+", shape=self._shape)
        except OSError as error:
            raise FastmunitError(
                f"cannot write {printable(self._path)}: {error.strerror or error}. Free some space or choose another "
                "folder."
            ) from error

    def write(self, tile: Tensor, region: Region) -> None:
        """Write the values (1, C', h, w) of a region, in [-1, 1].

        Raises:
            FastmunitError: If a value is NaN, or the disk is full.
        """
        rows, columns = region.slices
        self._levels[rows, columns] = frame_bytes(tile[0].float(), self._path).permute(1, 2, 0).numpy()

    def save(self) -> None:
        """Write the picture atomically. Raises FastmunitError if it cannot be written."""
        save_levels(self._levels, self._path)

    def preview(self) -> Tensor:
        """Return the image (C', h, w) in [-1, 1] with every n-th pixel of each axis, so that it is small."""
        step = preview_step(*self._shape[:2])
        small = np.ascontiguousarray(self._levels[::step, ::step])
        return normalize(torch.from_numpy(small).permute(2, 0, 1))
