"""The commands about styles, end to end on the packaged model and on tiny runs of other systems."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastmunit as package
from fastmunit.cli.style_options import use_style_distributions
from fastmunit.errors import DataError
from fastmunit.runs import train
from fastmunit.serving.model import load_model
from fastmunit.styles import StyleModel, read_styles, write_styles
from fastmunit.styles.distribution import MIN_CODES
from fastmunit.systems.bicyclegan import BicycleGAN
from fastmunit.translation.output_record import RECORD_FILE
from tests.cli.conftest import Command, Outcome
from tests.runs.tiny import make_images, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

Styles = Callable[..., Outcome]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of flat colors with noise, and of different sizes."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(MIN_CODES):
        noise = random.normal(0, 20, (30 + index % 3, 33, 3))
        pixels = (random.integers(0, 256, 3) + noise).clip(0, 255).astype(np.uint8)
        place = folder / ("more" if index % 2 else ".")
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawing") / "drawing.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (31, 40, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def styles(fastmunit: Command) -> Styles:
    def run(command: str, *arguments: object, model: object = "fruit") -> Outcome:
        return fastmunit("styles", command, model, *arguments, "--device", "cpu")

    return run


@pytest.fixture
def codes(styles: Styles, photos: Path, tmp_path: Path) -> Path:
    outcome = styles("extract", "-i", photos, "-o", tmp_path / "codes.safetensors")
    assert outcome.status == 0, outcome.err
    return tmp_path / "codes.safetensors"


def test_extracted_codes_are_those_of_the_encoder(codes: Path, photos: Path) -> None:
    found, translator = read_styles(codes), package.load_translator("fruit", device="cpu")
    assert found.model == StyleModel("fruit", "a2b", translator.digest())
    assert len(found.names) == MIN_CODES
    for code, name in zip(found.codes, found.names, strict=True):
        expected = translator.style_of(package.data.read_image(photos / f"{name}.png", 3))
        assert torch.equal(code, expected[0])


def test_the_commands_take_a_folder_or_its_styles_file(
    styles: Styles, codes: Path, photos: Path, drawing: Path, tmp_path: Path
) -> None:
    for source in (photos, codes):
        out = tmp_path / source.stem
        outcome = styles("mean", "-i", source, "-o", out / "mean.safetensors", "--name", "scanner 3")
        assert outcome.status == 0, outcome.err
        outcome = styles("bank", "-i", source, "-o", out / "bank", "--count", 3, "--content", drawing)
        assert outcome.status == 0, outcome.err
        outcome = styles("directions", "-i", source, "-o", out / "dirs", "--count", 2, "--content", drawing)
        assert outcome.status == 0, outcome.err
        outcome = styles("distribution", "-i", source, "-o", out / "check")
        assert outcome.status == 0, outcome.err
    of_images, of_file = tmp_path / photos.stem, tmp_path / codes.stem
    mean = read_styles(of_images / "mean.safetensors")
    torch.testing.assert_close(mean.codes, read_styles(codes).codes.mean(0, keepdim=True))
    assert list(mean.names) == ["scanner 3"]
    report = json.loads((of_images / "bank/bank.json").read_text())
    assert sum(each["size"] for each in report) == MIN_CODES
    assert sorted(name for each in report for name in each["images"]) == sorted(read_styles(codes).names)
    assert all(each["medoid"] in each["images"] for each in report)
    for name in ("bank/bank.safetensors", "dirs/direction01.safetensors", "check/styles.safetensors"):
        first, second = read_styles(of_images / name), read_styles(of_file / name)
        assert torch.equal(first.codes, second.codes)
        assert list(first.names) == list(second.names)
    written = {path.name for path in (of_images / "dirs").iterdir()}
    assert {"direction00.jpg", "direction01.jpg", "sheet.jpg", "directions.json"} < written
    figures = json.loads((of_images / "check/distribution.json").read_text())
    assert (figures["model"], figures["direction"], figures["count"]) == ("fruit", "a2b", MIN_CODES)
    assert (of_images / "check/distribution.html").read_text().count("<svg") == 9
    with_medoids = Image.open(of_images / "bank/sheet.jpg").height
    assert with_medoids > Image.open(of_file / "bank/sheet.jpg").height


def test_neighbors(styles: Styles, codes: Path, photos: Path, tmp_path: Path) -> None:
    outcome = styles("nearest", photos / "04.png", "-i", photos, "--count", 3, "-o", tmp_path / "near.jpg")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["0.0000", "04"]
    assert len(lines) == 4
    assert Image.open(tmp_path / "near.jpg").format == "JPEG"
    again = styles("nearest", photos / "04.png", "-i", codes, "--count", 3)
    assert again.out.splitlines() == lines[:3]
    refused = styles("nearest", photos / "04.png", "-i", codes, "-o", tmp_path / "no.jpg")
    assert (refused.status, "a styles file has no pictures to show" in refused.err) == (1, True)


def test_interpolation_frames_are_translations_of_the_codes(
    styles: Styles, photos: Path, drawing: Path, tmp_path: Path
) -> None:
    ends = ["-i", photos / "00.png", "-i", photos / "02.png"]
    outcome = styles("interpolate", *ends, "--content", drawing, "-o", tmp_path / "out", "--count", 4)
    assert outcome.status == 0, outcome.err
    found = read_styles(tmp_path / "out/styles.safetensors")
    assert list(found.names) == ["0.00", "0.33", "0.67", "1.00"]
    expected = package.translate("fruit", drawing, tmp_path / "out/styles.safetensors", device="cpu")
    for index, image in enumerate(expected):
        frame = package.data.read_image(tmp_path / f"out/drawing_{index:03d}.png", 3)
        assert (frame - image).abs().max() <= 1.01 / 127.5
    line = styles(
        "interpolate", *ends, "--content", drawing, "-o", tmp_path / "line", "--count", 3, "--interpolation", "linear"
    )
    assert line.status == 0
    middle = read_styles(tmp_path / "line/styles.safetensors").codes[1]
    torch.testing.assert_close(middle, found.codes[[0, 3]].mean(0))
    many = styles("interpolate", *ends, "--content", photos, "-o", tmp_path / "many", "--count", 2)
    assert (many.status, f"the first 8 of {MIN_CODES} images are used" in many.err) == (0, True)
    assert len(list((tmp_path / "many").glob("*.png"))) == 8 * 2
    one = styles(
        "interpolate", "-i", photos / "00.png", "-i", photos / "00.png", "--content", drawing, "-o", tmp_path / "no"
    )
    assert (one.status, "an interpolation needs two styles, got 1: give two different images" in one.err) == (1, True)


def test_contents_of_equal_names_keep_their_frames(styles: Styles, photos: Path, tmp_path: Path) -> None:
    for folder in ("x/f", "y/f"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(photos / "00.png", tmp_path / folder)
    contents = ["--content", tmp_path / "x/f", "--content", tmp_path / "y/f"]
    ends = ["-i", photos / "00.png", "-i", photos / "02.png"]
    outcome = styles("interpolate", *ends, *contents, "-o", tmp_path / "out", "--count", 2)
    assert (outcome.status, "Wrote 4 frames" in outcome.out) == (0, True)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4


def test_inversion(
    styles: Styles, photos: Path, drawing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTMUNIT_WEIGHTS", raising=False)
    outcome = styles("invert", photos / "00.png", "-o", tmp_path / "out", "--steps", 3, "--starts", 2)
    assert outcome.status == 0, outcome.err
    assert "LPIPS is left out: give its weights" in outcome.err
    before, after = (float(word) for word in outcome.out.split() if word.startswith("0."))
    assert after <= before
    assert list(read_styles(tmp_path / "out/styles.safetensors").names) == ["00"]
    Image.open(drawing).crop((0, 0, 33, 30)).save(tmp_path / "drawing.png")
    content = ["--content", tmp_path / "drawing.png"]
    outcome = styles("invert", photos / "00.png", "-o", tmp_path / "of", *content, "--steps", 1)
    assert outcome.status == 0, outcome.err
    (tmp_path / "weights").mkdir()
    outcome = styles("invert", photos / "00.png", "-o", tmp_path / "no", "--weights", tmp_path / "weights")
    assert (outcome.status, "has no such file" in outcome.err, "download" in outcome.err) == (1, True, False)


def test_translate_takes_the_files(
    fastmunit: Command, styles: Styles, codes: Path, drawing: Path, tmp_path: Path
) -> None:
    base = ["translate", "--checkpoint", "fruit", "-i", drawing, "--device", "cpu"]
    outcome = fastmunit(*base, "-o", tmp_path / "fitted", "--styles", 2, "--style-distribution", codes)
    assert outcome.status == 0, outcome.err
    normal = fastmunit(*base, "-o", tmp_path / "normal", "--styles", 2)
    assert normal.status == 0
    for name in ("drawing_style00.png", "drawing_style01.png"):
        assert (tmp_path / "fitted" / name).read_bytes() != (tmp_path / "normal" / name).read_bytes()
    both = fastmunit(*base, "-o", tmp_path / "no", "--styles-file", codes, "--style-distribution", codes)
    assert (both.status, "--styles-file decides the style" in both.err) == (1, True)
    untrained = fastmunit(*base, "-o", tmp_path / "no", "--style-distribution", "encoded")
    assert (untrained.status, "the training images of the model are not at hand" in untrained.err) == (1, True)
    assert styles("mean", "-i", codes, "-o", tmp_path / "one.safetensors").status == 0
    one = fastmunit(*base, "-o", tmp_path / "no", "--style-distribution", tmp_path / "one.safetensors")
    assert (one.status, "has one style: expected at least 2 style codes" in one.err) == (1, True)
    assert not (tmp_path / "no").exists()


def test_files_of_another_model_are_refused(
    fastmunit: Command, styles: Styles, codes: Path, photos: Path, drawing: Path, trained: Path, tmp_path: Path
) -> None:
    message = "was made with fruit (a2b, weights "
    for outcome in (
        styles("mean", "-i", codes, "-o", tmp_path / "no.safetensors", model=trained),
        styles("directions", "-i", codes, "--content", drawing, "-o", tmp_path / "no", "--direction", "b2a"),
        fastmunit("translate", "--checkpoint", trained, "-i", drawing, "-o", tmp_path / "no", "--styles-file", codes),
        fastmunit("page", trained, "-o", tmp_path / "no", "--styles-file", codes),
        fastmunit(
            "evaluate",
            "--checkpoint",
            trained,
            "-o",
            tmp_path / "no",
            "--styles-file",
            codes,
            "--metrics",
            "edge-agreement",
        ),
    ):
        assert outcome.status == 1
        assert message in outcome.err, outcome.err
    assert not (tmp_path / "no").exists()
    outcome = styles("mean", "-i", codes, "-o", tmp_path / "no.safetensors", "--direction", "b2a")
    assert (outcome.status, "or use it for the direction a2b" in outcome.err) == (1, True)


def test_a_model_folder_and_its_run_take_the_same_files(
    styles: Styles, trained: Path, images: Path, tmp_path: Path
) -> None:
    package.load_translator(trained, device="cpu").save_pretrained(tmp_path / "folder")
    assert styles("extract", "-i", images / "testB", "-o", tmp_path / "s.safetensors", model=trained).status == 0
    outcome = styles(
        "mean", "-i", tmp_path / "s.safetensors", "-o", tmp_path / "m.safetensors", model=tmp_path / "folder"
    )
    assert outcome.status == 0, outcome.err


def test_styles_of_the_training_images(
    fastmunit: Command, styles: Styles, trained: Path, drawing: Path, tmp_path: Path
) -> None:
    """The tiny run has five training images: enough to sample from, too few for tests."""
    base = ["translate", "--checkpoint", trained, "-i", drawing, "--device", "cpu"]
    outcome = fastmunit(*base, "-o", tmp_path / "out", "--styles", 2, "--style-distribution", "encoded")
    assert outcome.status == 0, outcome.err
    outcome = styles("distribution", "-o", tmp_path / "no", model=trained)
    assert (outcome.status, f"needs at least {MIN_CODES} styles, got 5" in outcome.err) == (1, True)


@pytest.mark.parametrize("system", ["cyclegan", "unit"])
def test_systems_without_style_codes(
    styles: Styles,
    fastmunit: Command,
    codes: Path,
    system: str,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    images = make_images(tmp_path_factory.mktemp("images"))
    run = tmp_path / "run"
    train(tiny_config(images, system=system, max_iter=1), run, device="cpu")
    outcome = styles("extract", "-i", images / "testB", "-o", tmp_path / "no.safetensors", model=run)
    assert outcome.status == 1
    assert f"this {system} model has no style encoder" in outcome.err
    outcome = fastmunit(
        "translate",
        "--checkpoint",
        run,
        "-i",
        images / "testA",
        "-o",
        tmp_path / "no",
        "--style-distribution",
        "encoded",
    )
    assert (outcome.status, "gives one output per image" in outcome.err) == (1, True)
    for refused in (
        styles("mean", "-i", codes, "-o", tmp_path / "no.safetensors", model=run),
        fastmunit("page", run, "-o", tmp_path / "no", "--styles-file", codes),
        fastmunit("serve", run, "--styles-file", codes),
        fastmunit("serve", run, "--style-distribution", codes),
        fastmunit("evaluate", "--checkpoint", run, "-o", tmp_path / "no", "--styles-file", codes, "--inspect"),
    ):
        assert refused.status == 1
        assert re.search(f"a {system} model gives one output per image|this {system} model has no style", refused.err)
    with pytest.raises(DataError, match=f"a {system} model gives one output per image"):
        package.translate(run, images / "testA/0.png", codes)


def test_bad_input(styles: Styles, codes: Path, photos: Path, drawing: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(codes.read_bytes()[:-3])
    one = photos / "00.png"
    out = tmp_path / "no.safetensors"
    for arguments, message in (
        (("extract", "-i", photos, "-o", tmp_path / "no.txt"), "ends with .safetensors as --output, got"),
        (("mean", "-i", photos, "-o", one), "00.png: add .safetensors to it"),
        (("nearest", one, "-i", photos, "-o", out), "ends with .jpg or .jpeg or .png as --output"),
        (("extract", "-i", empty, "-o", out), "contains no images"),
        (("extract", "-i", tmp_path / "none", "-o", out), "does not exist"),
        (("extract", "-i", codes, "-i", photos, "-o", out), "--input takes one styles file, or images and folders"),
        (("mean", "-i", damaged, "-o", out), "is damaged or not a safetensors file"),
        (("bank", "-i", photos, "-o", out, "--count", MIN_CODES + 1), f"different ones, got {MIN_CODES}"),
        (("directions", "-i", one, "--content", drawing, "-o", out), "at least 2 images, got 1"),
        (("directions", "-i", photos, "--content", empty, "-o", out), "contains no images"),
        (("distribution", "-i", one, "-o", out), "at least 20 styles, got 1"),
        (("nearest", drawing.with_name("none.png"), "-i", photos), "does not exist"),
        (("extract", "-i", photos, "-o", folder), "it is a folder"),
    ):
        outcome = styles(*arguments)  # type: ignore[arg-type]
        assert outcome.status == 1, arguments
        assert message in outcome.err, outcome.err
        assert not out.exists()


def test_outputs_of_an_earlier_call_are_removed(styles: Styles, codes: Path, drawing: Path, tmp_path: Path) -> None:
    """A later call with fewer outputs leaves none of the earlier one, but files that have changed since."""
    bank, directions, frames = (tmp_path / name for name in ("bank", "directions", "frames"))
    content = ["--content", drawing]
    assert styles("bank", "-i", codes, "-o", bank, "--count", 3, *content).status == 0
    outcome = styles("bank", "-i", codes, "-o", bank, "--count", 2)
    assert (outcome.status, "Removed 1 output of an earlier call" in outcome.out) == (0, True)
    assert {path.name for path in bank.iterdir()} == {"bank.safetensors", "bank.json", RECORD_FILE}
    base = ["directions", "-i", codes, "-o", directions, "--steps", 2, *content]
    assert styles(*base, "--count", 3).status == 0
    (directions / "direction02.jpg").write_bytes(b"mine")
    outcome = styles(*base, "--count", 1)
    assert (outcome.status, "Removed 3 outputs of an earlier call" in outcome.out) == (0, True)
    assert {path.stem for path in directions.glob("direction0*")} == {"direction00", "direction02"}
    write_styles(tmp_path / "two.safetensors", torch.eye(2, 8)[..., None, None])
    for count in (4, 2):
        outcome = styles("interpolate", "-i", tmp_path / "two.safetensors", "-o", frames, "--count", count, *content)
        assert outcome.status == 0, outcome.err
    assert len(list(frames.glob("*.png"))) == 2


def test_an_interrupted_call_leaves_no_mixture(
    styles: Styles, codes: Path, drawing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has removed the outputs of the call before it, and the call after it removes its own."""
    commands = {
        "directions": ["--steps", 2],
        "bank": [],
        "interpolate": ["-i", tmp_path / "two.safetensors"],
    }
    write_styles(tmp_path / "two.safetensors", torch.eye(2, 8)[..., None, None])

    def call(command: str, count: int) -> Outcome:
        source = commands[command] if command == "interpolate" else ["-i", codes, *commands[command]]
        return styles(command, *source, "--content", drawing, "-o", tmp_path / command, "--count", count)

    def left(command: str) -> set[str]:
        return {path.name for path in (tmp_path / command).iterdir()} - {RECORD_FILE}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    expected = {}
    for command in commands:
        assert call(command, 2).status == 0
        expected[command] = left(command)
        assert call(command, 3).status == 0
    for name in ("fastmunit.runs.reports.image_grid.atomic_write", "fastmunit.files.write_text"):
        monkeypatch.setattr(name, interrupt)
    assert {command: (call(command, 4).status, left(command)) for command in commands} == {
        "directions": (130, set()),
        "bank": (130, {"bank.safetensors"}),
        "interpolate": (130, {"styles.safetensors", *(f"drawing_{index:03d}.png" for index in range(4))}),
    }
    monkeypatch.undo()
    for command in commands:
        assert call(command, 2).status == 0
    assert {command: left(command) for command in commands} == expected


def test_inputs_are_never_overwritten(styles: Styles, codes: Path, photos: Path, drawing: Path, tmp_path: Path) -> None:
    """Each file that a command writes is refused if the command reads it."""
    out = tmp_path / "out"
    out.mkdir()
    photo = photos / "00.png"
    own = ["bank.safetensors", "styles.safetensors", "direction01.safetensors"]
    for name in own:
        shutil.copy(codes, out / name)
    for name in ("sheet.jpg", "direction00.jpg", "drawing_001.png"):
        shutil.copy(photo, out / name)
    shutil.copy(photo, out / "drawing.png")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    sheet, content = out / "sheet.jpg", ["--content", drawing]
    for name, *arguments in (
        ("bank.safetensors", "extract", "-i", out / own[0], "-o", out / own[0]),
        ("bank.safetensors", "mean", "-i", out / own[0], "-o", out / own[0]),
        ("sheet.jpg", "nearest", sheet, "-i", photos, "-o", sheet),
        ("sheet.jpg", "nearest", photo, "-i", out, "-o", sheet),
        ("bank.safetensors", "bank", "-i", out / own[0], "-o", out),
        ("sheet.jpg", "bank", "-i", photos, "-o", out, "--content", sheet),
        ("direction00.jpg", "directions", "-i", photos, "-o", out, *content, "--content", out / "direction00.jpg"),
        ("direction01.safetensors", "directions", "-i", out / own[2], "-o", out, *content),
        ("drawing_001.png", "interpolate", "-i", photo, "-i", out / "drawing_001.png", "-o", out, *content),
        ("sheet.jpg", "interpolate", "-i", photo, "-i", sheet, "-o", out, *content),
        ("sheet.jpg", "invert", sheet, "-o", out),
        ("sheet.jpg", "invert", photo, "--content", sheet, "-o", out),
        ("styles.safetensors", "distribution", "-i", out / own[1], "-o", out),
    ):
        outcome = styles(*arguments)  # type: ignore[arg-type]
        assert outcome.status == 1, arguments
        assert f"{name} is an input and would be overwritten: choose another output" in outcome.err, outcome.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_outputs_do_not_become_inputs_of_the_next_call(
    styles: Styles, photos: Path, drawing: Path, tmp_path: Path
) -> None:
    folder, content = shutil.copytree(photos, tmp_path / "in"), ["--content", drawing]
    shutil.copy(drawing, folder)
    (tmp_path / "link").symlink_to("in")
    ends = ["-i", photos / "00.png", "-i", photos / "02.png"]
    for output, *arguments in (
        (folder, "bank", "-i", folder, "-o", folder),
        (tmp_path / "link/out", "bank", "-i", folder, "-o", tmp_path / "link/out"),
        (folder / "out", "directions", "-i", folder, *content, "-o", folder / "out"),
        (folder, "interpolate", *ends, "--content", folder, "-o", folder, "--count", 2),
        (folder, "distribution", "-i", folder, "-o", folder),
        (folder / "out", "nearest", drawing, "-i", folder, "-o", folder / "out/near.jpg"),
    ):
        outcome = styles(*arguments)  # type: ignore[arg-type]
        assert outcome.status == 1, arguments
        assert f"output {output} is in the input folder {folder}: choose a folder outside it" in outcome.err
    assert len(list(folder.rglob("*"))) == len(list(photos.rglob("*"))) + 1
    outcome = styles("extract", "-i", folder, "-o", folder / "codes.safetensors")
    assert outcome.status == 0, outcome.err


def test_the_model_is_never_overwritten(fastmunit: Command, styles: Styles, photos: Path, tmp_path: Path) -> None:
    model, photo = tmp_path / "model", photos / "00.png"
    package.load_translator("fruit", device="cpu").save_pretrained(model)
    shutil.copy(photo, model / "sample.png")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    for name, *arguments in (
        ("model.safetensors", "extract", "-i", photo, "-o", model / "model.safetensors"),
        ("model.safetensors", "mean", "-i", photo, "-o", model / "model.safetensors"),
        ("sample.png", "nearest", photo, "-i", photos, "-o", model / "sample.png"),
    ):
        outcome = styles(*arguments, model=model)  # type: ignore[arg-type]
        assert outcome.status == 1, arguments
        assert f"{name} is an input and would be overwritten: choose another output" in outcome.err, outcome.err
    outcome = fastmunit("export", model, "--to", "folder", "--precision", "float16", "-o", model)
    assert outcome.status == 1
    assert "config.json is an input and would be overwritten" in outcome.err
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_images_that_cannot_be_read_are_left_out_and_named(styles: Styles, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(photos / "00.png", folder)
    (folder / "broken.png").write_bytes((photos / "00.png").read_bytes()[:50])
    outcome = styles("extract", "-i", folder, "-o", tmp_path / "s.safetensors")
    assert outcome.status == 1
    assert "1 image could not be read; the others were used" in outcome.err
    assert "broken.png" in outcome.err
    assert list(read_styles(tmp_path / "s.safetensors").names) == ["00"]
    (folder / "00.png").unlink()
    outcome = styles("extract", "-i", folder, "-o", tmp_path / "t.safetensors")
    assert (outcome.status, "no image could be encoded" in outcome.err) == (1, True)
    assert not (tmp_path / "t.safetensors").exists()


def test_evaluate_draws_from_a_file(
    fastmunit: Command, styles: Styles, trained: Path, images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "s.safetensors"
    assert styles("extract", "-i", images / "trainB", "-o", file, model=trained).status == 0
    base = ["evaluate", "--checkpoint", trained, "--metrics", "edge-agreement", "--inputs", 2, "--device", "cpu"]
    scores = {}
    for name, options in {
        "normal": (),
        "file": ("--styles-file", file),
        "fitted": ("--style-distribution", file),
        "encoded": ("--style-distribution", "encoded"),
    }.items():
        outcome = fastmunit(*base, "--samples", 4, "-o", tmp_path / name, *options)
        assert outcome.status == 0, outcome.err
        report = json.loads((tmp_path / name / "evaluation.json").read_text())
        scores[name] = report["evaluations"][0]["figures"][0]["value"]
        assert ("styles" in report) == bool(options)
    assert len(set(scores.values())) >= 3
    outcome = fastmunit(*base, "--samples", 6, "-o", tmp_path / "no", "--styles-file", file)
    assert (outcome.status, "has 5 styles, and 6 different ones are needed" in outcome.err) == (1, True)
    outcome = fastmunit(*base, "-o", tmp_path / "no", "--styles-file", file, "--style-distribution", "encoded")
    assert (outcome.status, "give either --styles-file or --style-distribution" in outcome.err) == (1, True)


def test_names_of_strangers_do_not_reach_the_terminal_raw(styles: Styles, photos: Path, tmp_path: Path) -> None:
    model = StyleModel("\x1b[31mred", "b2a\n", "")
    write_styles(tmp_path / "odd.safetensors", torch.randn(2, 8, 1, 1), ["\x1b[31mred", "two\nlines\ud800"])
    write_styles(tmp_path / "other.safetensors", torch.randn(2, 8, 1, 1), model=model)
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photos / "00.png", folder / "\x1b[31ma.png")
    (folder / "\x1b[31mb.png").write_bytes(b"no image")
    (folder / "\x1b[31mc.txt").write_bytes(b"no image")
    for name in ("odd.safetensors", "other.safetensors", "in"):
        outcome = styles("nearest", photos / "00.png", "-i", tmp_path / name)
        text = (outcome.out + outcome.err).replace("\x1b[31m\x1b[1merror: \x1b[0m", "")
        assert "\\x1b[31m" in text
        assert "\x1b" not in text
        assert "\nlines" not in text


def test_paths_that_are_not_utf8(styles: Styles, photos: Path, drawing: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / os.fsdecode(b"few_\xff"))
    for command, *options in (["distribution"], ["bank", "--count", 2], ["directions", "--content", drawing]):
        outcome = styles(command, "-i", folder, *options, "-o", tmp_path / os.fsdecode(b"out_\xff"))
        assert outcome.status == 0, outcome.err
    facts = json.loads((tmp_path / os.fsdecode(b"out_\xff") / "distribution.json").read_text())
    assert facts["styles"] == f"{MIN_CODES} from {tmp_path}/few_\\xff"


def test_a_file_without_a_model_is_taken(styles: Styles, tmp_path: Path) -> None:
    write_styles(tmp_path / "own.safetensors", torch.randn(3, 8, 1, 1))
    assert styles("mean", "-i", tmp_path / "own.safetensors", "-o", tmp_path / "mean.safetensors").status == 0
    write_styles(tmp_path / "wide.safetensors", torch.randn(3, 9, 1, 1))
    outcome = styles("mean", "-i", tmp_path / "wide.safetensors", "-o", tmp_path / "no.safetensors")
    assert (outcome.status, "expected styles (S, 8, 1, 1), got (3, 9, 1, 1)" in outcome.err) == (1, True)


def test_a_served_model_draws_as_the_option_says(styles: Styles, trained: Path, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    outcome = styles("extract", "-i", images / "trainA", "-o", file, "--direction", "b2a", model=trained)
    assert outcome.status == 0, outcome.err
    model = load_model(trained, device="cpu", styles_file=file)
    assert {direction: len(given.codes) for direction, given in model.styles.items()} == {"b2a": 5}
    for choice, expected in (("normal", []), (str(file), ["b2a"]), ("encoded", ["a2b", "b2a"])):
        translators = load_model(trained, device="cpu").translators
        use_style_distributions(translators, choice)
        assert [name for name, each in translators.items() if each.style_distribution is not None] == expected


def test_inversion_without_content_codes(
    styles: Styles, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """BicycleGAN takes the content from the image that belongs to the photo."""
    images, run = make_images(tmp_path_factory.mktemp("images"), height=64, width=64), tmp_path / "run"
    changes = {"new_size": 64, "crop_image_height": 64, "crop_image_width": 64, "pairs": "folders"}
    options = {"num_downs": 5, "encoder_dim": 4}
    trainer = BicycleGAN(tiny_config(images, system="bicyclegan", options=options, **changes))
    trainer.save(tmp_path / "run/checkpoints", 0)
    trainer.config.save(run / "config.yaml")
    photo = images / "testB/0.png"
    outcome = styles("invert", photo, "-o", tmp_path / "no", model=run)
    assert (outcome.status, "this system has no content codes" in outcome.err) == (1, True)
    for size in (60, 80):  # padding to 64 pixels would hide that the first is smaller
        Image.new("RGB", (size, 64)).save(tmp_path / "other.png")
        outcome = styles("invert", photo, "-o", tmp_path / "no", "--content", tmp_path / "other.png", model=run)
        assert (outcome.status, f"has 64x{size} pixels and the photo has 64x64" in outcome.err) == (1, True)
    content = ["--content", images / "testA/0.png"]
    outcome = styles("invert", photo, "-o", tmp_path / "out", *content, "--steps", 2, model=run)
    assert outcome.status == 0, outcome.err
    assert read_styles(tmp_path / "out/styles.safetensors").codes.shape[0] == 1
