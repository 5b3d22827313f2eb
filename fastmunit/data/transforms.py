"""Transforms from decoded images to network inputs, for training and test."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.data.images import normalize
from fastmunit.data.memory_limit import memory_excess
from fastmunit.errors import DataError
from fastmunit.files import printable
from fastmunit.memory import first_line, is_out_of_memory


@dataclass(frozen=True)
class TrainTransform:
    """MUNIT's training transform: random horizontal flip, resize of the shorter side, random crop, scaling to [-1, 1].

    Attributes:
        size: Shorter side after resizing, in pixels, or None to keep the size.
        crop: (height, width) in pixels, or None to keep the whole image.
        flip: Set to False for images that change their meaning when mirrored, such as digits.
    """

    size: int | None
    crop: tuple[int, int] | None
    flip: bool = True

    def __call__(self, image: Tensor, generator: torch.Generator, name: str | os.PathLike[str] = "image") -> Tensor:
        """Transform (C, H, W) uint8 or float in [0, 1] to float32 in [-1, 1] with random numbers of `generator`."""
        if torch.rand((), generator=generator) < 0.5 and self.flip:
            image = image.flip(-1)
        image = resize(image, self.size, name)
        if self.crop is not None:
            margins = _margins(image, self.crop, name)
            top, left = (int(torch.randint(pixels + 1, (), generator=generator)) for pixels in margins)
            image = image[..., top : top + self.crop[0], left : left + self.crop[1]]
        return normalize(image)


@dataclass(frozen=True)
class TestTransform:
    """A test transform: resize of the shorter side, center crop, scaling to [-1, 1].

    MUNIT's test transform crops at random. A fixed crop shows the same part of an image in every sample grid.

    Attributes:
        size: Shorter side after resizing, in pixels, or None to keep the size.
        crop: (height, width) in pixels, or None to keep the whole image.
    """

    size: int | None
    crop: tuple[int, int] | None

    def __call__(self, image: Tensor, name: str | os.PathLike[str] = "image") -> Tensor:
        """Transform (C, H, W) uint8 or float in [0, 1] to float32 in [-1, 1]."""
        image = resize(image, self.size, name)
        if self.crop is not None:
            top, left = (pixels // 2 for pixels in _margins(image, self.crop, name))
            image = image[..., top : top + self.crop[0], left : left + self.crop[1]]
        return normalize(image)


def resize(image: Tensor, size: int | None, name: str | os.PathLike[str] = "image") -> Tensor:
    """Resize the shorter side to `size` pixels, bilinear with antialiasing like Pillow, unless `size` is None.

    Raises:
        DataError: If the result does not fit in memory. The message contains `name`.
    """
    if size is None:
        return image
    channels, height, width = image.shape[-3:]
    if (problem := resize_excess(name, height, width, channels * image.element_size(), size)) is not None:
        raise DataError(problem)
    try:
        return scaled(image, [size])
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DataError(
            f"{printable(name)}: {height}x{width} (height x width) cannot be resized to a shorter side of {size}: "
            f"{first_line(error)}"
        ) from error


def scaled(image: Tensor, size: list[int]) -> Tensor:
    """Return an image of a size [H, W], or of a shorter side [pixels]: bilinear with antialiasing, like Pillow."""
    from torchvision.transforms.v2 import functional  # whose import takes a second

    return functional.resize(image, size, antialias=True)


def resized_shape(height: int, width: int, size: int | None) -> tuple[int, int]:
    """Return the (height, width) that `resize` gives. The longer side is rounded down."""
    if size is None:
        return height, width
    long_side = int(size * max(height, width) / min(height, width))
    return (size, long_side) if height <= width else (long_side, size)


def resize_excess(
    name: str | os.PathLike[str], height: int, width: int, pixel_bytes: int, size: int | None
) -> str | None:
    """Return an error message if a resized image does not fit in the memory of this machine, or None if it does.

    Args:
        name: Name of the image, for the message.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        pixel_bytes: Bytes per pixel of a tensor. Two such tensors must fit at the same time.
        size: Shorter side after the resize, in pixels, or None to keep the size.
    """
    shape = resized_shape(height, width, size)
    # Rows and columns are resized one after the other, each with its own result.
    excess = memory_excess(2 * pixel_bytes * shape[0] * shape[1])
    if excess is None:
        return None
    return (
        f"{printable(name)}: {height}x{width} (height x width) resized to {shape[0]}x{shape[1]} would take {excess}: "
        "lower the size after the resize, scale the image down, or remove it."
    )


def _margins(image: Tensor, crop: tuple[int, int], name: str | os.PathLike[str]) -> tuple[int, int]:
    height, width = image.shape[-2:]
    if height < crop[0] or width < crop[1]:
        raise DataError(
            f"{printable(name)}: {height}x{width} (height x width) after the resize is smaller than the crop "
            f"{crop[0]}x{crop[1]}: remove the image, raise new_size, or lower crop_image_height and crop_image_width."
        )
    return height - crop[0], width - crop[1]
