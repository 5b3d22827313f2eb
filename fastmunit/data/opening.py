"""Opening of image files with Pillow: allowed formats, size limits, and error messages."""

from __future__ import annotations

import io
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image, UnidentifiedImageError

from fastmunit.data.formats import readable_formats
from fastmunit.errors import DataError
from fastmunit.files import printable, require_regular_file
from fastmunit.memory import is_out_of_memory


@dataclass(frozen=True)
class ImageBytes:
    """An image file in memory, such as an upload.

    Attributes:
        content: The bytes of the file.
        name: Name of the image, as the first words of messages.
        formats: Names of the formats that are accepted. None accepts all `readable_formats`.
    """

    content: bytes = field(repr=False)
    name: str
    formats: tuple[str, ...] | None = None


ImageFile: TypeAlias = str | os.PathLike[str] | ImageBytes


class PixelLimitError(DataError):
    """An image that has more pixels than the limit. It has not been decoded."""


class PillowSettings:
    """Pillow's settings while images are read: no warnings, and the requested pixel limit.

    Both settings are global. The first thread to enter saves them and the last one to leave restores them, because
    `warnings.catch_warnings` alone restores the wrong filters when threads overlap. If threads with different limits
    are inside at the same time, Pillow has the highest limit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[float] = []
        self._saved_limit: int | None = None
        self._caught = warnings.catch_warnings()

    @contextmanager
    def applied(self, max_pixels: int | None) -> Iterator[float]:
        """Apply the settings inside the block.

        Args:
            max_pixels: Maximum number of pixels. None is Pillow's limit, twice `Image.MAX_IMAGE_PIXELS`.

        Yields:
            The maximum number of pixels.
        """
        with self._lock:
            if not self._limits:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
                self._saved_limit = Image.MAX_IMAGE_PIXELS
            limit = self._limit(max_pixels)
            self._limits.append(limit)
            self._set_pillow_limit()
        try:
            yield limit
        finally:
            with self._lock:
                self._limits.remove(limit)
                if self._limits:
                    self._set_pillow_limit()
                else:
                    self._restore()

    def _limit(self, max_pixels: int | None) -> float:
        if max_pixels is not None:
            return max_pixels
        return math.inf if self._saved_limit is None else 2 * self._saved_limit

    def _set_pillow_limit(self) -> None:
        """Set the number of pixels above which Pillow warns. It refuses images of more than twice that."""
        highest = max(self._limits)
        Image.MAX_IMAGE_PIXELS = None if math.isinf(highest) else math.ceil(highest / 2)

    def _restore(self) -> None:
        Image.MAX_IMAGE_PIXELS = self._saved_limit
        self._caught.__exit__(None, None, None)

    def renew(self) -> None:
        """Reset the state in a forked process, where the other threads of the parent do not exist."""
        self._lock = threading.Lock()
        if self._limits:
            self._limits = []
            self._restore()


pillow_settings = PillowSettings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pillow_settings.renew)


@contextmanager
def opened(path: ImageFile, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open an image file, and convert errors with it inside the block to DataError.

    Args:
        path: File to open.
        max_pixels: Maximum number of pixels. None is Pillow's limit.

    Raises:
        PixelLimitError: If the image has too many pixels.
        DataError: If the file is missing, is not a regular file, or is damaged.
    """
    name, formats = name_of(path), None
    if isinstance(path, ImageBytes):
        formats = path.formats
    else:
        require_regular_file(path, "image", DataError)
        name = f"image {name}"
    # Opened by name, uncompressed TIFFs are mapped into memory by Pillow 13, which scrambles those with an orientation.
    with (
        decoding(name),
        pillow_settings.applied(max_pixels) as limit,
        _file(path) as file,
        Image.open(file, formats=formats or readable_formats()) as image,
    ):
        require_pixels(name, image.width * image.height, limit)
        yield image


def require_pixels(name: str, pixels: int, limit: float) -> None:
    """Raise PixelLimitError if an image has more pixels than a limit. `name` begins the message."""
    if pixels > limit:
        raise PixelLimitError(_too_many_pixels(name, pixels))


def name_of(path: ImageFile) -> str:
    """Return the name of an image file in messages: its path, or the name of an image in memory."""
    return path.name if isinstance(path, ImageBytes) else printable(path)


def content_of(path: ImageFile) -> bytes:
    """Return the bytes of an image file."""
    return path.content if isinstance(path, ImageBytes) else Path(path).read_bytes()


def _file(path: ImageFile) -> BinaryIO:
    return io.BytesIO(path.content) if isinstance(path, ImageBytes) else Path(path).open("rb")


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Convert any exception that Pillow raises inside the block to DataError.

    Args:
        name: Name of the image, as the first words of the message.

    Raises:
        PixelLimitError: If the image has too many pixels.
        DataError: If the image cannot be read, is damaged, or does not fit in memory.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:  # removed after the check
        raise DataError(f"{name} does not exist: check the path.") from error
    except Image.DecompressionBombError as error:
        # Pillow raises before the image has a size, so the number of pixels is only in the message.
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        raise PixelLimitError(_too_many_pixels(name, int(pixels[1]) if pixels else None)) from error
    except Exception as error:  # decoders may raise anything for arbitrary bytes
        if is_out_of_memory(error):
            raise DataError(f"{name} does not fit in memory: make it smaller or remove it.") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{name} cannot be read ({error.strerror}): check the file and its folder.") from error
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} is damaged or not an image that Pillow reads ({reason}): replace or remove it."
        ) from error


def _too_many_pixels(name: str, pixels: int | None) -> str:
    if pixels is None:
        return f"{name} has more pixels than the limit: raise --max-pixels (max_pixels), or scale it down."
    return (
        f"{name} has {_megapixels(pixels)} megapixels, more than the limit: if you trust the file, allow it with "
        f"--max-pixels {pixels} (max_pixels in a configuration), or scale it down."
    )


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:,.1f}" if pixels >= 1e6 else f"{pixels / 1e6:.3g}"
