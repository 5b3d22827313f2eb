"""Sample grids: the display images and their translations as one picture."""

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
    """Draw the grids of `trainer.sample`, without touching the random streams that training uses.

    Args:
        trainer: the system.
        x_a: display images of domain A (display_size, C, H, W) in [-1, 1] on the trainer's device.
        x_b: those of domain B.
        seed: of the new styles; the same seed makes grids of different moments comparable.

    Returns:
        Direction → uint8 (3, height, width): a row for each of the results of `sample`, one column an image.
    """
    outputs = trainer.sample(x_a, x_b, torch.Generator().manual_seed(seed))
    rows = len(outputs) // len(trainer.directions)
    return {
        direction: grid(outputs[index * rows : (index + 1) * rows])
        for index, direction in enumerate(trainer.directions)
    }


def grid(rows: Sequence[Tensor | Sequence[Tensor]], gap: int = 2, background: int = 215) -> Tensor:
    """Lay out rows of images (N, C, H, W) in [-1, 1], mapped by (x+1)/2, as one uint8 picture (3, height, width).

    Grey images become RGB; of images with other channel counts the first three channels (or the first) are shown. Every
    cell has the size of the largest image; smaller ones lie in its top left corner.
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
    """One image (C, H, W) in [-1, 1] as uint8 RGB (3, H, W)."""
    image = image.detach().float().cpu()
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pil(picture: Tensor) -> Image.Image:
    """uint8 (3, H, W) as a PIL image."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def save(picture: Tensor, path: Path) -> None:
    """Write a uint8 (3, H, W) picture as JPEG or PNG, by the suffix, whole or not at all."""
    with atomic_write(path) as file:
        if path.suffix.lower() == ".png":
            to_pil(picture).save(file, format="PNG")
        else:
            to_pil(picture).save(file, format="JPEG", quality=95)


def jpeg(picture: Tensor | Path, max_width: int = 1600) -> bytes:
    """A picture as JPEG bytes no wider than `max_width` pixels."""
    if isinstance(picture, Path):
        with opened(picture, max_pixels=sys.maxsize) as stored:  # of this run, whatever the number of its images
            image = stored.convert("RGB")
    else:
        image = to_pil(picture)
    if image.width > max_width:
        height = max(1, round(image.height * max_width / image.width))
        image = image.resize((max_width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
