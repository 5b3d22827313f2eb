"""The base class of writers of image files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import printable
from fastmunit.image_files.reader import ImageReader, require_inside
from fastmunit.image_files.staging import Staging
from fastmunit.region import Region

if TYPE_CHECKING:
    from typing_extensions import Self


class ImageWriter(ABC):
    """An image file that is written by region, in any order, with bounded memory.

    Pixels are staged in an unnamed file next to the target. `finish` writes the image from them under a temporary name
    and renames it, so the target is either complete or untouched. As a context manager, a writer finishes at the end
    of the block, or aborts if the block raises.

    Attributes:
        path: The file to write, or the folder of formats that are folders.
        height: Height in pixels.
        width: Width in pixels.
        channels: Number of channels.
        planes: Number of planes.
        dtype: Type of the values that `write` takes.
        channel_names: One name per channel, or empty.
        low: Lowest finite value written so far.
        high: Highest finite value written so far.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: ImageReader,
        channels: int,
        dtype: np.dtype,
        channel_names: tuple[str, ...] = (),
    ) -> None:
        """Create the folder of the target, and reserve disk space for the pixels.

        Args:
            path: The file to write.
            like: Image of the same height, width and number of planes.
            channels: Number of channels.
            dtype: Type of the values that `write` takes.
            channel_names: One name per channel, or empty.

        Raises:
            DataError: If there are no channels, or values are not integers or floats.
            FastmunitError: If the disk has no room or the folder cannot be written.
        """
        self.path = Path(path)
        self.height, self.width, self.channels, self.planes = like.height, like.width, channels, like.planes
        self.dtype, self.channel_names = np.dtype(dtype).newbyteorder("="), channel_names
        self.low, self.high = float("inf"), float("-inf")
        self._missing = self.planes * self.height * self.width
        self._staging: Staging | None = None
        if channels < 1:
            raise DataError(f"{printable(self.path)}: expected at least one channel.")
        if self.dtype.kind not in "iuf" or self.dtype.itemsize > 8:
            raise DataError(f"{printable(self.path)}: expected values that are integers or floats, got {self.dtype}.")
        self._prepare()
        with self._storing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shape = (self.planes, channels, self.height, self.width)
            self._staging = Staging(self.path.parent.absolute(), shape, self.dtype)

    def _prepare(self) -> None:
        """Check whether the format can store the image, before anything is written."""
        return

    @abstractmethod
    def _encode(self, pixels: Staging) -> None:
        """Write the target from the staged pixels, next to it and renamed."""

    def write(self, array: np.ndarray, region: Region | None = None, plane: int = 0) -> None:
        """Write a region of a plane.

        Args:
            array: Values (channels, height, width) of the dtype of the writer.
            region: Where they belong. None is the whole plane.
            plane: Index of the plane.

        Raises:
            DataError: If the region is outside of the image, or the array has another shape or type.
            FastmunitError: If the disk is full.
        """
        if self._staging is None:
            raise DataError(f"{printable(self.path)}: the image was already finished or aborted.")
        region = Region(0, 0, self.height, self.width) if region is None else region
        require_inside(region, plane, self.height, self.width, self.planes, printable(self.path))
        expected = (self.channels, region.height, region.width)
        if array.shape != expected or array.dtype != self.dtype:
            raise DataError(
                f"{printable(self.path)}: expected an array {expected} of {self.dtype.name}, got {array.shape} of "
                f"{array.dtype.name}."
            )
        self._observe(array)
        with self._storing():
            self._staging.write(array, region, plane)
        self._missing -= region.height * region.width

    def finish(self) -> None:
        """Write the image from the staged pixels, and rename it to its path.

        Raises:
            DataError: If pixels are missing. Nothing is written.
            FastmunitError: If the disk is full. A file that was there before is unchanged.
        """
        if self._staging is None:
            return
        try:
            if self._missing > 0:
                raise DataError(
                    f"{printable(self.path)} was not written: {self._missing:,} of "
                    f"{self.planes * self.height * self.width:,} pixels are missing."
                )
            with self._storing():
                self._encode(self._staging)
        finally:
            self.abort()

    def abort(self) -> None:
        """Discard what has not been finished. The target is left as it was."""
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    def _observe(self, array: np.ndarray) -> None:
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not np.isfinite([low, high]).all():
            finite = array[np.isfinite(array)]
            if finite.size == 0:
                return
            low, high = float(finite.min()), float(finite.max())
        self.low, self.high = min(self.low, low), max(self.high, high)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Turn the OSError of a full disk into a FastmunitError that names the target."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise FastmunitError(
                f"cannot write {printable(self.path)}: {reason}. Free some space or choose a folder you can write to; "
                "an existing file is unchanged."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        self.abort()

    def __del__(self) -> None:
        with suppress(AttributeError):  # the constructor raised
            self.abort()
