"""Maps on disk and in memory that are read and written by region."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fastmunit.errors import FastmunitError
from fastmunit.out_of_core.maps import Map
from fastmunit.region import Region


class Stored(Protocol):
    """The values of a map."""

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) in a region. They may be overwritten."""

    def write(self, tile: Tensor, region: Region) -> None:
        """Write the values (1, C, h, w) in a region."""

    def remove(self) -> None:
        """Give the disk space or memory back."""


class MemoryMap:
    """A map in memory.

    Args:
        shape: Channels, height and width.
        dtype: Type of the values.
        planar: Store channel after channel instead of channels_last, for `append`.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, planar: bool = False) -> None:
        layout = torch.contiguous_format if planar else torch.channels_last
        self._values = torch.empty((1, *shape), dtype=dtype, memory_format=layout)

    def append(self, piece: Tensor, position: int) -> None:
        """Write values (n,) of a planar map from a position on."""
        self._values.view(-1)[position : position + len(piece)] = piece

    def read(self, region: Region) -> Tensor:
        return _part(self._values, region).clone(memory_format=torch.channels_last)

    def write(self, tile: Tensor, region: Region) -> None:
        _part(self._values, region).copy_(tile)

    def remove(self) -> None:
        self._values = self._values[..., :0]


class FileMap:
    """A map in a file, pixel after pixel with all channels of a pixel together.

    The file is read and written, not mapped into memory, so that its pages do not count as memory of the process. A
    region is one range of bytes per row, or a single one if it has the width of the map.

    Args:
        path: The file. It is created by the first write.
        shape: Channels, height and width.
        dtype: Type of the values.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.path = path
        self._channels, self._height, self._width = shape
        self._dtype = dtype
        self._pixel = self._channels * dtype.itemsize
        self._handle: int | None = None

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) in a region, in channels_last.

        Raises:
            FastmunitError: If the file cannot be read.
        """
        values = torch.empty((region.height, region.width, self._channels), dtype=self._dtype)
        for position, part in self._ranges(region, values):
            try:
                _read(self._open(), part, position)
            except OSError as error:
                raise _error(self.path, "read", error) from error
        return values.permute(2, 0, 1)[None]

    def write(self, tile: Tensor, region: Region) -> None:
        """Write the values (1, C, h, w) in a region.

        Raises:
            FastmunitError: If the file cannot be written, for example because the disk is full.
        """
        values = tile[0].permute(1, 2, 0).to("cpu", self._dtype)
        if not values[0].is_contiguous():
            values = values.contiguous()
        for position, part in self._ranges(region, values):
            try:
                _write(self._open(), part, position)
            except OSError as error:
                raise _error(self.path, "write", error) from error

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_complete(self) -> bool:
        """Return True if the file has the size of the whole map."""
        return self.path.is_file() and self.path.stat().st_size == self._height * self._width * self._pixel

    def has(self, region: Region) -> bool:
        """Return True if the file reaches to the end of a region."""
        end = ((region.bottom - 1) * self._width + region.right) * self._pixel
        return self.path.is_file() and self.path.stat().st_size >= end

    def _open(self) -> int:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        return self._handle

    def _ranges(self, region: Region, values: Tensor) -> list[tuple[int, memoryview]]:
        """Return positions in the file and the memory of values (h, w, C) that belongs there."""
        start, step = (region.top * self._width + region.left) * self._pixel, self._width * self._pixel
        rows = values.flatten(1).view(torch.uint8).numpy()  # rows are contiguous, so this is a view
        if region.width == self._width and values.is_contiguous():
            return [(start, rows.reshape(-1).data)]
        return [(start + number * step, row.data) for number, row in enumerate(rows)]


class PlanarFile:
    """A map in a file, channel after channel, which is written from its first value to its last.

    Args:
        path: The file. It is created by the first write.
        shape: Channels, height and width.
        dtype: Type of the values.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        channels, height, width = shape
        self._channels, self._height, self._width = shape
        self._dtype = dtype
        self._rows = FileMap(path, (1, channels * height, width), dtype)
        self._values = FileMap(path, (1, 1, channels * height * width), dtype)
        self.path = path

    def append(self, piece: Tensor, position: int) -> None:
        """Write values (n,) from a position on."""
        self._values.write(piece.view(1, 1, 1, -1), Region(0, position, 1, len(piece)))

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) in a region."""
        planes = range(region.top, self._channels * self._height, self._height)
        tiles = [self._rows.read(Region(top, region.left, region.height, region.width)) for top in planes]
        return torch.cat(tiles, dim=1)

    def write(self, tile: Tensor, region: Region) -> None:
        raise NotImplementedError("values are drawn in order: use append")

    def remove(self) -> None:
        """Close and remove the file."""
        self._rows.close()
        self._values.remove()

    def close(self) -> None:
        """Close the file."""
        self._rows.close()
        self._values.close()

    def is_complete(self) -> bool:
        """Return True if the file has the size of the whole map."""
        return self._rows.is_complete()


def _part(values: Tensor, region: Region) -> Tensor:
    rows, columns = region.slices
    return values[:, :, rows, columns]


def _read(handle: int, part: memoryview, position: int) -> None:
    done = 0
    while done < len(part):
        count = os.preadv(handle, [part[done:]], position + done)
        if count == 0:
            raise OSError(errno.EIO, "the file is truncated")
        done += count


def _write(handle: int, part: memoryview, position: int) -> None:
    done = 0
    while done < len(part):
        done += os.pwrite(handle, part[done:], position + done)


def _error(path: Path, action: str, error: OSError) -> FastmunitError:
    fix = "Free some space there, or give another --scratch" if action == "write" else "Remove the folder"
    return FastmunitError(f"cannot {action} {path}: {error.strerror}. {fix}, and run the same command again.")


def file_name(x: Map) -> str:
    """Return the name of the file of a map."""
    return x.name.replace("/", "_") + ".map"
