"""From a decoded image to what a network is trained or tested on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fastmunit.data.images import normalize
from fastmunit.data.memory_limit import memory_excess
from fastmunit.errors import DataError
from fastmunit.files import shown
from fastmunit.memory import first_line, is_out_of_memory


@dataclass(frozen=True)
class TrainTransform:
    """Horizontal flip with probability 1/2, resize of the shortest side, random crop, [-1, 1]: MUNIT's training chain.

    Attributes:
        size: shortest side after resizing, pixels; None keeps the size.
        crop: (height, width) in pixels; None keeps the whole image.
        flip: False for images that mean something else in a mirror, such as digits.
    """

    size: int | None
    crop: tuple[int, int] | None
    flip: bool = True

    def __call__(self, image: Tensor, generator: torch.Generator, name: str | os.PathLike[str] = "image") -> Tensor:
        """(C, H, W) uint8, or float in [0, 1], to float32 in [-1, 1]; every draw comes from `generator`."""
        if torch.rand((), generator=generator) < 0.5 and self.flip:
            image = F.horizontal_flip(image)
        image = resize(image, self.size, name)
        if self.crop is not None:
            room = _room(image, self.crop, name)
            top, left = (int(torch.randint(pixels + 1, (), generator=generator)) for pixels in room)
            image = F.crop(image, top, left, *self.crop)
        return normalize(image)


@dataclass(frozen=True)
class TestTransform:
    """Resize of the shortest side, centre crop, [-1, 1].

    MUNIT's own test chain crops at random; a fixed crop shows the same part of an image at every display.

    Attributes: as `TrainTransform`.
    """

    size: int | None
    crop: tuple[int, int] | None

    def __call__(self, image: Tensor, name: str | os.PathLike[str] = "image") -> Tensor:
        """(C, H, W) uint8, or float in [0, 1], to float32 in [-1, 1]."""
        image = resize(image, self.size, name)
        if self.crop is not None:
            top, left = (pixels // 2 for pixels in _room(image, self.crop, name))
            image = F.crop(image, top, left, *self.crop)
        return normalize(image)


def resize(image: Tensor, size: int | None, name: str | os.PathLike[str] = "image") -> Tensor:
    """Bring the shortest side to `size` pixels: bilinear with antialiasing, as Pillow. None keeps the size.

    Raises:
        DataError: The result does not fit in memory. `name` names the image.
    """
    if size is None:
        return image
    channels, height, width = image.shape[-3:]
    if (problem := resize_excess(name, height, width, channels * image.element_size(), size)) is not None:
        raise DataError(problem)
    try:
        return F.resize(image, [size], interpolation=InterpolationMode.BILINEAR, antialias=True)
    except RuntimeError as error:
        if not is_out_of_memory(error):  # less memory is free than there is
            raise
        raise DataError(
            f"{shown(name)}: {height}x{width} (height x width) cannot be resized to a shortest side of {size}: "
            f"{first_line(error)}"
        ) from error


def resized_shape(height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width that `resize` gives: the long side is rounded down."""
    if size is None:
        return height, width
    long_side = int(size * max(height, width) / min(height, width))
    return (size, long_side) if height <= width else (long_side, size)


def resize_excess(
    name: str | os.PathLike[str], height: int, width: int, pixel_bytes: int, size: int | None
) -> str | None:
    """Return what is wrong with resizing an image, or None where the result fits in the memory of this machine.

    Args:
        name: The image, for the message.
        height: Of the image, pixels.
        width: Of the image, pixels.
        pixel_bytes: Bytes of a tensor per pixel. Two such tensors at once must fit.
        size: Shortest side after the resize, pixels; None keeps the size.
    """
    shape = resized_shape(height, width, size)
    # The resize is done one direction after the other, each with a result of its own.
    excess = memory_excess(2 * pixel_bytes * shape[0] * shape[1])
    if excess is None:
        return None
    return (
        f"{shown(name)}: {height}x{width} (height x width) resized to {shape[0]}x{shape[1]} would take {excess}: lower "
        "the size it is resized to, scale it down, or remove it."
    )


def _room(image: Tensor, crop: tuple[int, int], name: str | os.PathLike[str]) -> tuple[int, int]:
    height, width = image.shape[-2:]
    if height < crop[0] or width < crop[1]:
        raise DataError(
            f"{shown(name)}: {height}x{width} (height x width) after the resize is smaller than the crop "
            f"{crop[0]}x{crop[1]}: remove the image, raise new_size, or lower crop_image_height and crop_image_width."
        )
    return height - crop[0], width - crop[1]
