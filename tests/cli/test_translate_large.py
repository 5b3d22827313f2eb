"""`fastmunit translate` with images that are larger than the memory, and with chosen statistics."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fastmunit.data import read_image, save_image
from tests.cli.conftest import Command, Outcome
from tests.out_of_core.models import picture, untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    untrained("munit", torch.float32).save_pretrained(folder)
    return folder


def image(height: int = 200, width: int = 280) -> torch.Tensor:
    return picture(3, height, width, torch.float32)


def test_command(fastmunit: Command, model: Path, tmp_path: Path) -> None:
    save_image(image(), tmp_path / "a.png")
    outputs = []
    for name, options in (("whole", ()), ("small", ("--memory", "1.2MB"))):
        outcome = fastmunit(
            "translate", "--checkpoint", model, "--input", tmp_path / "a.png", "--output", tmp_path / name,
            "--styles", 2, *options,
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
        assert ("280x200: out of core" in outcome.err) == (name == "small")
        outputs.append(read_image(tmp_path / name / "a_style01.png", 3))
        assert not (tmp_path / name / ".scratch").exists()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=2.1 / 255)


def test_command_with_statistics(fastmunit: Command, model: Path, tmp_path: Path) -> None:
    save_image(image(), tmp_path / "a.png")
    command = ("translate", "--checkpoint", model, "--input", tmp_path / "a.png", "--styles", 1)
    file = tmp_path / "look.safetensors"
    for options in (("--save-statistics", file), ("--statistics", file), ("--statistics", "local")):
        outcome = fastmunit(*command, "--output", tmp_path / "out", *options)
        assert outcome.status == 0, outcome.err
    for options, words in (
        (("--statistics", "globally"), "globally does not exist"),
        (("--memory", "lots"), "expected a size such as 8GB"),
        (
            ("--statistics", "local", "--save-statistics", file),
            "error: --save-statistics is for statistics of the image",
        ),
        (("--statistics", file, "--seed", 9), "the same seed and number of random styles"),
        (("--save-statistics", file, "--input", tmp_path), "of one image, got 4"),
    ):
        save_image(image(), tmp_path / "b.png")
        outcome = fastmunit(*command, "--output", tmp_path / "out", *options)
        assert outcome.status == 1
        assert words in " ".join(outcome.err.split())


def test_saved_statistics_replace_no_other_file(fastmunit: Command, model: Path, tmp_path: Path) -> None:
    save_image(image(), tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("mine")
    command = ("translate", "--checkpoint", model, "--input", tmp_path / "a.png", "--styles", 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, words in (
        ("a.png", "a.png exists and is not a statistics file: choose another path to save statistics."),
        ("notes.txt", "notes.txt exists and is not a statistics file"),
        ("out/sheet.png", "is an output, too: choose another --save-statistics"),
        ("out/a_style00.png", "is an output, too"),
    ):
        outcome = fastmunit(*command, "--output", tmp_path / "out", "--save-statistics", tmp_path / name)
        assert (outcome.status, words in " ".join(outcome.err.split())) == (1, True), outcome.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for _ in range(2):  # the second call replaces the file of the first one
        outcome = fastmunit(*command, "--output", tmp_path / "out", "--save-statistics", tmp_path / "look.safetensors")
        assert outcome.status == 0, outcome.err


def test_a_slide_is_read_and_written_by_region(fastmunit: Command, model: Path, tmp_path: Path) -> None:
    pixels = ((image(150, 200) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(64, 64), photometric="rgb")
    results = {}
    for name, options in (("whole", ()), ("small", ("--memory", "1MB")), ("local", ("--statistics", "local"))):
        outcome = fastmunit(
            "translate", "--checkpoint", model, "--input", tmp_path / "slide.tif", "--output", tmp_path / name,
            "--styles", 2, "--like-input", *options,
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
        results[name] = tifffile.imread(tmp_path / name / "slide_style01.tif").astype(int)
        assert (tmp_path / name / "sheet.png").exists()
    assert results["whole"].shape == (150, 200, 3)
    assert np.abs(results["whole"] - results["small"]).max() <= 1
    assert np.abs(results["whole"] - results["local"]).max() <= 1  # one tile holds this image


def test_a_full_disk(fastmunit: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 90 % of the bytes: the disk is named, no output is there, and the same command goes on."""
    pixels = ((image(150, 200) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(64, 64), photometric="rgb")
    write, written, room = os.pwrite, 0, float("inf")

    def limited(handle: int, data: Any, position: int) -> int:
        nonlocal written
        if written + len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(data)
        return write(handle, data, position)

    def run(output: Path) -> Outcome:
        return fastmunit(
            "translate", "--checkpoint", model, "--input", tmp_path / "slide.tif", "--output", output,
            "--styles", 1, "--like-input", "--memory", "1MB",
        )  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", limited)
        assert run(tmp_path / "first").status == 0
        written, room = 0, 0.9 * written
        outcome = run(tmp_path / "out")
        assert outcome.status == 1
        assert "No space left on device" in " ".join(outcome.err.split())
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".scratch"]
    assert run(tmp_path / "out").status == 0
    results = [tifffile.imread(tmp_path / name / "slide_style00.tif") for name in ("first", "out")]
    assert np.array_equal(*results)


def test_pictures_are_written_by_region(fastmunit: Command, model: Path, tmp_path: Path) -> None:
    save_image(image(), tmp_path / "a.png")
    command = ("translate", "--checkpoint", model, "--input", tmp_path / "a.png", "--styles", 1)
    for name, memory, words in (("out", "1.2MB", "280x200: out of core"), ("whole", "1GB", "280x200: as a whole")):
        outcome = fastmunit(*command, "--output", tmp_path / name, "--memory", memory)
        assert outcome.status == 0, outcome.err
        assert outcome.err.count(words) == 1
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [".fastmunit-outputs.jsonl", "a_style00.png", "sheet.png"]
    found, whole = (read_image(tmp_path / name / "a_style00.png", 3) for name in ("out", "whole"))
    torch.testing.assert_close(found, whole, rtol=0, atol=2.1 / 255)
    for options, words in (
        (("--memory", "300kB"), "a.png: decoding 280x200 pixels takes about 0.7 MB of memory, more than 0.3 MB"),
        (("--memory", "1MB", "--size", 64), "--size needs the whole image of 280x200 pixels in memory, about 1.3 MB"),
        (("--memory", "2MB", "--stretch"), "--stretch needs the whole image of 280x200 pixels in memory, about 2.7 MB"),
    ):
        outcome = fastmunit(*command, "--output", tmp_path / "none", *options)
        assert (outcome.status, words in outcome.err) == (1, True), outcome.err
    assert not list((tmp_path / "none").glob("*.png"))


def test_slides_as_references(fastmunit: Command, model: Path, tmp_path: Path) -> None:
    save_image(image(), tmp_path / "a.png")
    pixels = ((image(480, 420) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(64, 64), photometric="rgb")
    command = ("translate", "--checkpoint", model, "--input", tmp_path / "a.png", "--reference", tmp_path / "slide.tif")
    found = []
    for name, options in (("whole", ()), ("small", ("--memory", "2.5MB"))):
        outcome = fastmunit(*command, "--output", tmp_path / name, *options)
        assert outcome.status == 0, outcome.err
        found.append(read_image(tmp_path / name / "a_reference00.png", 3))
    torch.testing.assert_close(*found, rtol=0, atol=2.1 / 255)


def test_several_images_in_a_file(fastmunit: Command, model: Path, tmp_path: Path) -> None:
    """One line says how they are translated, and statistics are those of one image."""
    pixels = ((image(60, 80) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    np.save(tmp_path / "volume.npy", np.stack([pixels] * 3))
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1])]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:], duration=40)
    command = ("translate", "--checkpoint", model, "--output", tmp_path / "out", "--styles", 1)
    for name, words, kind in (
        ("volume.npy", "for each of 3 slices.", "a volume of 3 slices"),
        ("moving.png", "80x60: out of core", "an animation"),
    ):
        outcome = fastmunit(*command, "--input", tmp_path / name, "--memory", "1MB")
        assert outcome.status == 0, outcome.err
        assert (outcome.err.count("80x60: out of core"), outcome.err.count(words)) == (1, 1)
        outcome = fastmunit(*command, "--input", tmp_path / name, "--save-statistics", tmp_path / "look.safetensors")
        assert (outcome.status, f"{name} is {kind}, and --save-statistics saves" in outcome.err) == (1, True)
    assert not (tmp_path / "look.safetensors").exists()
