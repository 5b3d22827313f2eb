"""Arrays of numpy in `.npy` files, read and written by region."""

from __future__ import annotations

import os
import warnings

import numpy as np

from fastmunit.errors import DataError
from fastmunit.files import atomic_write
from fastmunit.image_files.axes import guessed_axes
from fastmunit.image_files.raw_array import RawArray
from fastmunit.image_files.reader import ImageReader
from fastmunit.image_files.staging import Staging
from fastmunit.image_files.writer import ImageWriter
from fastmunit.region import Region


class NpyReader(ImageReader):
    """A `.npy` file, whose dimensions are those of `axes.guessed_axes`. Objects, which need pickle, are refused."""

    format = "NumPy array"

    def _open(self) -> None:
        descriptor = self._open_descriptor()
        with open(descriptor, "rb", closefd=False) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
            offset = file.tell()
        if dtype.hasobject:
            raise DataError("it holds Python objects, which would need pickle: save an array of numbers.")
        self.stored_dtype = self.dtype = dtype
        self.axes = guessed_axes(shape)
        # An array in Fortran's order is one in C's order with the dimensions reversed.
        self._file_axes = self.axes[::-1] if is_fortran else self.axes
        self._raw = RawArray(descriptor, offset, shape[::-1] if is_fortran else shape, dtype)
        sizes = dict(zip(self.axes, shape, strict=True))
        self.height, self.width = sizes["Y"], sizes["X"]
        self.channels, self.planes = sizes.get("C", 1), sizes.get("Z", 1)
        super()._check()
        self._raw.require_inside(os.fstat(descriptor).st_size, "the file")

    def _read(self, region: Region, plane: int) -> np.ndarray:
        blocks = {
            "Z": (plane, 1),
            "C": (0, self.channels),
            "Y": (region.top, region.height),
            "X": (region.left, region.width),
        }
        starts, sizes = zip(*(blocks[axis] for axis in self._file_axes), strict=True)
        block = self._raw.read(starts, sizes)
        order = [self._file_axes.index(axis) for axis in "ZCYX" if axis in self._file_axes]
        return block.transpose(order).reshape(self.channels, region.height, region.width)


class NpyWriter(ImageWriter):
    """A `.npy` file with the dimensions of another one, in C's order."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: NpyReader,
        channels: int,
        dtype: np.dtype,
        channel_names: tuple[str, ...],
    ) -> None:
        self._axes = like.axes
        if channels > 1 and "C" not in self._axes:
            self._axes = "CYX"
        super().__init__(path, like, channels, dtype, channel_names)

    def _encode(self, pixels: Staging) -> None:
        sizes = {"Z": self.planes, "C": self.channels, "Y": self.height, "X": self.width}
        shape = tuple(sizes[axis] for axis in self._axes)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        with atomic_write(self.path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for plane in range(self.planes):
                if self._axes.endswith("YXC"):
                    for band in pixels.bands(plane):
                        file.write(np.ascontiguousarray(band.transpose(1, 2, 0)).data)
                    continue
                for channel in range(self.channels):
                    for band in pixels.bands(plane, slice(channel, channel + 1)):
                        file.write(np.ascontiguousarray(band).data)
