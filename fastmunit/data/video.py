"""Reading of video files, frame by frame, with PyAV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmunit.data.images import deep_planes, pillow_planes
from fastmunit.data.opening import pillow_settings, require_pixels
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import printable, require_regular_file
from fastmunit.memory import is_out_of_memory

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

_OTHERS = {".3gp", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv", ".flv", ".wmv"}
SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"} | _OTHERS)
"""Suffixes of the files that are read as videos."""

# These read one file and nothing else. Playlists and lists of files are not among them.
_DEMUXERS = "mov,matroska,avi,mpegts,mpeg,ogg,flv,asf"
_CHANNELS = (1, 3)
_MAX_MISSING = 1
"""Seconds that may be missing at the end, by the duration in the header of a Matroska file."""


class VideoInfo(NamedTuple):
    """The upright size of a video in pixels, and its number of frames."""

    height: int
    width: int
    frames: int


class VideoColors(NamedTuple):
    """The matrix, primaries and transfer characteristics of a video, as FFmpeg numbers them."""

    matrix: int
    primaries: int
    transfer: int


class AudioPacket(NamedTuple):
    """Encoded sound: the number of its audio stream, and the packet."""

    stream: int
    packet: Packet


Content: TypeAlias = "VideoFrame | AudioPacket"


def is_video(path: str | os.PathLike[str]) -> bool:
    """Return True if the suffix of a file is that of a video."""
    return Path(path).suffix.lower() in SUFFIXES


def require_packages() -> None:
    """Raise FastmunitError if the package of the extra `video` is missing."""
    if find_spec("av") is None:
        raise FastmunitError('videos need the package av (PyAV): pip install "fastmunit[video]".')


def check_video(path: str | os.PathLike[str], channels: tuple[int, int], max_pixels: int | None = None) -> VideoInfo:
    """Decode a whole video, so that one which cannot be translated is refused before hours of work.

    Args:
        path: File to read.
        channels: Numbers of channels that the model takes and returns.
        max_pixels: Maximum number of pixels per frame. None is Pillow's limit.

    Raises:
        DataError: If `opened_video` or the `content` of the video raises, or frames have other numbers of channels.
        FastmunitError: If PyAV is not installed.
    """
    for count in channels:
        if count not in _CHANNELS:
            raise DataError(
                f"video {printable(path)}: expected a model of 1 or 3 channels, got one of {count}: give the frames as "
                "a folder of images."
            )
    with opened_video(path, max_pixels) as video:
        frames = sum(not isinstance(item, AudioPacket) for item in video.content())
        return VideoInfo(video.height, video.width, frames)


def conversion_options() -> dict[str, Any]:
    """Return arguments for the methods of PyAV's frames that convert pixels.

    PyAV 19 keeps a converter per thread. If it has threads of its own, a forked process waits for them
    without end when it removes the data of the threads that it does not have. A DataLoader forks its workers.
    """
    return {"threads": 1} if _pyav_version() >= 17 else {}


def _pyav_version() -> int:
    import av

    return int(av.__version__.split(".")[0])


@contextmanager
def opened_video(path: str | os.PathLike[str], max_pixels: int | None = None) -> Iterator[Video]:
    """Open a video file. Nothing but this file is read: no network, no playlist, no other file.

    Args:
        path: File to open.
        max_pixels: Maximum number of pixels per frame. None is Pillow's limit.

    Raises:
        PixelLimitError: If frames have too many pixels.
        DataError: If the file is missing, is not a regular file, is damaged, or has no video stream.
        FastmunitError: If PyAV is not installed.
    """
    require_packages()
    import av

    require_regular_file(path, "video", DataError)
    with pillow_settings.applied(max_pixels) as limit:
        pass
    # Decoders allocate for larger sizes than those of pictures.
    bounded = {"max_pixels": str(int(min(4 * limit + 2**20, 2**31 - 1)))}
    # PyAV 19 has no choice of what happens to metadata that are not UTF-8.
    lenient: dict[str, Any] = {"metadata_errors": "replace"} if _pyav_version() < 19 else {}
    with Path(path).open("rb") as file:
        with _reading(path):
            container = av.open(
                file,
                "r",
                options=bounded,
                container_options={"format_whitelist": _DEMUXERS},
                **lenient,
                buffer_size=1 << 20,
                io_open=_no_other_file,
            )
        with container:
            yield Video(Path(path), container, limit, bounded)


class Video:
    """An open video file: one video stream, and any number of audio streams.

    Attributes:
        height, width: Upright size in pixels. Known with the first frame.
        aspect: Width of an upright pixel divided by its height. Known with the first frame.
        time_base: Unit of the time stamps of frames, in seconds.
        rate: Mean number of frames per second.
        colors: How colors are stored.
        audio: Audio streams, for copies of them.

    Args:
        path: The file, for messages.
        container: The container of PyAV.
        limit: Maximum number of pixels per frame.
        options: Options of the decoder.

    Raises:
        PixelLimitError: If frames have too many pixels.
        DataError: If there is no video stream, or FFmpeg cannot decode it.
    """

    def __init__(self, path: Path, container: Any, limit: float, options: dict[str, str]) -> None:
        self._path, self._container = path, container
        from av.stream import Disposition

        pictures = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not pictures:
            raise DataError(f"video {printable(path)} has no video stream: give another file.")
        self._stream = pictures[0]
        decoder = self._stream.codec_context
        if decoder is None or not decoder.width:
            raise DataError(
                f"video {printable(path)}: this FFmpeg cannot decode its video stream: convert it to H.264."
            )
        self._stored = decoder.height, decoder.width
        require_pixels(f"video {printable(path)}", decoder.height * decoder.width, limit)
        decoder.options = {**options, "err_detect": "explode"}  # otherwise damaged parts are filled in silently
        self.audio: list[Any] = list(container.streams.audio)
        self.time_base: Fraction = self._stream.time_base
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self._matrix = (1, 0, 0, 1)
        self.height, self.width = self._stored
        self.aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        self.colors = _colors(decoder)
        # Time stamps of broadcasts start anywhere. Sound may start before zero, with samples that are not heard.
        begin = Fraction(container.start_time or 0, 1_000_000)
        self._start = begin if begin > 0 else min(Fraction(0), (self._stream.start_time or 0) * self.time_base)

    def content(self) -> Iterator[Content]:
        """Yield frames in order of time, and packets of sound between them. Can be called once.

        A frame comes first. Time stamps of frames increase from zero or more; sound may start before zero.

        Raises:
            DataError: If the decoder reports a damaged frame, a frame is of another size than the first one, the file
                ends early, or there are no frames.
        """
        packets = self._container.demux(self._stream, *self.audio)
        numbers = {stream.index: number for number, stream in enumerate(self.audio)}
        last_sound: dict[int, int] = {}
        early: list[AudioPacket] = []
        last, end = -1, Fraction(0)
        while True:
            with _reading(self._path, last, self.time_base):
                packet = next(packets, None)
                if packet is None:
                    break
                if packet.pts is not None:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                number = numbers.get(packet.stream_index) if packet.size else None
                frames = packet.decode() if packet.stream is self._stream else []
                if any(frame.is_corrupt for frame in frames):
                    raise ValueError("a frame has missing parts")
            if number is not None and packet.dts is not None and packet.dts > last_sound.get(number, packet.dts - 1):
                last_sound[number] = packet.dts
                shift = round(self._start / packet.time_base)
                packet.dts -= shift
                packet.pts = None if packet.pts is None else packet.pts - shift
                sound = AudioPacket(number, packet)
                if last < 0:
                    early.append(sound)
                else:
                    yield sound
            for frame in frames:
                self._check(frame, last)
                pts = last + 1 if frame.pts is None else frame.pts - round(self._start / self.time_base)
                frame.pts = last = max(pts, last + 1)
                yield frame
                yield from early
                early = []
        if last < 0:
            raise DataError(f"video {printable(self._path)} has no frames: give another file.")
        declared = Fraction(self._container.duration or 0, 1_000_000)
        if "matroska" in self._container.format.name and end - self._start < declared - _MAX_MISSING:
            raise DataError(
                f"video {printable(self._path)} ends after {float(end):.1f} of {float(declared):.1f} seconds, so it is "
                "truncated: copy it again, or cut it with ffmpeg -i FILE -c copy NEW_FILE."
            )

    def image(self, frame: VideoFrame, channels: int) -> Tensor:
        """Return a frame as an upright image (C, H, W): uint8, or float32 in [0, 1] for more than 8 bits.

        Conversion is that of `decode_image`: gray for 1 channel, RGB for 3, with transparent parts blended with white.
        """
        parts = frame.format.components
        alpha, deep = any(part.is_alpha for part in parts), any(part.bits > 8 for part in parts)
        if deep:
            pixels = frame.to_ndarray(format="rgba64le" if alpha else "rgb48le", **conversion_options())
            planes = deep_planes(pixels, channels)
        else:
            picture = Image.fromarray(frame.to_ndarray(format="rgba" if alpha else "rgb24", **conversion_options()))
            planes = pillow_planes(picture, channels, self._path)
        return upright(planes, self._matrix)

    def _check(self, frame: VideoFrame, last: int) -> None:
        """Check the size of a frame. Read the display matrix of the first one."""
        if last < 0 and (stored := _display_matrix(frame)) != self._matrix:
            self._matrix = stored
            if stored[0] == 0:
                self.height, self.width = self._stored[::-1]
                self.aspect = 1 / self.aspect
        if (frame.height, frame.width) != self._stored:
            raise DataError(
                f"video {printable(self._path)}: the size changes from {self._stored[0]}x{self._stored[1]} to "
                f"{frame.height}x{frame.width} (height x width){_after(last, self.time_base)}: cut it there, and give "
                "both parts."
            )


def upright(image: Tensor, matrix: tuple[int, int, int, int]) -> Tensor:
    """Apply a display matrix to an image (C, H, W).

    Args:
        image: Image as it is stored.
        matrix: Signs (a, b, c, d): a stored pixel (x, y) is shown at (a x + c y, b x + d y). Either a and d are 0, or b
            and c are.
    """
    a, b, c, d = matrix
    if a == 0:
        image, (a, d) = image.transpose(1, 2), (c, b)
    axes = [axis for axis, sign in ((2, a), (1, d)) if sign < 0]
    return torch.flip(image, axes) if axes else image


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the signs of a frame's display matrix for `upright`; angles between quarter turns are rounded to one."""
    from av.sidedata.sidedata import Type

    stored = frame.side_data.get(Type.DISPLAYMATRIX)
    if stored is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(stored), np.int32)[:5].tolist()
    if abs(a) >= abs(b):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def _colors(decoder: Any) -> VideoColors:
    if decoder.format is not None and decoder.format.is_rgb:
        return VideoColors(1, 1, 1)  # BT.709
    return VideoColors(decoder.colorspace, decoder.color_primaries, decoder.color_trc)


def _no_other_file(url: str, _flags: int, _options: dict[str, str]) -> None:
    raise PermissionError(f"it refers to another file, {url[:100]}")


def _after(last: int, time_base: Fraction) -> str:
    return f" after {float(last * time_base):.2f} seconds" if last >= 0 else ""


@contextmanager
def _reading(path: str | os.PathLike[str], last: int = -1, time_base: Fraction = Fraction(1)) -> Iterator[None]:
    """Convert any exception inside the block to DataError. `last` is the time stamp of the latest frame."""
    try:
        yield
    except Exception as error:  # demuxers and decoders may raise anything for arbitrary bytes
        name = f"video {printable(path)}"
        if is_out_of_memory(error):
            raise DataError(f"{name} does not fit in memory: make it smaller.") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if last < 0:
            raise DataError(f"{name} is damaged or not a video that is read ({reason}): give another file.") from error
        raise DataError(
            f"{name} is damaged{_after(last, time_base)} ({reason}): encode it again, for example with "
            "ffmpeg -i FILE NEW_FILE, which fills in what is missing."
        ) from error
