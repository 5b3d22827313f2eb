"""Reading and writing of single images."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, ImageSequence, TiffImagePlugin
from torch import Tensor

from fastmunit.data.opening import ImageFile, name_of, opened
from fastmunit.data.png import deep_colors, has_deep_colors, require_all_rows, stored_layout
from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable

_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
_BYTE, _WORD = 255.0, 65535.0
_LUMA = (0.299, 0.587, 0.114)

# EXIF orientation -> function that turns stored pixels (H, W, bands) upright.
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
    """The properties of an image in its header.

    Attributes:
        height: Upright height in pixels.
        width: Upright width in pixels.
        bands: Bands of all pages.
        pages: Number of pages.
        deep: True if `decode_image` reads more than 8 bits per value.
    """

    height: int
    width: int
    bands: int
    pages: int
    deep: bool = False


def decode_image(path: ImageFile, channels: int, max_pixels: int | None = None) -> Tensor:
    """Decode an image file and apply its EXIF orientation.

    - 1 channel is gray (0.299 R + 0.587 G + 0.114 B, as Pillow's "L"), 3 channels are RGB. Every file can be read as
      either: gray is repeated, palettes are resolved, and transparent parts are blended with white.
    - For other numbers of channels, the file must have as many bands: RGBA or CMYK for 4, gray with alpha for 2, or a
      TIFF of several pages, whose bands are concatenated (5 gray pages for 5 channels).
    - 16-bit gray images and 16-bit PNGs are divided by 65535, 8-bit images by 255. Float TIFFs must be in [0, 1].
      Pillow reduces 16-bit color TIFFs, and 16-bit color PNGs with one transparent color, to 8 bits.

    Args:
        path: File in any of the `readable_formats`.
        channels: Number of channels to return.
        max_pixels: Maximum number of pixels. None is Pillow's limit.

    Returns:
        A tensor (C, H, W): uint8 for 8-bit files, otherwise float32 in [0, 1].

    Raises:
        DataError: If the file is missing, is not a regular file, is damaged, or has another number of bands, values out
            of range, or too many pixels.
    """
    return _decode(path, channels, max_pixels, stored=False)


def decode_stored(path: ImageFile, channels: int, max_pixels: int | None = None) -> Tensor:
    """Decode an image file like `decode_image`, with values as they are stored instead of in [0, 1].

    Returns:
        A tensor (C, H, W): uint8 for 8-bit files, int32 for other integers, float32 for float files. Values may have
        any size, and be NaN.

    Raises:
        DataError: If the file is missing, is not a regular file, is damaged, or has another number of bands or too many
            pixels.
    """
    return _decode(path, channels, max_pixels, stored=True)


def _decode(path: ImageFile, channels: int, max_pixels: int | None, stored: bool) -> Tensor:
    deep: np.ndarray | None = None
    with opened(path, max_pixels) as image:
        if (pages := _pages(image)) > 1:
            if pages > channels:
                raise DataError(_band_mismatch(path, Image.getmodebands(_color_mode(image)) * pages, channels))
            planes = _joined(
                [_bands(ImageOps.exif_transpose(page), path, stored) for page in ImageSequence.Iterator(image)],
                path,
                stored,
            )
        elif has_deep_colors(image):
            deep = _UPRIGHT.get(_orientation(image), np.asarray)(deep_colors(path, stored_layout(image)))
        else:
            image.load()
            require_all_rows(path, image)
            planes = pillow_planes(image, channels, path, stored)
    if deep is not None:
        planes = _stored_colors(deep, channels) if stored else deep_planes(deep, channels)
    if planes.shape[0] != channels:
        raise DataError(_band_mismatch(path, planes.shape[0], channels))
    return planes


def pillow_planes(image: Image.Image, channels: int, name: ImageFile, stored: bool = False) -> Tensor:
    """Return the bands of an upright PIL image, converted between gray and RGB if `channels` is 1 or 3.

    Args:
        image: Image whose current frame is read.
        channels: Number of channels to convert to. Bands that cannot be converted are returned unchanged.
        name: Name of the image, for messages.
        stored: Return values as they are stored, like `decode_stored`.

    Returns:
        A tensor (C, H, W): uint8, or float32 in [0, 1] for images of more than 8 bits.

    Raises:
        DataError: If values are out of range. Errors of Pillow on damaged files are left to `decoding`.
    """
    planes = _bands(_converted(ImageOps.exif_transpose(image), channels), name, stored)
    return planes.expand(3, -1, -1) if planes.shape[0] == 1 and channels == 3 else planes


def read_image(path: ImageFile, channels: int, max_pixels: int | None = None) -> Tensor:
    """Read an image as input of a network: (C, H, W) float32 in [-1, 1].

    See `decode_image` for the arguments, the conversion of channels and depths, and the errors.
    """
    return normalize(decode_image(path, channels, max_pixels))


def normalize(image: Tensor) -> Tensor:
    """Map uint8 values, or float values in [0, 1], to float32 in [-1, 1]."""
    scale = 2.0 / _BYTE if image.dtype == torch.uint8 else 2.0
    return image.to(torch.float32) * scale - 1.0


def read_header(path: ImageFile, max_pixels: int | None = None) -> ImageHeader:
    """Return the upright size and the number of bands of an image, without decoding it.

    Args:
        path: File to read.
        max_pixels: Maximum number of pixels. None is Pillow's limit.

    Raises:
        DataError: If the file is missing, is not a regular file, or has a damaged header or too many pixels.
    """
    with opened(path, max_pixels) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # The size of an open TIFF is the stored or the upright one, depending on Pillow's version.
            width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
        if _orientation(image) in _TRANSPOSING_ORIENTATIONS:
            width, height = height, width
        pages = _pages(image)
        deep = image.mode in (*_INTEGER_MODES, "F") or has_deep_colors(image)
        return ImageHeader(height, width, Image.getmodebands(_color_mode(image)) * pages, pages, deep)


def check_bands(path: ImageFile, header: ImageHeader, channels: int) -> None:
    """Raise DataError if `decode_image` cannot convert the bands of a file to `channels`."""
    if header.bands != channels and not (channels in (1, 3) and header.pages == 1):
        raise DataError(_band_mismatch(path, header.bands, channels))


def save_image(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Save a tensor as an 8-bit image atomically.

    1, 2, 3 and 4 channels are saved as gray, gray with alpha, RGB and RGBA. Any other number needs .tif and gives one
    page per channel.

    Args:
        image: Tensor (C, H, W) in [-1, 1]. Other values are clamped.
        path: File to write. Its suffix selects the format.

    Raises:
        DataError: If the tensor contains NaN, or the format cannot store its channels.
        FastmunitError: If the file cannot be written.
    """
    save_levels(_levels(image, printable(path)), path)


def save_levels(levels: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Save uint8 values (H, W, C) as an image like `save_image`, which raises the same errors."""
    target = Path(path)
    file_format = Image.registered_extensions().get(target.suffix.lower())
    if file_format is None:
        raise DataError(f"{printable(target)}: unknown image format {target.suffix!r}: use .png, .jpg or .tif.")
    options = {"quality": 95} if file_format == "JPEG" else {}
    encoded = _encoded(levels, file_format, printable(target), options)
    with atomic_write(target) as file:
        file.write(encoded)


def encode_image(image: Tensor, file_format: str, name: str, **options: object) -> bytes:
    """Encode a tensor as the bytes of an 8-bit image file.

    Args:
        image: Tensor (C, H, W) in [-1, 1]; see `save_image`.
        file_format: Pillow's name of the format.
        name: Name of the image, for messages.
        options: Options of Pillow for the format.

    Raises:
        DataError: If the tensor contains NaN, or the format cannot store its channels.
    """
    return _encoded(_levels(image, name), file_format, name, options)


def _levels(image: Tensor, name: str) -> np.ndarray:
    """Return an image (C, H, W) in [-1, 1] as uint8 values (H, W, C)."""
    if image.ndim != 3 or image.shape[0] == 0:
        raise DataError(f"{name}: expected an image (C, H, W), got a tensor of shape {tuple(image.shape)}.")
    if bool(image.isnan().any()):
        raise DataError(f"{name}: the image contains NaN and was not saved: the network has diverged.")
    levels = image.detach().to("cpu", torch.float32).clamp(-1, 1).add(1).mul(_BYTE / 2).round().to(torch.uint8)
    return levels.permute(1, 2, 0).numpy()


def _encoded(levels: np.ndarray, file_format: str, name: str, options: Mapping[str, object]) -> bytes:
    """Encode uint8 values (H, W, C)."""
    channels = levels.shape[2]
    if channels in (1, 2, 3, 4):
        picture = Image.fromarray(np.ascontiguousarray(levels[..., 0] if channels == 1 else levels))
    elif file_format == "TIFF":
        picture, *rest = (Image.fromarray(np.ascontiguousarray(levels[..., band])) for band in range(channels))
        options = {**options, "save_all": True, "append_images": rest}
    else:
        raise DataError(f"{name}: {file_format} cannot store {channels} channels: use .tif.")
    encoded = io.BytesIO()
    try:
        picture.save(encoded, format=file_format, **options)
    except OSError as error:
        raise DataError(f"{name}: {file_format} cannot store {channels} channels ({error}): use .png.") from error
    return encoded.getvalue()


def _pages(image: Image.Image) -> int:
    """Return the number of pages of a TIFF, or 1 for other formats, which may have more pictures (animations)."""
    return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation in the header of an open file, or 1 if it has none."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        orientation = image.tag_v2.get(ExifTags.Base.Orientation)
    elif image.format == "PNG" and "exif" not in image.info:
        orientation = None  # getexif would decode the whole file in search of a late EXIF chunk
    else:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) else 1


def _color_mode(image: Image.Image) -> str:
    """Return the mode of an image after its palette, if any, is resolved to RGB or RGBA."""
    if stored_layout(image) == "LA;16B":  # Pillow would open it as RGBA
        return "LA"
    if image.mode in ("P", "PA"):
        return "RGBA" if image.has_transparency_data else "RGB"
    return image.mode


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image to gray or RGB if `channels` is 1 or 3. Otherwise keep its bands."""
    if image.mode in (*_INTEGER_MODES, "F"):
        return image
    if channels not in (1, 3):
        return image.convert(_color_mode(image))
    if image.has_transparency_data:
        colors = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colors.size, (255, 255, 255, 255)), colors).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _bands(image: Image.Image, path: ImageFile, stored: bool = False) -> Tensor:
    """Return all bands of an image, (C, H, W): uint8, or float32 in [0, 1] for images of more than 8 bits.

    With `stored`, values are as they are stored, and integers of more than 8 bits are int32.
    """
    if image.mode in ("1", "P", "PA"):
        image = image.convert("L" if image.mode == "1" else _color_mode(image))
    pixels = np.array(image)
    if stored and image.mode in (*_INTEGER_MODES, "F"):
        return torch.from_numpy(pixels.astype(np.float32 if image.mode == "F" else np.int32))[None]
    if image.mode in _INTEGER_MODES:
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= _WORD:
            raise DataError(
                f"{name_of(path)}: integer values {pixels.min()}..{pixels.max()} are outside 0..65535: "
                "save it with 16 bits, or set value_range_a (value_range_b)."
            )
        return torch.from_numpy((pixels.astype(np.float32) / np.float32(_WORD))[None])
    if image.mode == "F":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(
                f"{name_of(path)}: float values {pixels.min():g}..{pixels.max():g} are outside [0, 1]: "
                "set value_range_a (value_range_b) to [low, high] or auto, or scale them to [0, 1]."
            )
        return torch.from_numpy(pixels[None])
    planes = torch.from_numpy(pixels)
    return planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1)


def deep_planes(pixels: np.ndarray, channels: int) -> Tensor:
    """Convert 16-bit bands (H, W, bands) to (C, H, W) float32 in [0, 1], with the rules of `pillow_planes`."""
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous() / _WORD
    if channels not in (1, 3):
        return planes
    if planes.shape[0] in (2, 4):
        colors, alpha = planes[:-1], planes[-1:]
        planes = colors * alpha + (1 - alpha)
    if channels == 1 and planes.shape[0] == 3:
        planes = (planes * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
    return planes.expand(channels, -1, -1)


def _stored_colors(pixels: np.ndarray, channels: int) -> Tensor:
    """Return 16-bit bands (H, W, bands) as stored, with the rules of `deep_planes`: int32 (C, H, W)."""
    if pixels.shape[2] == channels or channels not in (1, 3):
        return torch.from_numpy(pixels.astype(np.int32)).permute(2, 0, 1)
    return (deep_planes(pixels, channels) * _WORD).round().to(torch.int32)


def _joined(pages: list[Tensor], path: ImageFile, stored: bool) -> Tensor:
    """Concatenate pages along the channels. If any page is float, the result is float."""
    if len({page.shape[1:] for page in pages}) > 1:
        raise DataError(f"{name_of(path)}: the pages of this TIFF differ in size: save them with equal sizes.")
    if not stored and any(page.dtype != torch.uint8 for page in pages):
        pages = [page / _BYTE if page.dtype == torch.uint8 else page for page in pages]
    return torch.cat(pages)


def _band_mismatch(path: ImageFile, bands: int, channels: int) -> str:
    return (
        f"{name_of(path)} has {bands} bands but input_dim is {channels}: set input_dim to {bands} or convert the "
        f"image (a TIFF with one page per channel can have any number)."
    )
