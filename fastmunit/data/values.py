"""Conversion of Python images: tensors, PIL images, NumPy arrays and paths."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmunit.data.images import decode_image, deep_planes, normalize, pillow_planes
from fastmunit.data.opening import decoding
from fastmunit.errors import DataError

ImageLike: TypeAlias = Tensor | Image.Image | np.ndarray | str | os.PathLike[str]
IMAGE_TYPES = (Tensor, Image.Image, np.ndarray, str, os.PathLike)

ACCEPTED = "a path, a PIL image, a NumPy array (H, W) or (H, W, C) of uint8 or uint16, or a tensor (C, H, W) in [-1, 1]"
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def image_tensor(value: object, channels: int, what: str, max_pixels: int | None = None) -> Tensor:
    """Convert an image to network input: (C, H, W) in [-1, 1].

    Paths, PIL images and arrays are converted between gray and RGB like in `read_image`, and transparent parts are
    blended with white. 8-bit values are divided by 255, 16-bit values by 65535. Tensors are returned unchanged.

    Args:
        value: Image to convert.
        channels: Number of input channels of the network. Channels that cannot be converted are kept.
        what: Name of the argument, as the first word of a message ("images", "styles").
        max_pixels: Maximum number of pixels of a file. None is Pillow's limit.

    Raises:
        TypeError: If `value` is not one of `ACCEPTED`, or an array has the wrong dtype.
        ValueError: If a tensor or an array has the wrong shape, or a tensor has the wrong dtype.
        DataError: If a file or a PIL image cannot be read.
    """
    if isinstance(value, Tensor):
        return checked(value, what)
    return normalize(image_planes(value, channels, what, max_pixels))


def image_planes(value: object, channels: int, what: str, max_pixels: int | None = None) -> Tensor:
    """Convert a path, a PIL image or an array to (C, H, W), uint8 or float32 in [0, 1], like `decode_image`.

    See `image_tensor` for the arguments and errors.
    """
    if isinstance(value, Image.Image):
        return _planes(value, channels)
    if isinstance(value, np.ndarray):
        return _from_array(value, channels, what)
    if isinstance(value, str | os.PathLike):
        return decode_image(value, channels, max_pixels)
    raise TypeError(f"{what}: expected {ACCEPTED}, got {type(value).__name__}.")


def checked(image: Tensor, what: str) -> Tensor:
    """Return a floating point tensor of three dimensions unchanged, and raise ValueError for any other."""
    if image.dim() != 3:
        raise ValueError(f"{what}: expected (C, H, W), got shape {tuple(image.shape)}")
    if image.numel() == 0 or not image.is_floating_point():
        raise ValueError(
            f"{what}: expected floating point values in [-1, 1], got {tuple(image.shape)} in {image.dtype}"
        )
    return image


def _planes(image: Image.Image, channels: int) -> Tensor:
    if 0 in image.size:
        raise DataError(f"a PIL image of {image.width}x{image.height} pixels has no content: give another one.")
    with decoding("the PIL image"):  # it may not be decoded yet
        return pillow_planes(image, channels, "the PIL image")


def _from_array(array: np.ndarray, channels: int, what: str) -> Tensor:
    """Return the bands of an array: uint8, or float32 in [0, 1] for 16-bit arrays."""
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise TypeError(
            f"{what}: expected a NumPy array of uint8 or uint16, got {array.dtype}. Give values in [-1, 1] as a tensor "
            "(C, H, W)."
        )
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{what}: expected an array (H, W) or (H, W, C), got shape {array.shape}: give several images as a list."
        )
    pixels = np.atleast_3d(np.asarray(array))
    bands = pixels.shape[2]
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8 if array.dtype.itemsize == 1 else np.uint16)
    if pixels.dtype == np.uint16:
        return deep_planes(pixels, channels if bands in _MODES else bands)
    if bands == channels or bands not in _MODES or channels not in (1, 3):
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return _planes(Image.fromarray(pixels[..., 0] if bands == 1 else pixels), channels)
