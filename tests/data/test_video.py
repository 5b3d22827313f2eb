"""Reading and writing of video files."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmunit.data import video as reading
from fastmunit.data import video_writer as writing
from fastmunit.data.opening import PixelLimitError
from fastmunit.data.video import AudioPacket, check_video, opened_video, upright
from fastmunit.data.video_writer import output_suffix
from fastmunit.errors import DataError, FastmunitError
from fastmunit.translation.videos import translate_video
from tests.data.videos import TIMES, frames_of, make_video, picture, sound_of

av = pytest.importorskip("av", reason="needs PyAV")


def unchanged(image: Tensor) -> tuple[Tensor, list[Tensor]]:
    return image, [image, -image]


def copied(source: Path, folder: Path, channels: int = 3, **options: Any) -> list[Path]:
    """Write a copy and a negative of a video."""
    suffix = output_suffix(source, options.get("lossless", False))
    targets = [folder / f"out{index}{suffix}" for index in range(2)]
    translate_video(source, channels, unchanged, targets, **options)
    return targets


def close_to(found: np.ndarray, expected: np.ndarray, mean: float = 6) -> bool:
    return found.shape == expected.shape and np.abs(found.astype(int) - expected.astype(int)).mean() < mean


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")]
)
def test_times_sound_and_aspect_are_kept(tmp_path: Path, name: str, codec: str) -> None:
    aspect = Fraction(1 if name.endswith("webm") else Fraction(4, 3))
    source = make_video(tmp_path / name, codec, aspect=aspect)
    targets = copied(source, tmp_path)
    before = frames_of(source)
    assert [float(time) for time, _ in before] == pytest.approx([time / 10_000 for time in TIMES], abs=1e-3)
    for target in targets:
        after = frames_of(target)
        assert target.suffix == source.suffix
        assert [time for time, _ in after] == [time for time, _ in before]
        assert sound_of(target) == sound_of(source)
        with av.open(str(target)) as container:
            assert container.streams.video[0].sample_aspect_ratio == aspect
            assert container.streams.audio[0].language == "fra"
    for (_, image), (_, negative), (_, original) in zip(
        frames_of(targets[0]), frames_of(targets[1]), before, strict=True
    ):
        assert close_to(image, original) and close_to(negative, 255 - original)


@pytest.mark.parametrize(("suffix", "lossless"), [(".webm", False), (".mkv", True)])
def test_pixels_that_an_encoder_cannot_describe_are_refused(tmp_path: Path, suffix: str, lossless: bool) -> None:
    source = make_video(tmp_path / "a.mkv", aspect=Fraction(4, 3))
    targets = [tmp_path / f"out{index}{suffix}" for index in range(2)]
    with pytest.raises(DataError, match=r"expected square pixels, got 4/3"):
        translate_video(source, 3, unchanged, targets, lossless=lossless)
    assert not list(tmp_path.glob("*out*"))


def test_lossless_outputs_are_exact(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", "ffv1", pixels="bgr0", size=(33, 21))
    first, _ = copied(source, tmp_path, lossless=True)
    for index, (_, image) in enumerate(frames_of(first)):
        assert (image == picture(index, 33, 21)).all()


@pytest.mark.parametrize("size", [(31, 48), (32, 47), (17, 17)])
def test_odd_sizes_are_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    source = make_video(tmp_path / "a.mp4", pixels="yuv444p", size=size)
    for (_, image), (_, original) in zip(frames_of(copied(source, tmp_path)[0]), frames_of(source), strict=True):
        assert close_to(image, original)


@pytest.mark.parametrize(
    ("rotation", "turn"),
    [
        ({"degrees": 90}, lambda image: np.rot90(image, 1)),
        ({"degrees": 180}, lambda image: np.rot90(image, 2)),
        ({"degrees": 270}, lambda image: np.rot90(image, 3)),
        ({"degrees": 0, "hflip": True}, lambda image: image[:, ::-1]),
        ({"degrees": 0, "vflip": True}, lambda image: image[::-1]),
    ],
)
def test_rotation_is_applied(
    tmp_path: Path, rotation: dict[str, Any], turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Outputs are upright and have no rotation. The aspect of pixels turns with them."""
    source = make_video(tmp_path / "a.mp4", rotation=rotation, sound=False, aspect=Fraction(4, 3))
    expected = turn(picture(0, 32, 48))
    info = check_video(source, (3, 3))
    assert (info.height, info.width, info.frames) == (*expected.shape[:2], len(TIMES))
    target = copied(source, tmp_path)[0]
    assert close_to(frames_of(target)[0][1], expected, mean=9)
    with av.open(str(target)) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        turned = expected.shape[0] == 48
        assert container.streams.video[0].sample_aspect_ratio == (Fraction(3, 4) if turned else Fraction(4, 3))


def test_all_display_matrices() -> None:
    """The matrix maps the place of each stored pixel to its place on the display."""
    image = torch.arange(6).view(1, 2, 3)
    for matrix in [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]:
        a, b, c, d = matrix
        places = {(a * x + c * y, b * x + d * y): int(image[0, y, x]) for y in range(2) for x in range(3)}
        shown = [places[place] for place in sorted(places, key=lambda place: (place[1], place[0]))]
        assert upright(image, matrix).flatten().tolist() == shown


def test_deep_gray_and_transparent_frames(tmp_path: Path) -> None:
    deep = make_video(tmp_path / "deep.mp4", pixels="yuv420p10le", sound=False)
    clear = make_video(tmp_path / "clear.mov", "png", pixels="rgba", source="rgba", sound=False)
    with opened_video(deep) as video:
        image = video.image(next(video.content()), 3)
        assert image.dtype == torch.float32 and image.shape == (3, 32, 48)
        assert close_to((image * 255).permute(1, 2, 0).numpy(), picture(0, 32, 48), mean=9)
    with opened_video(clear) as video:
        image = video.image(next(video.content()), 3).permute(1, 2, 0).numpy()
        assert (image[:, :24] == picture(0, 32, 48)[:, :24]).all() and (image[:, 24:] == 255).all()
    gray = copied(clear, tmp_path, channels=1)[0]
    image = frames_of(gray)[0][1].astype(int)
    assert np.abs(image - image[..., :1]).max() <= 2
    assert image[:16, :24].mean() == pytest.approx(0.299 * 230 + 0.587 * 30, abs=4)


def test_broadcasts_start_at_zero(tmp_path: Path) -> None:
    """Containers that are not written become .mkv, which has milliseconds."""
    source = make_video(tmp_path / "a.ts", form="mpegts")
    target = copied(source, tmp_path)[0]
    assert target.suffix == ".mkv"
    begin = min(frames_of(source)[0][0], sound_of(source)[0][1])
    assert [float(time) for time, _ in frames_of(target)] == pytest.approx(
        [float(time - begin) for time, _ in frames_of(source)], abs=1e-3
    )
    assert len(sound_of(target)) == len(sound_of(source))


def test_one_frame_at_a_time(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", times=range(0, 30_000, 1000))
    alive: list[weakref.ref[Tensor]] = []
    counts = []

    def counted(image: Tensor) -> tuple[Tensor, list[Tensor]]:
        counts.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(image))
        return image, [image.clone()]

    translate_video(source, 3, counted, [tmp_path / "out.mp4"])
    assert len(counts) == 30
    assert max(counts) <= 2  # the first frame, which is returned, and the one before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FastmunitError("no memory")])
def test_a_stop_leaves_nothing_new(tmp_path: Path, error: BaseException) -> None:
    source = make_video(tmp_path / "a.mp4")
    out = tmp_path / "out"
    out.mkdir()
    (out / "out0.mp4").write_text("before")
    calls = []

    def stopping(image: Tensor) -> tuple[Tensor, list[Tensor]]:
        calls.append(image)
        if len(calls) == 5:
            raise error
        return image, [image, image]

    with pytest.raises(type(error)):
        translate_video(source, 3, stopping, [out / f"out{index}.mp4" for index in range(2)])
    assert [path.name for path in out.iterdir()] == ["out0.mp4"]
    assert (out / "out0.mp4").read_text() == "before"


def test_nan_is_not_written(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4")
    with pytest.raises(DataError, match="contains NaN"):
        translate_video(source, 3, lambda image: (image, [image / 0 * 0]), [tmp_path / "out.mp4"])
    assert not (tmp_path / "out.mp4").exists()


def _truncated(path: Path, folder: Path) -> Path:
    content = path.read_bytes()
    cut = folder / f"cut{path.suffix}"
    cut.write_bytes(content[: len(content) // 2])
    return cut


def test_truncated_files(tmp_path: Path) -> None:
    slow = [3 * time for time in TIMES]
    whole = make_video(tmp_path / "a.mkv", "ffv1", pixels="bgr0", times=slow, sound=False)
    assert check_video(whole, (3, 3)).frames == 8
    with pytest.raises(DataError, match=r"cut.mkv ends after .* of 2.\d seconds, so it is truncated"):
        check_video(_truncated(whole, tmp_path), (3, 3))
    with pytest.raises(DataError, match=r"cut.mp4 is damaged or not a video"):
        check_video(_truncated(make_video(tmp_path / "a.mp4"), tmp_path), (3, 3))


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", "mpeg4", sound=False)
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    place = content.index(bytes(packets[4]))
    content[place + packets[4].size // 3 : place + packets[4].size] = bytes(packets[4].size - packets[4].size // 3)
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"a.mp4 is damaged after 0.30 seconds .*encode it again"):
        copied(source, tmp_path)
    assert not list(tmp_path.glob("*out*"))


def test_a_change_of_size_is_named(tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / f"{index}.ts", form="mpegts", size=size, sound=False)
        for index, size in enumerate([(32, 48), (48, 48)])
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(DataError, match=r"the size changes from 32x48 to 48x48 \(height x width\) after 0.70 seconds"):
        check_video(both, (3, 3))


def test_files_without_frames(tmp_path: Path) -> None:
    silent = tmp_path / "sound.mp4"
    with av.open(str(silent), "w") as container:
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        tone.rate = 48_000
        container.mux(audio.encode(tone))
        container.mux(audio.encode())
    with pytest.raises(DataError, match=r"sound.mp4 has no video stream"):
        check_video(silent, (3, 3))
    empty = make_video(tmp_path / "empty.mkv", times=())
    with pytest.raises(DataError, match=r"empty.mkv has no frames|empty.mkv is damaged"):
        check_video(empty, (3, 3))
    (tmp_path / "nothing.mp4").touch()
    with pytest.raises(DataError, match=r"nothing.mp4 is damaged or not a video"):
        check_video(tmp_path / "nothing.mp4", (3, 3))


PLAYLISTS = {
    "list.mp4": "ffconcat version 1.0\nfile 'secret.mp4'\n",
    "list.ts": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "list.mkv": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n",
    "list.mov": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.avi": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'></MPD>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_open_nothing(tmp_path: Path, name: str) -> None:
    make_video(tmp_path / "secret.mp4")
    make_video(tmp_path / "secret.ts", form="mpegts")
    (tmp_path / name).write_text(PLAYLISTS[name])
    with pytest.raises(DataError, match="is damaged or not a video that is read"):
        check_video(tmp_path / name, (3, 3))


def test_what_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name, what in (("pipe.mp4", "is a FIFO"), ("folder.mp4", "is a folder"), ("http:x.mp4", "does not exist")):
        with pytest.raises(DataError, match=what):
            check_video(tmp_path / name, (3, 3))


def test_limits(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4")
    assert check_video(source, (3, 1), max_pixels=32 * 48).frames == 8
    with pytest.raises(PixelLimitError, match="--max-pixels 1536"):
        check_video(source, (3, 3), max_pixels=32 * 48 - 1)
    with pytest.raises(DataError, match="expected a model of 1 or 3 channels, got one of 4"):
        check_video(source, (3, 4))


def test_arbitrary_bytes_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, options in (("a.mp4", {}), ("a.mkv", {}), ("a.ts", {"form": "mpegts"})):
        content = make_video(tmp_path / name, **options).read_bytes()
        for _ in range(15):
            damaged = np.frombuffer(content, np.uint8).copy()
            places = random.integers(0, len(damaged), 20)
            damaged[places] = random.integers(0, 256, 20)
            (tmp_path / f"bad{name}").write_bytes(damaged)
            with suppress(DataError):
                assert check_video(tmp_path / f"bad{name}", (3, 3), max_pixels=100_000).frames > 0


def test_without_h264_mpeg4_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / "a.mp4", unit=Fraction(1, 90_000), times=[9 * time for time in TIMES])
    absent = writing._Encoder("no_such_encoder", {})
    container = writing._Container("mp4", (absent, writing._H264[1]))
    monkeypatch.setitem(writing._CONTAINERS, ".mp4", container)
    target = copied(source, tmp_path)[0]
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    times = [[float(time) for time, _ in frames_of(path)] for path in (source, target)]
    assert times[1] == pytest.approx(times[0], abs=1e-4)
    monkeypatch.setitem(writing._CONTAINERS, ".mp4", writing._Container("mp4", (absent,)))
    with pytest.raises(DataError, match="this FFmpeg has no encoder no_such_encoder"):
        copied(source, tmp_path)


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    with pytest.raises(FastmunitError, match=r'pip install "fastmunit\[video\]"'):
        check_video(tmp_path / "a.mp4", (3, 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_processes_can_be_forked_after_a_video_was_read_and_written(tmp_path: Path) -> None:
    """A forked process removes the data of other threads: so fork in another thread, as loaders of batches do."""
    source = make_video(tmp_path / "a.mp4")
    copied(source, tmp_path)
    assert frames_of(source)
    ended: list[int] = []

    def fork() -> None:
        child = os.fork()
        if not child:
            os._exit(0)
        for _ in range(200):
            process, status = os.waitpid(child, os.WNOHANG)
            if process:
                ended.append(status)
                return
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    assert ended == [0], "the forked process waits without end"


def test_content_starts_with_a_frame(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", times=[time + 5000 for time in TIMES])
    with opened_video(source) as video:
        kinds = [isinstance(item, AudioPacket) for item in video.content()]
    assert not kinds[0] and sum(kinds) == len(sound_of(source))
