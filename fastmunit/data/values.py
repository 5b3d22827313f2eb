"""Conversion of Python images: tensors, PIL images, NumPy arrays and paths."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmunit.data.images import deep_planes, normalize, pillow_planes
from fastmunit.data.opening import decoding
from fastmunit.data.pixels import Stored, read_planes, read_stored
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError

ImageLike: TypeAlias = Tensor | Image.Image | np.ndarray | str | os.PathLike[str]
IMAGE_TYPES = (Tensor, Image.Image, np.ndarray, str, os.PathLike)

ACCEPTED = "a path, a PIL image, a NumPy array (H, W) or (H, W, C) of uint8 or uint16, or a tensor (C, H, W) in [-1, 1]"
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def image_tensor(
    value: object, channels: int, what: str, max_pixels: int | None = None, values: PixelValues | None = None
) -> Tensor:
    """Convert an image to network input: (C, H, W) in [-1, 1].

    Paths, PIL images and arrays are converted between gray and RGB like in `read_image`, and transparent parts are
    blended with white. 8-bit values are divided by 255, 16-bit values by 65535, or all are mapped with the value range
    in `values`. Tensors are returned unchanged.

    Args:
        value: Image to convert.
        channels: Number of input channels of the network. Channels that cannot be converted are kept.
        what: Name of the argument, as the first word of a message ("images", "styles").
        max_pixels: Maximum number of pixels of a file. None is Pillow's limit.
        values: How pixels are read; see `read_planes`. With a value range, arrays may have any real type.

    Raises:
        TypeError: If `value` is not one of `ACCEPTED`, or an array has the wrong dtype.
        ValueError: If a tensor or an array has the wrong shape, or a tensor has the wrong dtype.
        DataError: If a file or a PIL image cannot be read.
    """
    if isinstance(value, Tensor):
        return checked(value, what)
    return normalize(image_planes(value, channels, what, max_pixels, values))


def image_planes(
    value: object, channels: int, what: str, max_pixels: int | None = None, values: PixelValues | None = None
) -> Tensor:
    """Convert a path, a PIL image or an array to (C, H, W), uint8 or float32 in [0, 1], like `decode_image`.

    See `image_tensor` for the arguments and errors.
    """
    if isinstance(value, str | os.PathLike):
        return read_planes(value, channels, max_pixels, values)
    values = values or PixelValues()
    if values.range is not None:
        return values.range.to_unit(stored_image(value, channels, what, max_pixels, values).pixels)
    count = channels // values.slices
    if isinstance(value, Image.Image):
        planes = _planes(value, count)
    elif isinstance(value, np.ndarray):
        planes = _from_array(value, count, what)
    else:
        raise TypeError(f"{what}: expected {ACCEPTED}, got {type(value).__name__}.")
    return planes if values.slices == 1 else planes.repeat(values.slices, 1, 1)


def stored_image(value: object, channels: int, what: str, max_pixels: int | None, values: PixelValues) -> Stored:
    """Return the stored values of a path, a PIL image or an array of any real type. See `image_planes`.

    Bytes are converted between gray and RGB. Gray values of other types are repeated for three channels.
    """
    if isinstance(value, str | os.PathLike):
        return read_stored(value, channels, max_pixels, values)
    count = channels // values.slices
    if isinstance(value, Image.Image):
        planes = _planes(value, count, stored=True).numpy()
    elif not isinstance(value, np.ndarray):
        raise TypeError(f"{what}: expected {ACCEPTED}, got {type(value).__name__}.")
    elif value.dtype == np.uint8:
        planes = _from_array(value, count, what).numpy()
    else:
        if value.dtype.kind not in "uif":
            raise TypeError(f"{what}: expected a NumPy array of integers or floats, got {value.dtype}.")
        _require_image(value, what)
        planes = np.moveaxis(np.atleast_3d(value), 2, 0)
        planes = np.repeat(planes, 3, axis=0) if len(planes) == 1 and count == 3 else planes
    return Stored(np.tile(planes, (values.slices, 1, 1)))


def checked(image: Tensor, what: str) -> Tensor:
    """Return a floating point tensor of three dimensions unchanged, and raise ValueError for any other."""
    if image.dim() != 3:
        raise ValueError(f"{what}: expected (C, H, W), got shape {tuple(image.shape)}")
    if image.numel() == 0 or not image.is_floating_point():
        raise ValueError(
            f"{what}: expected floating point values in [-1, 1], got {tuple(image.shape)} in {image.dtype}"
        )
    return image


def _require_image(array: np.ndarray, what: str) -> None:
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{what}: expected an array (H, W) or (H, W, C), got shape {array.shape}: give several images as a list."
        )


def _planes(image: Image.Image, channels: int, stored: bool = False) -> Tensor:
    if 0 in image.size:
        raise DataError(f"a PIL image of {image.width}x{image.height} pixels has no content: give another one.")
    with decoding("the PIL image"):  # it may not be decoded yet
        return pillow_planes(image, channels, "the PIL image", stored)


def _from_array(array: np.ndarray, channels: int, what: str) -> Tensor:
    """Return the bands of an array: uint8, or float32 in [0, 1] for 16-bit arrays."""
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise TypeError(
            f"{what}: expected a NumPy array of uint8 or uint16, got {array.dtype}. Give values in [-1, 1] as a tensor "
            "(C, H, W), or train with value_range_a (value_range_b)."
        )
    _require_image(array, what)
    pixels = np.atleast_3d(np.asarray(array))
    bands = pixels.shape[2]
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8 if array.dtype.itemsize == 1 else np.uint16)
    if pixels.dtype == np.uint16:
        return deep_planes(pixels, channels if bands in _MODES else bands)
    if bands == channels or bands not in _MODES or channels not in (1, 3):
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return _planes(Image.fromarray(pixels[..., 0] if bands == 1 else pixels), channels)
