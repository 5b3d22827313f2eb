"""Writing of video files with PyAV, with the sound of the video that they are made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

from torch import Tensor

from fastmunit.data.video import AudioPacket, Video, VideoColors, conversion_options
from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable

# One number everywhere: what an encoder writes depends on it.
_THREADS = 4
# FFmpeg's numbers of the matrices that its scaler knows, and the number of each in the scaler.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
# The encoders that store the aspect of pixels. PyAV cannot set that of containers.
_ASPECT = ("libx264", "mpeg4")
_UNKNOWN, _BT601, _LIMITED = 2, 5, 1
_MAX_MPEG4_TICKS = 65535


class _Encoder(NamedTuple):
    """An encoder: FFmpeg's name, options, and pixel formats of even and of odd sizes."""

    name: str
    options: dict[str, str]
    even: str = "yuv420p"
    odd: str = "yuv420p"


class _Container(NamedTuple):
    """A file format: FFmpeg's name, and encoders in order of preference."""

    name: str
    encoders: tuple[_Encoder, ...]


_H264 = (
    _Encoder("libx264", {"crf": "18"}, odd="yuv444p"),  # 4:2:0 needs even sizes
    _Encoder("mpeg4", {"qmin": "2", "qmax": "4"}),
)
_VP9 = (_Encoder("libvpx-vp9", {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}),)
_FFV1 = (_Encoder("ffv1", {"level": "3"}, "bgr0", "bgr0"),)
_CONTAINERS = {
    ".mp4": _Container("mp4", _H264),
    ".m4v": _Container("mp4", _H264),
    ".mov": _Container("mov", _H264),
    ".mkv": _Container("matroska", _H264),
    ".webm": _Container("webm", _VP9),
}
_LOSSLESS = _Container("matroska", _FFV1)


def output_suffix(path: str | os.PathLike[str], lossless: bool) -> str:
    """Return the suffix of videos made from `path`: its own, or .mkv for lossless ones and for other containers."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in _CONTAINERS and not lossless else ".mkv"


class VideoWriter:
    """An encoder of frames into an open file. Made by `video_writer`.

    Args:
        path: The file, for messages and by its suffix the format.
        file: The open file.
        video: The video whose time stamps, pixel aspect, colors and audio streams are kept.
        shape: (height, width) of frames.
        lossless: Write FFV1, which keeps every value.

    Raises:
        DataError: If the container cannot hold an audio stream, or this FFmpeg lacks the encoders.
    """

    def __init__(self, path: Path, file: IO[bytes], video: Video, shape: tuple[int, int], lossless: bool) -> None:
        import av

        form = _LOSSLESS if lossless else _CONTAINERS[path.suffix]
        encoder = _available(form, path)
        if video.aspect != 1 and encoder.name not in _ASPECT:
            raise DataError(
                f"{printable(path)}: expected square pixels, got {video.aspect}, which {encoder.name} does not store: "
                "give the video as .mkv, without --lossless."
            )
        self._path, self._time_base, self._colors = path, video.time_base, video.colors
        self._container: Any = av.open(file, "w", format=form.name, buffer_size=1 << 20)
        self._stream: Any = self._container.add_stream(encoder.name, rate=video.rate)
        height, width = shape
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = encoder.odd if height % 2 or width % 2 else encoder.even
        self._stream.sample_aspect_ratio = video.aspect
        context = self._stream.codec_context
        context.options = encoder.options
        context.thread_count = _THREADS
        context.time_base = video.time_base
        if encoder.name == "mpeg4" and video.time_base.denominator > _MAX_MPEG4_TICKS:
            context.time_base = Fraction(1, 60_000)
        if not lossless:
            matrix = self._colors.matrix if self._colors.matrix in _MATRICES else _UNKNOWN
            self._colors = VideoColors(matrix, *self._colors[1:])
            context.colorspace, context.color_primaries, context.color_trc = self._colors
            context.color_range = _LIMITED
        self._audio = [self._copied(stream) for stream in video.audio]

    def write(self, image: Tensor, source: Any) -> None:
        """Encode an image of uint8, (1, H, W) or (3, H, W), at the time of a frame of the original video."""
        import av

        pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        matrix = _MATRICES.get(self._colors.matrix, _BT601)
        if self._stream.pix_fmt.startswith("yuv"):
            options = {"dst_colorspace": matrix, "dst_color_range": _LIMITED, **conversion_options()}
            frame = frame.reformat(format=self._stream.pix_fmt, **options)
        frame.pts, frame.time_base, frame.duration = source.pts, self._time_base, source.duration
        self._container.mux(self._stream.encode(frame))

    def copy(self, sound: AudioPacket) -> None:
        """Write a packet of sound as it is."""
        # The packet keeps the unit of its time stamps, which is the same in all files that it is written to.
        sound.packet.stream = self._audio[sound.stream]
        self._container.mux(sound.packet)

    def finish(self) -> None:
        """Write what the encoder holds back, and the index."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def abort(self) -> None:
        """Close the file, which is not valid then."""
        with suppress(Exception):
            self._container.close()

    def _copied(self, stream: Any) -> Any:
        try:
            copied = self._container.add_stream_from_template(stream)
        except ValueError as error:
            raise DataError(
                f"{printable(self._path)} cannot hold the sound of the video ({error}): convert the sound, or the "
                "video to .mkv."
            ) from error
        if "language" in stream.metadata:
            copied.metadata["language"] = stream.metadata["language"]
        return copied


@contextmanager
def video_writer(path: Path, video: Video, shape: tuple[int, int], lossless: bool) -> Iterator[VideoWriter]:
    """Write a video file atomically: it appears under its name when the block succeeds.

    See `VideoWriter` for the arguments.

    Raises:
        DataError: If `VideoWriter` raises, or the encoder fails.
        FastmunitError: If the file cannot be written.
    """
    import av

    with atomic_write(path) as file:
        writer: VideoWriter | None = None
        try:
            writer = VideoWriter(path, file, video, shape, lossless)
            yield writer
            writer.finish()
        except av.FFmpegError as error:
            raise DataError(f"{printable(path)} cannot be encoded ({error.strerror}): use another --size.") from error
        finally:
            if writer is not None:
                writer.abort()


def _available(form: _Container, path: Path) -> _Encoder:
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    for encoder in form.encoders:
        with suppress(UnknownCodecError):
            Codec(encoder.name, "w")
            return encoder
    names = " or ".join(encoder.name for encoder in form.encoders)
    raise DataError(f"{printable(path)}: this FFmpeg has no encoder {names}: pip install av has them.")
