"""The base class of readers of image files."""

from __future__ import annotations

import errno
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import printable, require_regular_file
from fastmunit.region import Region

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_SIDE = 2**31 - 1


class ImageReader(ABC):
    """An image file that is read by region.

    A reader is a context manager, and closes its file when it is deleted. It may be used by several threads and after a
    fork, and pickling it opens the file again in the other process.

    Attributes:
        path: The file, or the folder of formats that are folders.
        height: Height in pixels.
        width: Width in pixels.
        channels: Number of channels.
        planes: Number of 2-D slices of a volume or sequence; 1 for an image.
        dtype: Type of the values that `read` returns: after the rescaling that the format defines.
        stored_dtype: Type of the values in the file.
        channel_names: One name per channel, or empty if the file has none.
        nodata: The value of pixels without data, or None.
        value_range: Lowest and highest value that the file says are possible (from bits stored, for example), or None.
        window: Lowest and highest value that the file asks to display, or None.
        bits: Number of significant bits if the file states it, such as 12 in a 16-bit file, or None.
        levels: Sizes (height, width) of the levels of a pyramid, from the full size on. Without one, only the full
            size.
    """

    format: ClassVar[str]
    _descriptor: int | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.height = self.width = self.channels = self.planes = 1
        self.dtype: np.dtype = np.dtype(np.uint8)
        self.stored_dtype: np.dtype = self.dtype
        self.channel_names: tuple[str, ...] = ()
        self.nodata: float | None = None
        self.value_range: tuple[float, float] | None = None
        self.window: tuple[float, float] | None = None
        self.bits: int | None = None
        self.levels: tuple[tuple[int, int], ...] = ()
        try:
            with naming(self.path):
                self._open()
                self._check()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """Read the header and set the attributes. Any exception becomes a DataError."""

    @abstractmethod
    def _read(self, region: Region, plane: int) -> np.ndarray:
        """Read a region of at least one pixel that is inside the image. Any exception becomes a DataError."""

    def _read_level(self, region: Region, plane: int, level: int) -> np.ndarray:
        """Read a region of a smaller level like `_read`. Formats with pyramids implement it."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open_descriptor(self) -> int:
        """Open the file, which `close` will close, and return its descriptor."""
        require_regular_file(self.path, "image", DataError)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def read(self, region: Region | None = None, plane: int = 0, level: int = 0) -> np.ndarray:
        """Read a region of a plane.

        Args:
            region: Region inside the level, in its pixels. None is the whole plane.
            plane: Index of the plane.
            level: Index in `levels`; 0 is the full size.

        Returns:
            An array (channels, height, width) of `dtype`.

        Raises:
            DataError: If there is no such level, the region or the plane is outside of it, or the file is damaged.
        """
        if not 0 <= level < len(self.levels):
            raise DataError(f"{printable(self.path)}: expected a level from 0 to {len(self.levels) - 1}, got {level}.")
        height, width = self.levels[level]
        region = Region(0, 0, height, width) if region is None else region
        require_inside(region, plane, height, width, self.planes, printable(self.path))
        expected = (self.channels, region.height, region.width)
        if 0 in expected:
            return np.empty(expected, self.dtype)
        with naming(self.path):
            values = self._read_level(region, plane, level) if level else self._read(region, plane)
        if values.shape != expected:
            raise DataError(f"{printable(self.path)} is damaged: expected pixels {expected}, got {values.shape}.")
        return np.ascontiguousarray(values, self.dtype)

    def _check(self) -> None:
        """Check the attributes, and derive those that `_open` has not set."""
        if self.stored_dtype.kind not in "iuf" or self.stored_dtype.itemsize > 8:
            raise DataError(
                f"{printable(self.path)} has values of type {self.stored_dtype.name}: expected integers or floats of "
                "at most 64 bits. Convert it, for example to uint8 or float32."
            )
        self.stored_dtype, self.dtype = (dtype.newbyteorder("=") for dtype in (self.stored_dtype, self.dtype))
        for name in ("height", "width", "channels", "planes"):
            size = getattr(self, name)
            if not 1 <= size <= _MAX_SIDE:
                raise DataError(f"{printable(self.path)}: expected a {name} between 1 and {_MAX_SIDE:,}, got {size:,}.")
        if len(self.channel_names) != self.channels:
            self.channel_names = ()
        self.levels = self.levels or ((self.height, self.width),)
        if self.bits is not None and self.value_range is None and self.stored_dtype.kind == "u":
            self.value_range = (0.0, float(2**self.bits - 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # the constructor raised, or Python ends
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({printable(self.path)}: {self.planes} x {self.channels} x {self.height} x "
            f"{self.width}, {self.dtype.name})"
        )


def require_inside(region: Region, plane: int, height: int, width: int, planes: int, name: str) -> None:
    """Raise DataError if a region or a plane is not inside an image.

    Args:
        region: The region.
        plane: Index of the plane.
        height: Height of the image.
        width: Width of the image.
        planes: Number of planes of the image.
        name: The image, for the message.
    """
    inside = min(region) >= 0 and region.bottom <= height and region.right <= width
    if not inside:
        raise DataError(f"{name}: expected a region inside {height} x {width} pixels, got {tuple(region)}.")
    if not 0 <= plane < planes:
        raise DataError(f"{name}: expected a plane from 0 to {planes - 1}, got {plane}.")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn every exception of a block into a DataError that names the file, because decoders raise arbitrary ones."""
    try:
        yield
    except FastmunitError as error:
        text = str(error)
        if printable(path) in text:
            raise
        raise DataError(f"{printable(path)}: {text}") from error
    except MemoryError as error:
        raise DataError(
            f"{printable(path)} needs more memory than there is to decode one of its parts: it is damaged, or rewrite "
            "it in smaller tiles."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{printable(path)} is decoded into a temporary file, and {tempfile.gettempdir()} has no room for it: "
                "free some space, or set TMPDIR to another folder."
            ) from error
        raise DataError(f"{printable(path)} cannot be read ({reason}): check the file.") from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise DataError(
            f"{printable(path)} cannot be read ({lines[0] if lines else type(error).__name__}): it is damaged or has "
            "an unsupported variant of its format. Copy it again, or convert it."
        ) from error


def names_for(channels: int, names: Sequence[str] | None, like: ImageReader) -> tuple[str, ...]:
    """Return the names of the channels of an image that is written like another one.

    Args:
        channels: Number of channels.
        names: Names from the caller, or None for those of `like` if it has as many channels, or R, G, B for three.
        like: The other image.

    Raises:
        DataError: If the number of names is not that of channels.
    """
    if names:
        if len(names) != channels:
            raise DataError(f"expected {channels} channel names, got {len(names)}: {', '.join(names)}.")
        return tuple(names)
    if channels == like.channels:
        return like.channel_names
    return ("R", "G", "B") if channels == 3 else ()
