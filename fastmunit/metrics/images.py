"""Batches of images: checks, conversion to RGB, and evenly spaced indices."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmunit.errors import DataError


def check_images(images: Tensor, measure: str, min_side: int = 1) -> None:
    """Check that images are (N, 3, H, W) with N at least 1, floating point and finite.

    Args:
        images: Images to check.
        measure: Name of the measure, for the message.
        min_side: Smallest allowed height and width.

    Raises:
        DataError: If they are not.
    """
    if images.ndim != 4 or images.shape[0] == 0:
        raise DataError(f"{measure}: expected images (N, 3, H, W) with N at least 1, got shape {tuple(images.shape)}.")
    if images.shape[1] != 3:
        kind = "gray images (1 channel)" if images.shape[1] == 1 else f"images of {images.shape[1]} channels"
        raise DataError(f"{measure}: expected RGB images, got {kind}: use for example x.expand(-1, 3, -1, -1).")
    if not images.is_floating_point():
        raise DataError(f"{measure}: expected floating point images in [-1, 1], got {images.dtype}: convert them.")
    height, width = images.shape[2:]
    if min(height, width) < min_side:
        raise DataError(
            f"{measure}: expected sides of at least {min_side} pixels, got {height}x{width}: resize the images."
        )
    require_finite(images, measure)


def require_finite(images: Tensor, measure: str) -> None:
    """Raise DataError, with the name of a measure, if images have NaN or infinite values."""
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{measure} got images with NaN or infinite values: the network that made them has diverged.")


def check_same_shape(x: Tensor, y: Tensor, measure: str) -> None:
    """Raise DataError if two batches of images have different shapes."""
    if x.shape != y.shape:
        raise DataError(f"{measure}: expected images of one shape, got {tuple(x.shape)} and {tuple(y.shape)}: resize.")


def rgb(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) with three channels: gray ones are repeated."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def evenly_spaced(count: int, max_count: int) -> list[int]:
    """Return at most `max_count` of the numbers below `count`, evenly spaced."""
    chosen = min(count, max_count)
    return [k * count // chosen for k in range(chosen)]
