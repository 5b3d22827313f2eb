"""Sample grids: display images and their translations in one picture."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fastmunit.data.opening import opened
from fastmunit.files import atomic_write
from fastmunit.systems.base import System


def sample_grids(trainer: System, x_a: Tensor, x_b: Tensor, seed: int) -> dict[str, Tensor]:
    """Draw the results of `trainer.sample`, without touching the random states of the training.

    Args:
        trainer: The system.
        x_a: Display images of domain A (display_size, C, H, W) in [-1, 1] on the trainer's device.
        x_b: Display images of domain B.
        seed: Seed of the random styles. The same seed makes grids of different iterations comparable.

    Returns:
        One grid per direction, uint8 (3, height, width), with one row per result of `sample` and one column per image.
    """
    outputs = trainer.sample(x_a, x_b, torch.Generator().manual_seed(seed))
    rows = len(outputs) // len(trainer.directions)
    return {
        direction: grid(outputs[index * rows : (index + 1) * rows])
        for index, direction in enumerate(trainer.directions)
    }


def grid(rows: Sequence[Tensor | Sequence[Tensor]], gap: int = 2, background: int = 215) -> Tensor:
    """Lay out rows of images (N, C, H, W) in [-1, 1] as one uint8 picture (3, height, width).

    Values are mapped by (x + 1) / 2. Gray images become RGB. Images with two channels show the first one, and larger
    ones the first three. Every cell has the size of the largest image; smaller ones are in its top left.
    """
    pictures = [[to_rgb(image) for image in row] for row in rows]
    height = max(image.shape[1] for row in pictures for image in row)
    width = max(image.shape[2] for row in pictures for image in row)
    columns = max(len(row) for row in pictures)
    canvas = torch.full(
        (3, len(pictures) * (height + gap) + gap, columns * (width + gap) + gap), background, dtype=torch.uint8
    )
    for r, row in enumerate(pictures):
        for c, image in enumerate(row):
            top, left = gap + r * (height + gap), gap + c * (width + gap)
            canvas[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return canvas


def to_rgb(image: Tensor) -> Tensor:
    """Convert an image (C, H, W) in [-1, 1] to uint8 RGB (3, H, W)."""
    image = image.detach().float().cpu()
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pil(picture: Tensor) -> Image.Image:
    """Convert a uint8 tensor (3, H, W) to a PIL image."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def save(picture: Tensor, path: Path) -> None:
    """Write a uint8 picture (3, H, W) as JPEG or PNG, depending on the suffix. The write is atomic."""
    with atomic_write(path) as file:
        if path.suffix.lower() == ".png":
            to_pil(picture).save(file, format="PNG")
        else:
            to_pil(picture).save(file, format="JPEG", quality=95)


def jpeg(picture: Tensor | Path, max_width: int = 1600) -> bytes:
    """Encode a picture as JPEG, at most `max_width` pixels wide."""
    if isinstance(picture, Path):
        with opened(picture, max_pixels=sys.maxsize) as stored:  # written by this run, however large
            image = stored.convert("RGB")
    else:
        image = to_pil(picture)
    if image.width > max_width:
        height = max(1, round(image.height * max_width / image.width))
        image = image.resize((max_width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
