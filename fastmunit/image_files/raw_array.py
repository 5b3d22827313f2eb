"""Arrays of plain values in files, read and written by blocks with positioned system calls.

A memory map would be shorter, but it ends the process if the file shrinks or the disk is full, and its pages count as
memory of the process. Positioned calls share no file position, so forked workers and threads may use one descriptor.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from fastmunit.errors import DataError


class RawArray:
    """A C-contiguous array in a file.

    Attributes:
        shape: Sizes of the dimensions.
        dtype: Type of the values, with their byte order in the file.
    """

    def __init__(self, descriptor: int, offset: int, shape: Sequence[int], dtype: np.dtype) -> None:
        self._descriptor, self._offset = descriptor, offset
        self.shape, self.dtype = tuple(shape), dtype

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array."""
        return prod(self.shape) * self.dtype.itemsize

    def require_inside(self, file_size: int, name: str) -> None:
        """Raise DataError if the array does not end inside its file.

        Args:
            file_size: Size of the file in bytes.
            name: The file, for the message.
        """
        end = self._offset + self.nbytes
        if end > file_size:
            raise DataError(
                f"{name} is truncated: expected at least {end:,} bytes for an array of shape {self.shape} and type "
                f"{self.dtype.name}, got {file_size:,}. Copy the file again."
            )

    def read(self, starts: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
        """Read a block.

        Args:
            starts: First index in each dimension.
            sizes: Size in each dimension.

        Returns:
            The block, in native byte order.

        Raises:
            DataError: If the file ends before the block does.
        """
        block = np.empty(tuple(sizes), self.dtype)
        view = block.reshape(-1).view(np.uint8).data
        done = 0
        for position, length in self._runs(starts, sizes):
            end = done + length
            while done < end:
                count = os.preadv(self._descriptor, [view[done:end]], position)
                if count == 0:
                    raise DataError("the file ends before its pixels do: it is truncated; copy it again.")
                done, position = done + count, position + count
        return block.astype(self.dtype.newbyteorder("="), copy=False)

    def write(self, starts: Sequence[int], block: np.ndarray) -> None:
        """Write a block whose first element has the index `starts`.

        Raises:
            OSError: If the disk is full.
        """
        view = np.ascontiguousarray(block, self.dtype).reshape(-1).view(np.uint8).data
        done = 0
        for position, length in self._runs(starts, block.shape):
            end = done + length
            while done < end:
                count = os.pwrite(self._descriptor, view[done:end], position)
                done, position = done + count, position + count

    def _runs(self, starts: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the position and the length in bytes of each run of values that are adjacent in the file."""
        if 0 in sizes:
            return
        strides = [prod(self.shape[axis + 1 :]) * self.dtype.itemsize for axis in range(len(self.shape))]
        first = self._offset + sum(start * stride for start, stride in zip(starts, strides, strict=True))
        inner = len(self.shape) - 1
        while inner > 0 and sizes[inner] == self.shape[inner]:
            inner -= 1
        length = sizes[inner] * strides[inner]
        outer = [range(0, size * stride, stride) for size, stride in zip(sizes[:inner], strides[:inner], strict=True)]
        for offsets in itertools.product(*outer):
            yield first + sum(offsets), length
