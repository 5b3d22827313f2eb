"""Reading and writing single images."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, ImageSequence, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from fastmunit.data.opening import opened
from fastmunit.data.png import deep_colors, has_deep_colors, require_all_rows, stored_layout
from fastmunit.errors import DataError
from fastmunit.files import atomic_write, shown

_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
_BYTE, _WORD = 255.0, 65535.0
_LUMA = (0.299, 0.587, 0.114)

# EXIF orientation -> how the stored pixels, (H, W, bands), are turned upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class ImageHeader(NamedTuple):
    """What a file says about its image before decoding: upright size in pixels, bands of all pages, pages."""

    height: int
    width: int
    bands: int
    pages: int


def decode_image(path: str | os.PathLike[str], channels: int, max_pixels: int | None = None) -> Tensor:
    """Decode an image file, upright (EXIF orientation applied).

    - channels 1: grey (0.299 R + 0.587 G + 0.114 B, as Pillow's "L"); channels 3: RGB. Any file can be read as either;
      grey is repeated, palettes are resolved and transparent parts are laid on white.
    - other numbers of channels: the file must have that many bands: RGBA or CMYK for 4, grey with alpha for 2, or a
      TIFF of several pages whose bands are put one after another (5 grey pages for 5 channels).
    - 16-bit grey and 16-bit PNGs are scaled by 65535, 8-bit by 255; float TIFFs must be in [0, 1]. Pillow reduces
      16-bit color TIFFs, and 16-bit color PNGs with one transparent color, to 8 bits.

    Args:
        path: The file, of any format in `readable_formats`.
        channels: The number of channels to return.
        max_pixels: The number of pixels above which an image is refused; None is Pillow's limit.

    Returns:
        (C, H, W): uint8 for 8-bit files, else float32 in [0, 1].

    Raises:
        DataError: The file is missing, is not a regular file, is damaged, has another number of bands, values out of
            range, or more than `max_pixels`.
    """
    deep: np.ndarray | None = None
    with opened(path, max_pixels) as image:
        if (pages := _pages(image)) > 1:
            if pages > channels:
                raise DataError(_band_mismatch(path, Image.getmodebands(_color_mode(image)) * pages, channels))
            planes = _joined(
                [_bands(ImageOps.exif_transpose(page), path) for page in ImageSequence.Iterator(image)], path
            )
        elif has_deep_colors(image):
            deep = _UPRIGHT.get(_orientation(image), np.asarray)(deep_colors(path, stored_layout(image)))
        else:
            image.load()
            require_all_rows(path, image)
            planes = pillow_planes(image, channels, path)
    if deep is not None:
        planes = deep_planes(deep, channels)
    if planes.shape[0] != channels:
        raise DataError(_band_mismatch(path, planes.shape[0], channels))
    return planes


def pillow_planes(image: Image.Image, channels: int, name: str | os.PathLike[str]) -> Tensor:
    """Return the bands of a PIL image, upright, converted between grey and RGB where `channels` is 1 or 3.

    Args:
        image: Its current frame is taken.
        channels: Wanted; another number of bands is returned where the image has others and they cannot be converted.
        name: What the image is, for messages.

    Returns:
        (C, H, W): uint8, or float32 in [0, 1] for deeper images.

    Raises:
        DataError: Values are out of range. What Pillow raises on damaged files is left to `decoding`.
    """
    planes = _bands(_converted(ImageOps.exif_transpose(image), channels), name)
    return planes.expand(3, -1, -1) if planes.shape[0] == 1 and channels == 3 else planes


def read_image(path: str | os.PathLike[str], channels: int, max_pixels: int | None = None) -> Tensor:
    """Read an image as the networks take it: (C, H, W) float32 in [-1, 1].

    Arguments, rules for channels and depths, and errors: see `decode_image`.
    """
    return normalize(decode_image(path, channels, max_pixels))


def verify_image(path: str | os.PathLike[str], channels: int, max_pixels: int | None = None) -> None:
    """Check that an image decodes completely, and that the checksums of a PNG are right.

    Args: As `decode_image`.

    Raises:
        DataError: As `decode_image`, or a checksum is wrong.
    """
    with opened(path, max_pixels) as image:
        if isinstance(image, PngImagePlugin.PngImageFile):  # whose data Pillow decodes without a look at the checksums
            image.verify()
    decode_image(path, channels, max_pixels)


def normalize(image: Tensor) -> Tensor:
    """Maps uint8 0..255 or float 0..1 to float32 in [-1, 1]."""
    scale = 2.0 / _BYTE if image.dtype == torch.uint8 else 2.0
    return image.to(torch.float32) * scale - 1.0


def read_header(path: str | os.PathLike[str], max_pixels: int | None = None) -> ImageHeader:
    """Return the upright size and the number of bands of an image, without decoding it.

    Args:
        path: The file.
        max_pixels: The number of pixels above which an image is refused; None is Pillow's limit.

    Raises:
        DataError: The file is missing, is not a regular file, has a damaged header or more than `max_pixels`.
    """
    with opened(path, max_pixels) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Whether the size of an open TIFF is the stored or the upright one depends on Pillow's version.
            width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
        if _orientation(image) in _TRANSPOSING_ORIENTATIONS:
            width, height = height, width
        pages = _pages(image)
        return ImageHeader(height, width, Image.getmodebands(_color_mode(image)) * pages, pages)


def check_bands(path: str | os.PathLike[str], header: ImageHeader, channels: int) -> None:
    """Raises DataError when `decode_image` could not make `channels` of the file's bands."""
    if header.bands != channels and not (channels in (1, 3) and header.pages == 1):
        raise DataError(_band_mismatch(path, header.bands, channels))


def save_image(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Writes a (C, H, W) tensor in [-1, 1] as an 8-bit image; values outside are clamped. The format is the suffix's.

    1, 2, 3 and 4 channels are grey, grey with alpha, RGB and RGBA; any other number needs .tif and makes one page per
    channel. The file appears whole or not at all.

    Raises:
        DataError: the tensor holds NaN, or the format cannot hold its channels.
        FastmunitError: the file cannot be written.
    """
    target = Path(path)
    if image.ndim != 3 or image.shape[0] == 0:
        raise DataError(f"{shown(target)}: cannot save a tensor of shape {tuple(image.shape)}; give (C, H, W).")
    if bool(image.isnan().any()):
        raise DataError(
            f"{shown(target)}: the image holds NaN and was not saved; the network that made it has diverged."
        )
    levels = image.detach().to("cpu", torch.float32).clamp(-1, 1).add(1).mul(_BYTE / 2).round().to(torch.uint8)
    channels = levels.shape[0]
    file_format = Image.registered_extensions().get(target.suffix.lower())
    if file_format is None:
        raise DataError(f"{shown(target)}: unknown image format {target.suffix!r}; use .png, .jpg or .tif.")
    options: dict[str, object] = {"quality": 95} if file_format == "JPEG" else {}
    if channels in (1, 2, 3, 4):
        pixels = levels[0] if channels == 1 else levels.permute(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(pixels.numpy()))
    elif file_format == "TIFF":
        picture, *rest = (Image.fromarray(plane.numpy()) for plane in levels)
        options = {"save_all": True, "append_images": rest}
    else:
        raise DataError(f"{shown(target)}: {file_format} cannot hold {channels} channels; use .tif.")
    encoded = io.BytesIO()
    try:
        picture.save(encoded, format=file_format, **options)
    except OSError as error:
        raise DataError(
            f"{shown(target)}: {file_format} cannot hold {channels} channels ({error}); use .png."
        ) from error
    with atomic_write(target) as file:
        file.write(encoded.getbuffer())


def _pages(image: Image.Image) -> int:
    """Pages of a TIFF; 1 for other formats, of which the first picture counts (animations, phone photos)."""
    return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that an open file says before its image data; 1 where it says none."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        found = image.tag_v2.get(ExifTags.Base.Orientation)
    elif image.format == "PNG" and "exif" not in image.info:
        found = None  # getexif would decode the whole file in search of a late EXIF chunk
    else:
        found = image.getexif().get(ExifTags.Base.Orientation)
    return found if isinstance(found, int) else 1


def _color_mode(image: Image.Image) -> str:
    """The mode that holds an image's colors: palettes become RGB or RGBA."""
    if stored_layout(image) == "LA;16B":  # which Pillow would open as RGBA
        return "LA"
    if image.mode in ("P", "PA"):
        return "RGBA" if image.has_transparency_data else "RGB"
    return image.mode


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """The image in a mode with the wanted channels, or with its own bands where the number is not 1 or 3."""
    if image.mode in (*_INTEGER_MODES, "F"):
        return image
    if channels not in (1, 3):
        return image.convert(_color_mode(image))
    if image.has_transparency_data:
        colors = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colors.size, (255, 255, 255, 255)), colors).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _bands(image: Image.Image, path: str | os.PathLike[str]) -> Tensor:
    """All bands of an image, (C, H, W): uint8, or float32 in [0, 1] for deeper ones."""
    if image.mode in ("1", "P", "PA"):
        image = image.convert("L" if image.mode == "1" else _color_mode(image))
    pixels = np.array(image)
    if image.mode in _INTEGER_MODES:
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= _WORD:
            raise DataError(
                f"{shown(path)}: integer values {pixels.min()}..{pixels.max()} are outside 0..65535; "
                "save it with 16 bits."
            )
        return torch.from_numpy((pixels.astype(np.float32) / np.float32(_WORD))[None])
    if image.mode == "F":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(
                f"{shown(path)}: float values {pixels.min():g}..{pixels.max():g} are outside [0, 1]; "
                "scale them to [0, 1]."
            )
        return torch.from_numpy(pixels[None])
    planes = torch.from_numpy(pixels)
    return planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1)


def deep_planes(pixels: np.ndarray, channels: int) -> Tensor:
    """Return 16-bit bands, (H, W, bands), as (C, H, W) float32 in [0, 1], converted as `pillow_planes` does."""
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous() / _WORD
    if channels not in (1, 3):
        return planes
    if planes.shape[0] in (2, 4):
        colors, alpha = planes[:-1], planes[-1:]
        planes = colors * alpha + (1 - alpha)
    if channels == 1 and planes.shape[0] == 3:
        planes = (planes * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
    return planes.expand(channels, -1, -1)


def _joined(pages: list[Tensor], path: str | os.PathLike[str]) -> Tensor:
    """Pages put one after another along the channels; mixed depths become float."""
    if len({page.shape[1:] for page in pages}) > 1:
        raise DataError(f"{shown(path)}: the pages of this TIFF differ in size; save them with one size.")
    if any(page.dtype != torch.uint8 for page in pages):
        pages = [page / _BYTE if page.dtype == torch.uint8 else page for page in pages]
    return torch.cat(pages)


def _band_mismatch(path: str | os.PathLike[str], bands: int, channels: int) -> str:
    return (
        f"{shown(path)} has {bands} bands but input_dim is {channels}: set input_dim to {bands} or convert the image "
        f"(a TIFF with one page per channel holds any number)."
    )
