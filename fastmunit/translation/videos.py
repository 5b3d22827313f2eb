"""Translate a video into one video per style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from fastmunit.data.animation import frame_bytes, frame_input
from fastmunit.data.value_range import PixelValues
from fastmunit.data.video import AudioPacket, opened_video
from fastmunit.data.video_writer import VideoWriter, video_writer

MAX_ENCODERS = 16
"""Number of videos written at the same time. More styles are more passes over the video."""


def translate_video(
    path: Path,
    channels: int,
    outputs_of: Callable[[Tensor], tuple[Tensor, list[Tensor]]],
    targets: Sequence[Path],
    *,
    values: PixelValues | None = None,
    max_pixels: int | None = None,
    lossless: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Tensor, list[Tensor]]:
    """Translate each frame of a video by itself, and write one video per style with the sound of the original.

    One frame with its outputs is in memory at a time, and what the encoders hold back, whatever the length.

    Args:
        path: The video.
        channels: Number of channels of frames.
        outputs_of: Maps a frame (C, H, W) in [-1, 1] to an image and its outputs, one per target, all of the same size.
        targets: Files to write. They appear under their names when all are complete.
        values: How pixels are read. None is without a value range.
        max_pixels: Maximum number of pixels per frame. None is Pillow's limit.
        lossless: Write FFV1, which keeps every value.
        advance: Called after each frame.

    Returns:
        The first image and its outputs.

    Raises:
        DataError: If the video cannot be read, an output contains NaN, or an encoder fails.
        FastmunitError: If a file cannot be written.
    """
    first: tuple[Tensor, list[Tensor]] | None = None
    writers: list[VideoWriter] = []
    with opened_video(path, max_pixels) as video, ExitStack() as files:
        for item in video.content():
            if isinstance(item, AudioPacket):
                for writer in writers:
                    writer.copy(item)
                continue
            image, outputs = outputs_of(frame_input(video.image(item, channels), values or PixelValues(), path))
            if first is None:
                first = image, outputs
                height, width = outputs[0].shape[1:]
                for target in targets:
                    writers.append(files.enter_context(video_writer(target, video, (height, width), lossless)))
            for output, writer in zip(outputs, writers, strict=True):
                writer.write(frame_bytes(output, path), item)
            advance()
    assert first is not None
    return first
