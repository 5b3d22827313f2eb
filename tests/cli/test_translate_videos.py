"""`fastmunit translate` with videos, and with images as the frames of a sequence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastmunit.config import Config
from fastmunit.data import video as reading
from fastmunit.data.animation import frame_input
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.errors import DataError
from fastmunit.translation.inputs import Input, Limits, checked_inputs, in_order_of_frames
from fastmunit.translation.translate import load_translator
from fastmunit.translation.translate import translate as translate_in_python
from tests.cli.conftest import Command
from tests.cli.test_translate import picture, pixels
from tests.cli.test_translate_files import names, translated
from tests.data.videos import frames_of, make_video, sound_of


def test_frames_keep_one_style(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """Every frame of an output is the translation of that frame as an image, with the style of the output."""
    pytest.importorskip("av", reason="needs PyAV")
    source = make_video(tmp_path / "clip.mkv", "ffv1", pixels="bgr0", size=(17, 21))
    out = tmp_path / "out"
    written = translated(fastmunit, trained, out, "-i", source, "--styles", 2, "--seed", 3, "--lossless")
    assert "Wrote 2 videos" in written
    assert names(out) == {"clip_style00.mkv", "clip_style01.mkv"}
    assert pixels(out / "sheet.png").size
    translator = load_translator(trained)
    codes = translator.random_styles(2, torch.Generator().manual_seed(3))
    for index in range(2):
        outputs = frames_of(out / f"clip_style{index:02d}.mkv")
        assert [time for time, _ in outputs] == [time for time, _ in frames_of(source)]
        for (_, found), (_, frame) in zip(outputs, frames_of(source), strict=True):
            gray = torch.tensor(frame.astype("float64") @ [0.299, 0.587, 0.114]).round()[None].float() / 127.5 - 1
            expected = translate_in_python(translator, gray, codes[index : index + 1])[0]
            error = torch.tensor(found).permute(2, 0, 1) / 127.5 - 1 - expected
            assert error.abs().mean() <= 1.5 / 127.5
    assert sound_of(out / "clip_style00.mkv") == sound_of(source)


def test_videos_of_a_folder_and_stale_outputs(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """A damaged video is left out. Outputs that a later call does not overwrite are removed."""
    pytest.importorskip("av", reason="needs PyAV")
    folder = tmp_path / "in"
    picture(folder / "still.png", 16, 16)
    make_video(folder / "clip.mp4", sound=False)
    (folder / "bad.mp4").write_bytes(b"not a video")
    (folder / "notes.txt").touch()
    command = ["translate", "--checkpoint", trained, "-i", folder, "-o", tmp_path / "out"]
    outcome = fastmunit(*command, "--styles", 2, "--size", 16)
    assert outcome.status == 1
    assert "1 of 3 images could not be translated" in outcome.err and "bad.mp4 is damaged or not a video" in outcome.err
    assert "1 file left out: notes.txt" in outcome.err
    assert "Wrote 4 images and videos" in outcome.out
    assert names(tmp_path / "out") == {f"{name}_style0{k}{suffix}" for k in range(2) for name, suffix in
                                       (("still", ".png"), ("clip", ".mp4"))}  # fmt: skip
    assert frames_of(tmp_path / "out/clip_style00.mp4")[0][1].shape == (16, 24, 3)
    (folder / "bad.mp4").unlink()
    written = translated(fastmunit, trained, tmp_path / "out", "-i", folder, "--styles", 1, "--size", 16)
    assert "Removed 2 outputs" in written
    assert names(tmp_path / "out") == {"still_style00.png", "clip_style00.mp4"}


def test_more_styles_than_encoders(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several passes over a video write the same files as one."""
    pytest.importorskip("av", reason="needs PyAV")
    source = make_video(tmp_path / "clip.mp4", sound=False, size=(16, 16), times=(0, 1000, 2500))
    arguments = ["-i", source, "--styles", 3, "--lossless", "--batch-size", 1]
    translated(fastmunit, trained, tmp_path / "one", *arguments)
    monkeypatch.setattr(sys.modules["fastmunit.translation.file_translator"], "MAX_ENCODERS", 2)
    translated(fastmunit, trained, tmp_path / "two", *arguments)
    for name in names(tmp_path / "one"):
        pairs = zip(frames_of(tmp_path / "one" / name), frames_of(tmp_path / "two" / name), strict=True)
        assert all(a[0] == b[0] and (a[1] == b[1]).all() for a, b in pairs)
    assert len(names(tmp_path / "two")) == 3


def test_without_pyav_images_are_translated(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "in/still.png", 16, 16)
    (tmp_path / "in/clip.mp4").touch()
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    outcome = fastmunit(
        "translate", "--checkpoint", trained, "-i", tmp_path / "in", "-o", tmp_path / "out", "--styles", 1
    )
    assert outcome.status == 1
    assert 'clip.mp4: videos need the package av (PyAV): pip install "fastmunit[video]"' in outcome.err
    assert names(tmp_path / "out") == {"still_style00.png"}


def test_images_as_frames(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """All frames have the styles of --same-styles, and each style has a folder with the names of the frames."""
    for index in (1, 2, 10):
        picture(tmp_path / f"in/shot{index}.png", 16 + index, 16)
    arguments = ["-i", tmp_path / "in", "--styles", 2, "--seed", 5]
    translated(fastmunit, trained, tmp_path / "frames", *arguments, "--frames")
    translated(fastmunit, trained, tmp_path / "same", *arguments, "--same-styles")
    assert names(tmp_path / "frames") == {f"style0{k}/shot{index}.png" for k in range(2) for index in (1, 2, 10)}
    for k in range(2):
        for index in (1, 2, 10):
            found = pixels(tmp_path / f"frames/style0{k}/shot{index}.png")
            assert (found == pixels(tmp_path / f"same/shot{index}_style0{k}.png")).all()


def test_the_order_of_frames() -> None:
    ordered = ["2/x9", "10/x2", "10/x10", "frame", "frame2", "frame02b", "frame10", "frame10a"]
    inputs = [Input(Path(name), name) for name in sorted(ordered)]
    assert [item.name for item in in_order_of_frames(inputs)] == ordered


def test_frames_have_the_value_range_of_the_training(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """A video and an animation give what their frames give as images."""
    pytest.importorskip("av", reason="needs PyAV")
    Config.load(trained / "config.yaml", ["value_range_a=[60, 150]"]).save(tmp_path / "range.yaml")
    source = make_video(tmp_path / "clip.mkv", "ffv1", pixels="bgr0", size=(17, 21), times=(0, 1000))
    frames = [Image.fromarray(frame) for _, frame in frames_of(source)]
    frames[1].save(tmp_path / "still.png")
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=[frames[1]], duration=100)
    generators = next((trained / "checkpoints").glob("gen_*.pt"))
    options = ("--styles", 1, "--same-styles", "--lossless", "--config", tmp_path / "range.yaml")
    for name in ("clip.mkv", "still.png", "moving.png"):
        translated(fastmunit, generators, tmp_path / "out", "-i", tmp_path / name, *options)
    still = np.asarray(Image.open(tmp_path / "out/still_style00.png"))
    translated(fastmunit, trained, tmp_path / "plain", "-i", tmp_path / "still.png", "--styles", 1, "--same-styles")
    assert (np.asarray(Image.open(tmp_path / "plain/still_style00.png")) != still).any()
    video = frames_of(tmp_path / "out/clip_style00.mkv")[1][1]
    assert np.abs(video.astype(int) - still).max() <= 1
    with Image.open(tmp_path / "out/moving_style00.png") as animation:
        animation.seek(1)
        assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - still).max() <= 1


def test_frames_that_a_range_or_slices_do_not_fit(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 200)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:], duration=100)
    values = PixelValues(slices=3)
    for path in (tmp_path / "moving.png", tmp_path / "clip.mp4"):
        good, failures = checked_inputs([Input(path, "x")], Limits(3, None, 12, None, values), 3)
        assert not good and "takes 3 neighboring slices of a volume" in failures[0].reason
    deep = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3)
    assert frame_input(deep, PixelValues(ValueRange(0, 255)), "clip.mp4").flatten().tolist() == [-1, 0, 1]
    with pytest.raises(DataError, match=r"clip\.mp4 has frames of more than 8 bits, and value_range_a is for stored"):
        frame_input(deep, PixelValues(ValueRange(0, 100), keys="_a"), "clip.mp4")
    shades = torch.tensor([0, 50, 100, 255], dtype=torch.uint8).view(1, 1, 4)
    assert frame_input(shades, PixelValues(ValueRange(0, 100)), "clip.mp4").flatten().tolist() == [-1, 0, 1, 1]
