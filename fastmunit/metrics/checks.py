"""What every measure asks of its images."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmunit.errors import DataError


def check_images(images: Tensor, measure: str, least: int = 1) -> None:
    """Check a batch of images.

    Args:
        images: should be (N, 3, H, W), floating point, finite, N at least 1.
        measure: its name, for the message.
        least: sides may not be smaller.

    Raises:
        DataError: they are not.
    """
    if images.ndim != 4 or images.shape[0] == 0:
        raise DataError(f"{measure} takes images (N, 3, H, W) with N at least 1, got shape {tuple(images.shape)}.")
    if images.shape[1] != 3:
        kind = "grey images (1 channel)" if images.shape[1] == 1 else f"images of {images.shape[1]} channels"
        raise DataError(f"{measure} takes RGB images, got {kind}: make them RGB, for example x.expand(-1, 3, -1, -1).")
    if not images.is_floating_point():
        raise DataError(f"{measure} takes floating point images in [-1, 1], got {images.dtype}: convert them.")
    height, width = images.shape[2:]
    if min(height, width) < least:
        raise DataError(f"{measure} needs sides of at least {least} pixels, got {height}x{width}: resize the images.")
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{measure} got images with NaN or infinite values: the network that made them has diverged.")


def check_pair(x: Tensor, y: Tensor, measure: str) -> None:
    """Check that two batches have one shape. Raises DataError when they do not."""
    if x.shape != y.shape:
        raise DataError(f"{measure} compares images of one size, got {tuple(x.shape)} and {tuple(y.shape)}: resize.")
