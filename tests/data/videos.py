"""Small videos for tests. The caller has made sure that PyAV is installed."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fastmunit.data.video import conversion_options

TIMES = (0, 1100, 2200, 3000, 4000, 5300, 6000, 7000)
"""Time stamps of a variable frame rate, in units of 1/10000 second."""


def picture(index: int, height: int, width: int) -> np.ndarray:
    """Return a picture (H, W, 3) of uint8 whose top left quarter is red, and whose blue depends on the index."""
    pixels = np.full((height, width, 3), (40, 160, 20 * index % 256), np.uint8)
    pixels[: height // 2, : width // 2] = (230, 30, 20 * index % 256)
    return pixels


def make_video(
    path: Path,
    codec: str = "libx264",
    form: str | None = None,
    size: tuple[int, int] = (32, 48),
    pixels: str = "yuv420p",
    times: Sequence[int] = TIMES,
    aspect: Fraction = Fraction(1),
    sound: bool = True,
    source: str = "rgb24",
    rotation: dict[str, Any] | None = None,
    unit: Fraction = Fraction(1, 10_000),
) -> Path:
    """Write a video of (height, width) with one frame per time stamp, and a tone."""
    import av

    height, width = size
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        stream.codec_context.time_base, stream.sample_aspect_ratio = unit, aspect
        if rotation is not None:
            stream.set_display_rotation(**rotation)
        if sound:
            audio = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48_000, layout="mono")
            audio.metadata["language"] = "fra"
            for start in range(0, 36_000, 1024):
                wave = np.sin(np.arange(start, start + 1024) / 20, dtype=np.float32)[None]
                tone = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                tone.rate, tone.pts = 48_000, start
                container.mux(audio.encode(tone))
            container.mux(audio.encode())
        for index, time in enumerate(times):
            image = picture(index, height, width)
            if source == "rgba":
                alpha = np.zeros_like(image[..., :1])
                alpha[:, : width // 2] = 255
                image = np.concatenate([image, alpha], 2)
            frame = av.VideoFrame.from_ndarray(image, format=source)
            frame.pts, frame.time_base = time, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sound_of(path: Path) -> list[tuple[bytes, Fraction]]:
    """Return the packets of the first audio stream and their times in seconds."""
    import av

    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return [(bytes(packet), packet.pts * packet.time_base) for packet in packets if packet.size]


def frames_of(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Return the times in seconds and the pixels (H, W, 3) of all frames, as they are stored."""
    import av

    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24", **conversion_options()))
            for frame in container.decode(video=0)
        ]
