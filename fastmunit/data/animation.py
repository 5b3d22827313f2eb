"""Reading and writing of animated files: GIF, APNG, WebP and AVIF."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageSequence
from torch import Tensor

from fastmunit.data.images import normalize, pillow_planes
from fastmunit.data.memory_limit import memory_excess
from fastmunit.data.opening import opened
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable

SUFFIXES = {"GIF": ".gif", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif"}
"""Animated formats, as Pillow names them, and their suffixes."""

_LOSSLESS: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}


class Animation(NamedTuple):
    """The frames of an animated file.

    Attributes:
        frames: Complete images (C, H, W), each like the result of `decode_image`.
        durations: Duration of each frame in milliseconds.
        loop: Number of repetitions, 0 for infinite, or None if the file does not specify it.
        format: Name of the format in Pillow.
    """

    frames: list[Tensor]
    durations: list[float]
    loop: int | None
    format: str


def animated_format(path: str | os.PathLike[str], max_pixels: int | None = None) -> str | None:
    """Return the name of the format of an animated file in Pillow, or None for a still image.

    Args:
        path: File to read.
        max_pixels: Maximum number of pixels per frame. None is Pillow's limit.

    Raises:
        DataError: If the file is missing or damaged, or has too many pixels.
    """
    with opened(path, max_pixels) as image:
        frames = int(getattr(image, "n_frames", 1)) - _stills(image)
        return image.format if image.format in SUFFIXES and frames > 1 else None


def read_animation(path: str | os.PathLike[str], channels: int, max_pixels: int | None = None) -> Animation:
    """Read all frames of an animated file, without the still image of an APNG that is not part of its animation.

    Args:
        path: File to read.
        channels: Number of channels to convert frames to; see `decode_image`.
        max_pixels: Maximum number of pixels per frame. None is Pillow's limit.

    Raises:
        DataError: If the file is missing or damaged, or has too many pixels.
    """
    with opened(path, max_pixels) as image:
        _require_memory(image, channels, path)
        frames, durations = [], []
        for index, frame in enumerate(ImageSequence.Iterator(image)):
            frame.load()
            if index < _stills(image):
                continue
            frames.append(pillow_planes(frame, channels, path))
            durations.append(frame.info.get("duration", 0))
        loop = image.info.get("loop")
        return Animation(frames, durations, loop if isinstance(loop, int) else None, str(image.format))


def _require_memory(image: Image.Image, channels: int, path: str | os.PathLike[str]) -> None:
    """Raise DataError if all frames do not fit in memory, with as many outputs. A frame may take 25 bytes of a file."""
    frames = int(getattr(image, "n_frames", 1))
    if excess := memory_excess(2 * frames * image.height * image.width * channels):
        raise DataError(
            f"{printable(path)} has {frames:,} frames of {image.height} x {image.width} pixels, which need {excess}: "
            "give fewer frames, or a video."
        )


def require_frames(path: str | os.PathLike[str], values: PixelValues) -> None:
    """Raise DataError if images of a domain are slices with neighbors, which frames are not."""
    if values.slices > 1:
        raise DataError(
            f"{printable(path)} has frames, and the model takes {values.slices} neighboring slices of a volume: give a "
            "volume, or still images."
        )


def frame_input(frame: Tensor, values: PixelValues, path: str | os.PathLike[str]) -> Tensor:
    """Map a frame to [-1, 1] with the value range of its domain.

    Args:
        frame: Frame (C, H, W), uint8 or float32 in [0, 1].
        values: How pixels are read.
        path: The file, for messages.

    Raises:
        DataError: If the frame has more than 8 bits, and the range is another one than [0, 255].
    """
    if values.range is None or values.are_bytes:
        return normalize(frame)
    if frame.dtype != torch.uint8:
        raise DataError(
            f"{printable(path)} has frames of more than 8 bits, and value_range{values.keys} is for stored values: "
            "convert it to 8 bits, or give its frames as images."
        )
    return values.range.to_network(frame)


def frame_bytes(image: Tensor, path: str | os.PathLike[str]) -> Tensor:
    """Convert an image (C, H, W) in [-1, 1] to uint8 for `save_animation`. Other values are clamped.

    Raises:
        DataError: If the image contains NaN. The message names `path`.
    """
    if bool(image.isnan().any()):
        raise DataError(f"{printable(path)}: an output contains NaN and was not saved: the network has diverged.")
    return image.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def save_animation(
    frames: Sequence[Tensor], path: str | os.PathLike[str], durations: Sequence[float], loop: int | None, form: str
) -> None:
    """Write an animated file atomically.

    Args:
        frames: uint8 images (C, H, W) with 1 (gray), 3 (RGB) or 4 (RGBA) channels.
        path: File to write.
        durations: Duration of each frame in milliseconds.
        loop: Number of repetitions, 0 for infinite, or None to leave it out.
        form: Name of the format in Pillow.

    Raises:
        DataError: If the format cannot store the frames.
        FastmunitError: If the file cannot be written.
    """
    target = Path(path)
    if frames[0].shape[0] not in (1, 3, 4):
        raise DataError(
            f"{printable(target)}: an animated file has 1, 3 or 4 channels, got {frames[0].shape[0]}: give its frames "
            "as still images."
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
        raise DataError(f"{printable(target)}: {form} cannot store this animation ({reason}): use --size.") from error
    with atomic_write(target) as file:
        file.write(encoded.getbuffer())


def _picture(frame: Tensor) -> Image.Image:
    pixels = frame[0] if frame.shape[0] == 1 else frame.permute(1, 2, 0)
    return Image.fromarray(pixels.to(torch.uint8).contiguous().numpy())


def _stills(image: Image.Image) -> int:
    """Return the number of leading frames that are not part of the animation."""
    return int(bool(image.info.get("default_image", False)))
