"""Reading and writing animated files: GIF, APNG, WebP, AVIF."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageSequence
from torch import Tensor

from fastmunit.data.images import pillow_planes
from fastmunit.data.opening import opened
from fastmunit.errors import DataError
from fastmunit.files import atomic_write, shown

SUFFIXES = {"GIF": ".gif", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif"}
"""The formats with animations, by Pillow's names, and their suffixes."""

_LOSSLESS: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}


class Animation(NamedTuple):
    """Frames of an animated file.

    Attributes:
        frames: Whole images, (C, H, W), each as `decode_image` gives a still one.
        durations: How long each is shown, in milliseconds.
        loop: How often they are shown, 0 for ever; None where the file does not say so.
        format: Pillow's name of the file's format.
    """

    frames: list[Tensor]
    durations: list[float]
    loop: int | None
    format: str


def animated_format(path: str | os.PathLike[str], max_pixels: int | None = None) -> str | None:
    """Return Pillow's name of the format of an animated file; None for a still image.

    Args:
        path: The file.
        max_pixels: The number of pixels of a frame above which a file is refused; None is Pillow's limit.

    Raises:
        DataError: The file is missing or damaged, or has too many pixels.
    """
    with opened(path, max_pixels) as image:
        frames = int(getattr(image, "n_frames", 1)) - _stills(image)
        return image.format if image.format in SUFFIXES and frames > 1 else None


def read_animation(path: str | os.PathLike[str], channels: int, max_pixels: int | None = None) -> Animation:
    """Read all frames of an animated file; a still image of an APNG that is not part of its animation is left out.

    Args:
        path: The file.
        channels: Of the frames, as in `decode_image`.
        max_pixels: As in `animated_format`.

    Raises:
        DataError: The file is missing or damaged, or has too many pixels.
    """
    with opened(path, max_pixels) as image:
        frames, durations = [], []
        for index, frame in enumerate(ImageSequence.Iterator(image)):
            frame.load()
            if index < _stills(image):
                continue
            frames.append(pillow_planes(frame, channels, path))
            durations.append(frame.info.get("duration", 0))
        loop = image.info.get("loop")
        return Animation(frames, durations, loop if isinstance(loop, int) else None, str(image.format))


def frame_bytes(image: Tensor, path: str | os.PathLike[str]) -> Tensor:
    """Return an image (C, H, W) in [-1, 1] as the uint8 that `save_animation` takes; values outside are clamped.

    Raises:
        DataError: The image holds NaN. `path` is the file that is named then.
    """
    if bool(image.isnan().any()):
        raise DataError(f"{shown(path)}: an output holds NaN and was not saved; the network that made it has diverged.")
    return image.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def save_animation(
    frames: Sequence[Tensor], path: str | os.PathLike[str], durations: Sequence[float], loop: int | None, form: str
) -> None:
    """Write frames (C, H, W), uint8, as an animated file, whole or not at all.

    Args:
        frames: Of 1, 3 or 4 channels: grey, RGB, RGBA.
        path: The file.
        durations: In milliseconds.
        loop: As in `Animation`.
        form: Pillow's name of the format.

    Raises:
        DataError: The format cannot hold the frames.
        FastmunitError: The file cannot be written.
    """
    target = Path(path)
    if frames[0].shape[0] not in (1, 3, 4):
        raise DataError(
            f"{shown(target)}: an animated file has 1, 3 or 4 channels, not {frames[0].shape[0]}: give its frames as "
            "still images."
        )
    pictures = [_picture(frame) for frame in frames]
    if form == "WEBP" and pictures[0].mode == "L":
        pictures = [picture.convert("RGB") for picture in pictures]
    options: dict[str, object] = dict(_LOSSLESS.get(form, {}))
    if loop is not None:
        options["loop"] = loop
    encoded = io.BytesIO()
    try:
        pictures[0].save(
            encoded, format=form, save_all=True, append_images=pictures[1:], duration=list(durations), **options
        )
    except (OSError, ValueError, KeyError) as error:  # such as a WebP of more than 16383 pixels
        reason = str(error) or type(error).__name__
        raise DataError(f"{shown(target)}: {form} cannot hold this animation ({reason}): use --size.") from error
    with atomic_write(target) as file:
        file.write(encoded.getbuffer())


def _picture(frame: Tensor) -> Image.Image:
    pixels = frame[0] if frame.shape[0] == 1 else frame.permute(1, 2, 0)
    return Image.fromarray(pixels.to(torch.uint8).contiguous().numpy())


def _stills(image: Image.Image) -> int:
    """Return how many of the first frames are not part of the animation."""
    return int(bool(image.info.get("default_image", False)))
