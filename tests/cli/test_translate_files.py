"""`fastmunit translate` with several inputs, every source of styles, repeated calls into one folder, animations."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import fastmunit as package
from fastmunit.translation.inputs import list_inputs
from fastmunit.translation.output_record import RECORD_FILE, OutputRecord
from fastmunit.translation.style_file import write_styles
from fastmunit.translation.translate import load_translator
from fastmunit.translation.translate import translate as translate_in_python
from tests.cli.conftest import Command
from tests.cli.test_translate import picture, pixels


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {RECORD_FILE, "sheet.png"}


def translated(fastmunit: Command, trained: Path, output: Path, *arguments: object) -> str:
    outcome = fastmunit("translate", "--checkpoint", trained, "-o", output, *arguments)
    assert outcome.status == 0, outcome.err
    return outcome.out


def test_several_inputs(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """Each file is translated once. Outputs with equal names are distinguished by the name of the input folder."""
    for name in ("one/x.png", "one/deep/y.png", "two/x.png", "two/z.png", "w.png"):
        picture(tmp_path / name, 16, 16)
    inputs = [tmp_path / "one", tmp_path / "two", tmp_path / "w.png", tmp_path / "one/x.png"]
    arguments = [argument for path in inputs for argument in ("--input", path)]
    out = translated(fastmunit, trained, tmp_path / "out", *arguments, "--styles", 1)
    assert "Wrote 5 images" in out
    expected = {"one/x", "deep/y", "two/x", "z", "w"}
    assert names(tmp_path / "out") == {f"{name}_style00.png" for name in expected}
    outcome = fastmunit(
        "translate", "--checkpoint", trained, "-i", tmp_path / "w.png", "-i", tmp_path / "no.png", "-o", tmp_path / "o"
    )
    assert (outcome.status, "no.png does not exist" in outcome.err) == (1, True)
    assert not (tmp_path / "o").exists()


def test_an_output_folder_that_cannot_be_written(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """It is refused before anything is translated, and names the reason."""
    picture(tmp_path / "x.png", 16, 16)
    (tmp_path / "nowhere").symlink_to("none/x")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    for name, reason in (
        ("nowhere", "is a link that leads nowhere"),
        ("circle", "is a link that leads nowhere"),
        ("file", "is not a folder"),
    ):
        outcome = fastmunit("translate", "--checkpoint", trained, "-i", tmp_path / "x.png", "-o", tmp_path / name)
        assert outcome.status == 1
        assert f"{tmp_path / name} {reason}" in outcome.err


def test_names_of_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are not compared in pairs, which would take minutes."""
    from fastmunit import data
    from fastmunit.data.folders import FoundImages

    found = FoundImages(tmp_path, [tmp_path / f"{index}.png" for index in range(50_000)], [])
    monkeypatch.setattr(data, "input_images", lambda source, also: found)
    assert len({item.name for item in list_inputs([tmp_path])[0]}) == 50_000


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["x/f/a.png", "y/f/a.png"], ["x/f/a_png", "y/f/a_png"]),
        (["x/f/a.png", "x/f/a.jpg", "y/g/a.png", "y/g/a.jpg"], ["f/a_jpg", "f/a_png", "g/a_jpg", "g/a_png"]),
        (["x/a.jpg", "x/a.png", "x/a_jpg.bmp"], ["a_jpg_bmp", "a_png", "x/a"]),
        (["x/a.tif", "x/a.ome.tif"], ["a_ome_tif", "a_tif"]),
    ],
)
def test_names_of_images_differ(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    for file in files:
        picture(tmp_path / file, 8, 8)
    folders = sorted({(tmp_path / file).parent for file in files})
    assert sorted(item.name for item in list_inputs(folders)[0]) == expected


def test_references_of_a_folder(fastmunit: Command, trained: Path, images: Path, tmp_path: Path) -> None:
    image = images / "testA/0.png"
    references = tmp_path / "references"
    references.mkdir()
    for index in range(2):
        shutil.copy(images / f"testB/{index}.png", references)
    translated(fastmunit, trained, tmp_path / "folder", "-i", image, "--reference", references)
    one_by_one = [argument for k in range(2) for argument in ("--reference", references / f"{k}.png")]
    translated(fastmunit, trained, tmp_path / "files", "-i", image, *one_by_one)
    assert names(tmp_path / "folder") == {"0_reference00.png", "0_reference01.png"}
    for name in names(tmp_path / "folder"):
        assert (pixels(tmp_path / "folder" / name) == pixels(tmp_path / "files" / name)).all()


def test_interpolation_has_both_ends(fastmunit: Command, trained: Path, images: Path, tmp_path: Path) -> None:
    image, (first, second) = images / "testA/0.png", (images / f"testB/{k}.png" for k in range(2))
    both = ["--reference", first, "--reference", second]
    translated(fastmunit, trained, tmp_path / "ends", "-i", image, *both)
    translated(fastmunit, trained, tmp_path / "between", "-i", image, *both, "--interpolate", 3)
    assert names(tmp_path / "between") == {f"0_interpolated{k:02d}.png" for k in range(3)}
    for index, reference in ((0, 0), (2, 1)):
        found = pixels(tmp_path / f"between/0_interpolated{index:02d}.png").astype(int)
        assert np.abs(found - pixels(tmp_path / f"ends/0_reference{reference:02d}.png")).max() <= 1
    codes = torch.cat([load_translator(trained).style_of(_read(path)) for path in (first, second)])
    middle = translate_in_python(trained, image, codes.mean(0, keepdim=True))
    found = _read(tmp_path / "between/0_interpolated01.png")
    assert (found - middle[0]).abs().max() <= 1.01 / 127.5


def _read(path: Path) -> torch.Tensor:
    return torch.tensor(pixels(path)).permute(2, 0, 1) / 127.5 - 1


def test_styles_of_a_file(fastmunit: Command, trained: Path, images: Path, tmp_path: Path) -> None:
    codes, image = torch.randn(2, 8, 1, 1), images / "testA/0.png"
    write_styles(tmp_path / "looks.safetensors", codes, ["red / boot", "…"])
    translated(fastmunit, trained, tmp_path / "out", "-i", image, "--styles-file", tmp_path / "looks.safetensors")
    assert names(tmp_path / "out") == {"0_style00_red___boot.png", "0_style01_unnamed.png"}
    expected = translate_in_python(trained, image, codes)
    found = _read(tmp_path / "out/0_style00_red___boot.png")
    assert (found - expected[0]).abs().max() <= 1.01 / 127.5
    write_styles(tmp_path / "plain.safetensors", codes.half())
    arguments = ["-i", image, "--styles-file", tmp_path / "plain.safetensors"]
    translated(fastmunit, trained, tmp_path / "plain", *arguments)
    assert names(tmp_path / "plain") == {"0_style00.png", "0_style01.png"}
    translated(fastmunit, trained, tmp_path / "between", *arguments, "--interpolate", 4)
    assert len(names(tmp_path / "between")) == 4
    write_styles(tmp_path / "wide.safetensors", torch.randn(2, 9, 1, 1))
    outcome = fastmunit(
        "translate", "--checkpoint", trained, "-o", tmp_path / "no", "-i", image,
        "--styles-file", tmp_path / "wide.safetensors",
    )  # fmt: skip
    assert outcome.status == 1
    assert "wide.safetensors belongs to another model: expected styles (S, 8, 1, 1), got (2, 9, 1, 1)" in outcome.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--styles-file", "s", "--reference", "r"], "give either --reference or --styles-file"),
        (["--styles-file", "s", "--styles", "2"], "give either --styles-file or --styles"),
        (["--styles-file", "s", "--same-styles"], "give either --styles-file or --styles"),
        (["--styles-file", "s"], "styles file s does not exist"),
        (["--interpolate", "3"], "--interpolate needs two styles: give two --reference, or --styles-file"),
        (["--reference", "IMAGE", "--interpolate", "3"], "--interpolate needs two styles, got 1"),
    ],
)
def test_styles_that_contradict_each_other(
    fastmunit: Command, trained: Path, images: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    chosen = [str(images / "testB/0.png") if option == "IMAGE" else option for option in options]
    arguments = ["-i", images / "testA/0.png", "-o", tmp_path / "out", *chosen]
    outcome = fastmunit("translate", "--checkpoint", trained, *arguments)
    assert (outcome.status, message in outcome.err) == (1, True), outcome.err
    assert not (tmp_path / "out").exists()


def test_stale_outputs_of_an_earlier_call_are_removed(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """Only outputs of the same images and kind that have not changed since are removed."""
    for name in "ab":
        picture(tmp_path / f"in/{name}.png", 16, 16)
    out = tmp_path / "out"
    arguments = ["--styles", 4, "-i", tmp_path / "in"]
    translated(fastmunit, trained, out, *arguments)
    translated(fastmunit, trained, out, "-i", tmp_path / "in/a.png", "--reference", tmp_path / "in/b.png")
    mine = picture(out / "a_style07.png", 5, 5)
    changed = picture(out / "a_style03.png", 6, 6)
    kept = {"a_reference00.png", "a_style07.png", "a_style03.png", *(f"b_style{k:02d}.png" for k in range(4))}
    said = translated(fastmunit, trained, out, "--styles", 2, "-i", tmp_path / "in/a.png")
    assert "Removed 1 output of an earlier call" in said
    assert names(out) == kept | {"a_style00.png", "a_style01.png"}
    assert pixels(mine).shape == (5, 5, 3) and pixels(changed).shape == (6, 6, 3)
    assert "Removed" not in translated(fastmunit, trained, out, "--styles", 2, "-i", tmp_path / "in/a.png")
    # Outputs of b are still recorded. One of them is a reference now and stays.
    reference = ["--reference", out / "b_style03.png"]
    assert "Removed" not in translated(fastmunit, trained, out, "-i", tmp_path / "in/b.png", *reference)
    assert "Removed 3 outputs" in translated(fastmunit, trained, out, "-i", tmp_path / "in/b.png", "--styles", 1)


def test_outputs_of_an_interrupted_call_are_removed(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = picture(tmp_path / "a.png", 16, 16), tmp_path / "out"
    mine = picture(out / "a_style03.png", 5, 5)
    save = package.data.save_image

    def save_two(output: torch.Tensor, path: Path) -> None:
        if path.name == "a_style02.png":
            raise KeyboardInterrupt
        save(output, path)

    with monkeypatch.context() as patched:
        patched.setattr("fastmunit.data.save_image", save_two)
        assert fastmunit("translate", "--checkpoint", trained, "-i", image, "-o", out, "--styles", 4).status == 130
    assert names(out) == {"a_style00.png", "a_style01.png", mine.name}
    assert "Removed 1 output" in translated(fastmunit, trained, out, "-i", image, "--styles", 1)
    assert names(out) == {"a_style00.png", mine.name}


def test_a_record_that_was_tampered_with_removes_nothing_elsewhere(tmp_path: Path) -> None:
    outside = picture(tmp_path / "outside.png", 5, 5)
    out = tmp_path / "out"
    victim = picture(out / "victim.png", 5, 5)
    (out / "link.png").symlink_to(outside)
    status = outside.stat()
    described = [status.st_size, status.st_mtime_ns]
    lines = [
        {"image": "x", "kind": "style", "files": [["../outside.png", *described], [str(outside), *described]]},
        {"image": "y", "kind": "style", "files": [["link.png", *described], ["victim.png", 1, 2]]},
    ]
    garbage = b"\xff\x00 no json\n[1]\n" + b"[" * 5000 + b'\n{"image": 1}\n{"image": "x", "kind": "style", "fil'
    (out / RECORD_FILE).write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode() + garbage)
    new = picture(out / "x_style00.png", 4, 4)
    record = OutputRecord(out)
    assert record.replace("x", "style", [new]) == []
    assert record.replace("y", "style", []) == []
    assert outside.exists() and victim.exists() and (out / "link.png").is_symlink()
    assert OutputRecord(out).replace("x", "style", []) == [new]


def test_a_record_that_is_not_a_file_is_refused(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / RECORD_FILE)
    image = picture(tmp_path / "a.png", 16, 16)
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", image, "-o", tmp_path / "out", "--styles", 1)
    assert (outcome.status, "is a FIFO, not a regular file" in outcome.err) == (1, True)


def animation(path: Path, count: int = 3, mode: str = "RGB", **options: object) -> Path:
    random = np.random.default_rng(3)
    frames = [
        Image.fromarray(random.integers(0, 256, (20, 24, 4), dtype=np.uint8), "RGBA").convert(mode)
        for _ in range(count)
    ]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def durations(path: Path) -> list[float]:
    with Image.open(path) as image:
        found = []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            found.append(frame.info["duration"])
        return found


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize(("direction", "mode"), [("a2b", "RGBA"), ("b2a", "RGB")])
def test_animations_stay_animations(
    fastmunit: Command, trained: Path, tmp_path: Path, suffix: str, direction: str, mode: str
) -> None:
    times = [40, 100, 250]
    source = animation(tmp_path / f"moving{suffix}", mode=mode, duration=times, loop=2)
    out = tmp_path / "out"
    translated(fastmunit, trained, out, "-i", source, "--styles", 2, "--direction", direction)
    assert names(out) == {f"moving_style00{suffix}", f"moving_style01{suffix}"}
    for name in names(out):
        assert durations(out / name) == times
        with Image.open(out / name) as image:
            assert (image.n_frames, image.size, image.info["loop"]) == (3, (24, 20), 2)
    with Image.open(source) as image:
        for index, frame in enumerate(ImageSequence.Iterator(image)):
            still = frame.convert("RGBA")
            white = Image.alpha_composite(Image.new("RGBA", still.size, "white"), still).convert("RGB")
            white.save(tmp_path / "still.png")
            stills = tmp_path / f"stills{index}"
            translated(
                fastmunit, trained, stills, "-i", tmp_path / "still.png", "--styles", 2, "--direction", direction
            )
            with Image.open(out / f"moving_style01{suffix}") as written:
                written.seek(index)
                found = np.asarray(written.convert("RGB")).astype(int)
            with Image.open(stills / "still_style01.png") as expected:
                difference = np.abs(found - np.asarray(expected.convert("RGB")))
            assert difference.mean() <= (12 if suffix == ".gif" else 1)  # a GIF has 256 colors


def test_animations_do_not_overwrite_inputs(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    animation(tmp_path / "x.gif")
    other = animation(tmp_path / "x_style00.gif")
    before = other.read_bytes()
    inputs = ["-i", tmp_path / "x.gif", "-i", other]
    outcome = fastmunit("translate", "--checkpoint", trained, "-o", tmp_path, *inputs, "--styles", 1)
    assert (outcome.status, "x_style00.gif is an input and would be overwritten" in outcome.err) == (1, True)
    assert other.read_bytes() == before


def test_a_damaged_animation_is_left_out(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    whole = animation(tmp_path / "moving.png").read_bytes()
    (tmp_path / "moving.png").write_bytes(whole[: len(whole) // 2])
    image = picture(tmp_path / "a.png", 16, 16)
    outcome = fastmunit(
        "translate", "--checkpoint", trained, "-i", tmp_path / "moving.png", "-i", image, "-o", tmp_path / "out",
        "--styles", 1,
    )  # fmt: skip
    assert (outcome.status, "1 of 2 images could not be translated" in outcome.err) == (1, True), outcome.err
    assert names(tmp_path / "out") == {"a_style00.png"}


def test_an_apng_with_a_still_and_one_frame_is_an_image(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    animation(tmp_path / "one.png", count=2, default_image=True)
    animation(tmp_path / "two.png", count=3, default_image=True, duration=[50, 60])
    translated(fastmunit, trained, tmp_path / "out", "-i", tmp_path / "one.png", "-i", tmp_path / "two.png",
               "--styles", 1)  # fmt: skip
    with Image.open(tmp_path / "out/one_style00.png") as image:
        assert getattr(image, "n_frames", 1) == 1
    assert durations(tmp_path / "out/two_style00.png") == [50, 60]
