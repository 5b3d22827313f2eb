"""Reading and writing single images."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, ImageSequence, PngImagePlugin, TiffImagePlugin
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as decode_bytes

from fastmunit.errors import DataError
from fastmunit.files import atomic_write

# What Pillow's decoders raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
_BYTE, _WORD = 255.0, 65535.0
_LUMA = (0.299, 0.587, 0.114)


class ImageHeader(NamedTuple):
    """What a file says about its image before decoding: upright size in pixels, bands of all pages, pages."""

    height: int
    width: int
    bands: int
    pages: int


def decode_image(path: str | os.PathLike[str], channels: int) -> Tensor:
    """Decodes an image file, upright (EXIF orientation applied).

    - channels 1: grey (0.299 R + 0.587 G + 0.114 B, as Pillow's "L"); channels 3: RGB. Any file can be read as either;
      grey is repeated, palettes are resolved and transparent parts are laid on white.
    - other numbers of channels: the file must have that many bands: RGBA or CMYK for 4, grey with alpha for 2, or a
      TIFF of several pages whose bands are put one after another (5 grey pages for 5 channels).
    - 16-bit grey and 16-bit PNGs are scaled by 65535, 8-bit by 255; float TIFFs must lie in [0, 1]. Pillow reduces
      16-bit colour TIFFs, and 16-bit colour PNGs with one transparent colour, to 8 bits.

    Returns:
        (C, H, W): uint8 for 8-bit files, else float32 in [0, 1].

    Raises:
        DataError: the file is missing, damaged, has another number of bands, or values out of range.
    """
    with _opened(path) as image:
        if _pages(image) > 1:
            pages = [_bands(ImageOps.exif_transpose(page), path) for page in ImageSequence.Iterator(image)]
            if len({page.shape[1:] for page in pages}) > 1:
                raise DataError(f"{path}: the pages of this TIFF differ in size; save them with one size.")
            planes = _joined(pages)
        elif _is_deep_colour_png(image):
            planes = _deep_colours(path, channels)
        else:
            upright = ImageOps.exif_transpose(image)
            planes = _bands(_converted(upright, channels), path)
            if planes.shape[0] == 1 and channels == 3:
                planes = planes.expand(3, -1, -1)
    if planes.shape[0] != channels:
        raise DataError(_band_mismatch(path, planes.shape[0], channels))
    return planes


def read_image(path: str | os.PathLike[str], channels: int) -> Tensor:
    """Reads an image as the networks take it: (C, H, W) float32 in [-1, 1].

    Rules for channels and depths, and errors: see `decode_image`.
    """
    return normalize(decode_image(path, channels))


def normalize(image: Tensor) -> Tensor:
    """Maps uint8 0..255 or float 0..1 to float32 in [-1, 1]."""
    scale = 2.0 / _BYTE if image.dtype == torch.uint8 else 2.0
    return image.to(torch.float32) * scale - 1.0


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Upright size and number of bands of an image, without decoding it.

    Raises:
        DataError: the file is missing or its header is damaged.
    """
    with _opened(path) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Whether the size of an open TIFF is the stored or the upright one depends on Pillow's version.
            width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
            orientation = image.tag_v2.get(ExifTags.Base.Orientation)
        elif image.format == "PNG" and "exif" not in image.info:
            orientation = None  # getexif would decode the whole file in search of a late EXIF chunk
        else:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation in _TRANSPOSING_ORIENTATIONS:
            width, height = height, width
        pages = _pages(image)
        return ImageHeader(height, width, Image.getmodebands(_colour_mode(image)) * pages, pages)


def check_bands(path: str | os.PathLike[str], header: ImageHeader, channels: int) -> None:
    """Raises DataError when `decode_image` could not make `channels` of the file's bands."""
    if header.bands != channels and not (channels in (1, 3) and header.pages == 1):
        raise DataError(_band_mismatch(path, header.bands, channels))


def save_image(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Writes a (C, H, W) tensor in [-1, 1] as an 8-bit image; values outside are clamped. The format is the suffix's.

    1, 2, 3 and 4 channels are grey, grey with alpha, RGB and RGBA; any other number needs .tif and makes one page a
    channel. The file appears whole or not at all.

    Raises:
        DataError: the tensor holds NaN, or the format cannot hold its channels.
        FastmunitError: the file cannot be written.
    """
    target = Path(path)
    if image.ndim != 3 or image.shape[0] == 0:
        raise DataError(f"{target}: cannot save a tensor of shape {tuple(image.shape)}; give (C, H, W).")
    if bool(image.isnan().any()):
        raise DataError(f"{target}: the image holds NaN and was not saved; the network that made it has diverged.")
    levels = image.detach().to("cpu", torch.float32).clamp(-1, 1).add(1).mul(_BYTE / 2).round().to(torch.uint8)
    channels = levels.shape[0]
    file_format = Image.registered_extensions().get(target.suffix.lower())
    if file_format is None:
        raise DataError(f"{target}: unknown image format {target.suffix!r}; use .png, .jpg or .tif.")
    options: dict[str, object] = {"quality": 95} if file_format == "JPEG" else {}
    if channels in (1, 2, 3, 4):
        pixels = levels[0] if channels == 1 else levels.permute(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(pixels.numpy()))
    elif file_format == "TIFF":
        picture, *rest = (Image.fromarray(plane.numpy()) for plane in levels)
        options = {"save_all": True, "append_images": rest}
    else:
        raise DataError(f"{target}: {file_format} cannot hold {channels} channels; use .tif.")
    encoded = io.BytesIO()
    try:
        picture.save(encoded, format=file_format, **options)
    except OSError as error:
        raise DataError(f"{target}: {file_format} cannot hold {channels} channels ({error}); use .png.") from error
    with atomic_write(target) as file:
        file.write(encoded.getbuffer())


class _IgnoredWarnings:
    """Ignores warnings while any thread is inside; the first to enter and the last to leave change the filters.

    `warnings.catch_warnings` alone puts the wrong filters back when threads overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


_warnings_ignored = _IgnoredWarnings()


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The open file; whatever goes wrong with it inside the block becomes a DataError."""
    try:
        # Pillow warns of large images and odd metadata; large ones are welcome, unreadable ones raise. From a name,
        # Pillow 13 maps uncompressed TIFFs into memory and scrambles those with an orientation.
        with _warnings_ignored, Path(path).open("rb") as file, Image.open(file) as image:
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"image {path} does not exist: correct the path or the list that names it.") from error
    except _DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"image {path} cannot be read ({error.strerror}): check the file and its folder."
            ) from error
        reason = str(error) or type(error).__name__
        raise DataError(
            f"image {path} is damaged or not an image that Pillow reads ({reason}): replace or remove it."
        ) from error


def _pages(image: Image.Image) -> int:
    """Pages of a TIFF; 1 for other formats, of which the first picture counts (animations, phone photos)."""
    return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1


def _stored_mode(image: Image.Image) -> str:
    """What a PNG's bands are in the file, depth included; empty for other formats and decoded images."""
    return str(image.tile[0][3]) if isinstance(image, PngImagePlugin.PngImageFile) and image.tile else ""


def _colour_mode(image: Image.Image) -> str:
    """The mode that holds an image's colours: palettes become RGB or RGBA."""
    if _stored_mode(image) == "LA;16B":  # which Pillow would open as RGBA
        return "LA"
    if image.mode in ("P", "PA"):
        return "RGBA" if image.has_transparency_data else "RGB"
    return image.mode


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """The image in a mode with the wanted channels, or with its own bands where the number is not 1 or 3."""
    if image.mode in (*_INTEGER_MODES, "F"):
        return image
    if channels not in (1, 3):
        return image.convert(_colour_mode(image))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, (255, 255, 255, 255)), colours).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _bands(image: Image.Image, path: str | os.PathLike[str]) -> Tensor:
    """All bands of an image, (C, H, W): uint8, or float32 in [0, 1] for deeper ones."""
    if image.mode in ("1", "P", "PA"):
        image = image.convert("L" if image.mode == "1" else _colour_mode(image))
    pixels = np.array(image)
    if image.mode in _INTEGER_MODES:
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= _WORD:
            raise DataError(
                f"{path}: integer values {pixels.min()}..{pixels.max()} are outside 0..65535; save it with 16 bits."
            )
        return torch.from_numpy((pixels.astype(np.float32) / np.float32(_WORD))[None])
    if image.mode == "F":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(
                f"{path}: float values {pixels.min():g}..{pixels.max():g} are outside [0, 1]; scale them to [0, 1]."
            )
        return torch.from_numpy(pixels[None])
    planes = torch.from_numpy(pixels)
    return planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1)


def _is_deep_colour_png(image: Image.Image) -> bool:
    """Whether Pillow would cut 16-bit bands of a PNG (LA, RGB, RGBA) to 8 bits."""
    return _stored_mode(image) in ("LA;16B", "RGB;16B", "RGBA;16B") and "transparency" not in image.info


def _deep_colours(path: str | os.PathLike[str], channels: int) -> Tensor:
    """Bands of a PNG that `_is_deep_colour_png`, (C, H, W) float32 in [0, 1], converted as `_converted` does."""
    encoded = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    try:
        pixels = decode_bytes(encoded, ImageReadMode.UNCHANGED, apply_exif_orientation=True)
    except RuntimeError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    planes = pixels.to(torch.float32) / _WORD
    if channels not in (1, 3):
        return planes
    if planes.shape[0] in (2, 4):
        colours, alpha = planes[:-1], planes[-1:]
        planes = colours * alpha + (1 - alpha)
    if channels == 1 and planes.shape[0] == 3:
        planes = (planes * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
    return planes.expand(channels, -1, -1)


def _joined(pages: list[Tensor]) -> Tensor:
    """Pages put one after another along the channels; mixed depths become float."""
    if any(page.dtype != torch.uint8 for page in pages):
        pages = [page / _BYTE if page.dtype == torch.uint8 else page for page in pages]
    return torch.cat(pages)


def _band_mismatch(path: str | os.PathLike[str], bands: int, channels: int) -> str:
    return (
        f"{path} has {bands} bands but input_dim is {channels}: set input_dim to {bands} or convert the image "
        f"(a TIFF with one page a channel holds any number)."
    )
