from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastmunit import load_generators
from fastmunit.config import Config, GeneratorConfig
from fastmunit.data import read_image
from fastmunit.errors import FastmunitError
from fastmunit.nn.networks.autoencoders import AdaINGen
from fastmunit.systems.translators import StyleTranslator, value_mapping
from fastmunit.translation.output_record import RECORD_FILE
from fastmunit.translation.style_file import write_styles
from tests.cli.conftest import Command


def picture(path: Path, height: int, width: int, mode: str = "RGB") -> Path:
    random = np.random.default_rng(height * 1000 + width)
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        Image.fromarray(random.integers(0, 65536, (height, width), dtype=np.uint16)).save(path)
    else:
        pixels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    return path


def shape(path: Path) -> tuple[int, int, str]:
    with Image.open(path) as image:
        return image.height, image.width, image.mode


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(("direction", "mode"), [("a2b", "RGB"), ("b2a", "L")])
@pytest.mark.parametrize(("height", "width"), [(33, 50), (1, 1), (64, 17), (3, 90)])
def test_odd_sizes_in_both_directions(
    fastmunit: Command, trained: Path, tmp_path: Path, direction: str, mode: str, height: int, width: int
) -> None:
    image = picture(tmp_path / "in.png", height, width)
    outcome = fastmunit(
        "translate", "--checkpoint", trained, "--input", image, "--output", tmp_path / "out",
        "--direction", direction, "--styles", 3,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != RECORD_FILE)
    assert names == ["in_style00.png", "in_style01.png", "in_style02.png", "sheet.png"]
    for name in names[:3]:
        assert shape(tmp_path / "out" / name) == (height, width, mode)
    assert shape(tmp_path / "out/sheet.png") == (height + 4, 4 * (width + 2) + 2, "RGB")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_kind_of_image(fastmunit: Command, trained: Path, tmp_path: Path, mode: str) -> None:
    image = picture(tmp_path / ("in.tif" if mode == "CMYK" else "in.png"), 20, 24, mode)
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", image, "-o", tmp_path / "out", "--styles", 1)
    assert outcome.status == 0, outcome.err
    assert shape(tmp_path / "out/in_style00.png") == (20, 24, "RGB")


def test_public_generator_file_with_only_its_config(
    fastmunit: Command, trained: Path, tmp_path: Path, images: Path
) -> None:
    shutil.copy(trained / "checkpoints/gen_00000002.pt", tmp_path / "downloaded.pt")
    image = images / "testA/0.png"
    arguments = ["translate", "--checkpoint", tmp_path / "downloaded.pt", "-i", image, "-o", tmp_path / "out"]
    outcome = fastmunit(*arguments)
    assert outcome.status == 1
    assert "give --config" in outcome.err
    outcome = fastmunit(*arguments, "--config", trained / "config.yaml", "--styles", 2)
    assert outcome.status == 0, outcome.err
    fastmunit("translate", "--checkpoint", trained, "-i", image, "-o", tmp_path / "again", "--styles", 2)
    for name in ("0_style00.png", "0_style01.png"):
        assert (pixels(tmp_path / "out" / name) == pixels(tmp_path / "again" / name)).all()


def test_styles_depend_on_the_seed_and_on_same_styles(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    first = picture(source / "a.png", 32, 32)
    shutil.copy(first, source / "b.png")

    def run(name: str, *arguments: object) -> list[np.ndarray]:
        outcome = fastmunit(
            "translate", "--checkpoint", trained, "-i", source, "-o", tmp_path / name, "--styles", 2, *arguments
        )
        assert outcome.status == 0, outcome.err
        return [pixels(tmp_path / name / f"{image}_style{k:02d}.png") for image in "ab" for k in range(2)]

    plain, again, other, same = run("1"), run("2"), run("3", "--seed", 1), run("4", "--same-styles")
    assert all((x == y).all() for x, y in zip(plain, again, strict=True))
    assert not any((x == y).all() for x, y in zip(plain, other, strict=True))
    assert not (plain[0] == plain[2]).all()
    assert (same[0] == same[2]).all()
    assert (same[1] == same[3]).all()
    one_at_a_time = run("5", "--batch-size", 1)
    assert all(np.abs(x.astype(int) - y).max() <= 1 for x, y in zip(plain, one_at_a_time, strict=True))


def test_reference_takes_the_style_of_the_target_domain(
    fastmunit: Command, trained: Path, tmp_path: Path, images: Path
) -> None:
    references = [images / "testB/0.png", images / "testB/1.png"]
    outcome = fastmunit(
        "translate", "--checkpoint", trained, "-i", images / "testA/0.png", "-o", tmp_path / "out",
        "--reference", references[0], "--reference", references[1],
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    config = Config.load(trained / "config.yaml")
    gen_a, gen_b = load_generators(trained / "checkpoints/gen_00000002.pt", config)
    with torch.inference_mode():
        style = gen_b.enc_style(padded_by_hand(read_image(references[1], 3)))
        expected = gen_b.decode(gen_a.enc_content(padded_by_hand(read_image(images / "testA/0.png", 1))), style)
    written = read_image(tmp_path / "out/0_reference01.png", 3)
    assert (written - expected[0, :, :40, :37]).abs().max() <= 1.01 / 127.5


def padded_by_hand(image: torch.Tensor) -> torch.Tensor:
    """Reflect 40x37 to 40x40: columns 37, 38, 39 mirror columns 35, 34, 33."""
    return torch.cat([image, image[..., [35, 34, 33]]], dim=-1)[None]


def test_folder_with_subfolders_and_equal_stems(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    picture(source / "x.png", 16, 20)
    picture(source / "x.jpg", 18, 16)
    picture(source / "deep/x.png", 40, 16)
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", source, "-o", tmp_path / "out", "--styles", 1)
    assert outcome.status == 0, outcome.err
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"x_png_style00.png", "x_jpg_style00.png", "deep/x_style00.png", "sheet.png"}


def test_size_and_stretch(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "in.png", 60, 90)
    arguments = ["translate", "--checkpoint", trained, "-i", image, "--styles", 1, "--size", 32]
    assert fastmunit(*arguments, "-o", tmp_path / "plain").status == 0
    assert fastmunit(*arguments, "-o", tmp_path / "stretched", "--stretch").status == 0
    plain, stretched = (pixels(tmp_path / name / "in_style00.png") for name in ("plain", "stretched"))
    assert plain.shape == stretched.shape == (32, 48, 3)
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert (plain.min(), plain.max()) != (0, 255)


def test_size_hint(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "in.png", 200, 100)
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", image, "-o", tmp_path / "out", "--styles", 1)
    assert "--size 32" in outcome.out


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("checkpoints/optimizer.pt", "optimizer"),
        ("checkpoints/dis_00000002.pt", "discriminators"),
        ("checkpoints/gen_00000009.pt", "does not exist"),
        ("images", "no checkpoint"),
        ("config.yaml", "config.yaml"),
    ],
)
def test_wrong_checkpoint(
    fastmunit: Command, trained: Path, images: Path, tmp_path: Path, checkpoint: str, message: str
) -> None:
    outcome = fastmunit(
        "translate", "--checkpoint", trained / checkpoint, "--config", trained / "config.yaml",
        "-i", images / "testA/0.png", "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.status == 1
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_truncated_checkpoint(fastmunit: Command, trained: Path, images: Path, tmp_path: Path) -> None:
    whole = (trained / "checkpoints/gen_00000002.pt").read_bytes()
    (tmp_path / "gen.pt").write_bytes(whole[: len(whole) // 2])
    outcome = fastmunit(
        "translate", "--checkpoint", tmp_path / "gen.pt", "--config", trained / "config.yaml",
        "-i", images / "testA/0.png", "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.status == 1
    assert "truncated" in outcome.err


def test_nothing_is_written_if_no_image_can_be_read(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("no image")
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "2 of 2 images could not be translated" in outcome.err
    assert "a.png" in outcome.err and "b.png" in outcome.err
    assert not (tmp_path / "out").exists()


def five_bands(path: Path) -> None:
    tifffile.imwrite(
        path, np.zeros((16, 16, 5), np.uint8), photometric="minisblack", planarconfig="contig", tile=(16, 16)
    )


def test_damaged_images_do_not_stop_the_others(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """One header cannot be read, one file is truncated, and one has bands that the model does not take."""
    for name in "acf":
        picture(tmp_path / f"in/{name}.png", 16, 16)
    (tmp_path / "in/b.png").write_text("no image")
    whole = picture(tmp_path / "in/d.png", 40, 40).read_bytes()
    (tmp_path / "in/d.png").write_bytes(whole[: len(whole) // 2])
    five_bands(tmp_path / "in/e.tif")
    arguments = ["translate", "--checkpoint", trained, "--styles", 1]
    outcome = fastmunit(*arguments, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "3 of 6 images could not be translated:" in outcome.err
    assert all(name in outcome.err for name in ("b.png", "d.png is damaged", "e.tif has 5 channels"))
    assert "Wrote 3 images" in outcome.out
    assert sorted(path.name for path in (tmp_path / "out").glob("?_*")) == [f"{k}_style00.png" for k in "acf"]
    assert shape(tmp_path / "out/sheet.png")[0] == 3 * 18 + 2
    one = fastmunit(*arguments, "-i", tmp_path / "in/d.png", "-o", tmp_path / "one")
    assert (one.status, "1 of 1 images" in one.err, "d.png is damaged" in one.err) == (1, True, True)


def test_inputs_are_never_overwritten(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    image = picture(source / "sheet.png", 16, 16)
    before = image.read_bytes()
    for chosen, output in ((source, source), (source, source / "out"), (image, source)):
        outcome = fastmunit("translate", "--checkpoint", trained, "-i", chosen, "-o", output)
        assert outcome.status == 1
        assert "choose" in outcome.err
    assert image.read_bytes() == before
    assert [path.name for path in source.iterdir()] == ["sheet.png"]


def test_references_are_never_overwritten(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    image, reference = picture(tmp_path / "a.png", 16, 16), picture(tmp_path / "a_reference00.png", 20, 16)
    before = reference.read_bytes()
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", image, "--reference", reference, "-o", tmp_path)
    assert (outcome.status, "a_reference00.png is an input" in outcome.err) == (1, True)
    assert reference.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_reference00.png"]


def test_outputs_never_overwrite_each_other(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    base = ("translate", "--checkpoint", trained, "-o", tmp_path / "out")
    write_styles(tmp_path / "s.safetensors", torch.randn(2, 8, 1, 1), ["x_style01_y", "y"])
    images = [picture(tmp_path / name, 16, 16) for name in ("a.png", "a_style00_x.png")]
    inputs = [word for image in images for word in ("-i", image)]
    outcome = fastmunit(*base, *inputs, "--styles-file", tmp_path / "s.safetensors")
    assert (outcome.status, "2 images would be written to" in outcome.err) == (1, True)
    assert "a_style00_x_style01_y.png" in outcome.err
    assert not (tmp_path / "out").exists()


def test_generators_alone_are_enough(fastmunit: Command, trained: Path, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("config.yaml", "checkpoints/gen_00000002.pt", "checkpoints/dis_00000002.pt"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained / name, run / name)
    arguments = ["translate", "--checkpoint", run, "-i", images / "testA/0.png", "--styles", 1]
    outcome = fastmunit(*arguments, "-o", tmp_path / "without optimizer")
    assert outcome.status == 0, outcome.err
    (run / "checkpoints/dis_00000002.pt").unlink()
    shutil.copy(run / "checkpoints/gen_00000002.pt", run / "checkpoints/gen_00000001.pt")
    outcome = fastmunit(*arguments, "-o", tmp_path / "generators only")
    assert outcome.status == 0, outcome.err


def test_bands_are_checked_before_anything_is_written(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    five_bands(tmp_path / "in/b.tif")
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert (outcome.status, "b.tif has 5 channels but input_dim is 1" in outcome.err) == (1, True)
    assert not (tmp_path / "out").exists()


def test_missing_input_and_contradicting_options(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    outcome = fastmunit("translate", "--checkpoint", trained, "-i", tmp_path / "nothing", "-o", tmp_path / "out")
    assert (outcome.status, "does not exist" in outcome.err) == (1, True)
    image = picture(tmp_path / "in.png", 16, 16)
    outcome = fastmunit(
        "translate", "--checkpoint", trained, "-i", image, "-o", tmp_path / "out", "--reference", image, "--styles", 2
    )
    assert (outcome.status, "either --reference or --styles" in outcome.err) == (1, True)


SIZES = GeneratorConfig(dim=4, mlp_dim=8, n_res=1)


def translator_of(source: AdaINGen, target: AdaINGen, sizes: GeneratorConfig = SIZES) -> StyleTranslator:
    return StyleTranslator({"a": source, "b": target}, Config(gen=sizes), "a2b")


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 70), width=st.integers(1, 70), n_downsample=st.integers(0, 4))
def test_any_size_keeps_its_size(height: int, width: int, n_downsample: int) -> None:
    config = SIZES.model_copy(update={"n_downsample": n_downsample})
    generator = AdaINGen(3, config)
    translator = translator_of(generator, generator, config)
    image = torch.rand(3, height, width) * 2 - 1
    styles = torch.cat([translator.random_styles(2, torch.Generator().manual_seed(0)), translator.style_of(image)])
    outputs = translator.translate(image, styles)
    assert outputs.shape == (3, 3, height, width)
    assert outputs.isfinite().all()


def test_sizes_that_fit_are_not_padded() -> None:
    torch.manual_seed(0)
    source, target = AdaINGen(3, SIZES), AdaINGen(3, SIZES)
    translator = translator_of(source, target)
    image, style = torch.rand(3, 20, 28), torch.randn(1, 8, 1, 1)
    with torch.inference_mode():
        expected = target.decode(source.enc_content(image[None]), style)
    torch.testing.assert_close(translator.translate(image, style), expected)


def test_running_out_of_memory_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = AdaINGen(3, SIZES)
    translator = translator_of(generator, generator)
    image, style = torch.rand(3, 20, 28), torch.randn(1, 8, 1, 1)
    for module in (generator.enc_style, generator.dec):
        monkeypatch.setattr(module, "forward", lambda *_: torch.empty(1 << 55))
    with pytest.raises(FastmunitError, match="not enough memory for an image of 20x28"):
        translator.translate(image, style)
    with pytest.raises(FastmunitError, match="not enough memory for an image of 20x28"):
        translator.style_of(image)
    for error in (RuntimeError("MPS backend out of memory"), RuntimeError("CUDA error: out of memory"), MemoryError()):
        monkeypatch.setattr(generator.dec, "forward", mock.Mock(side_effect=error))
        with pytest.raises(FastmunitError, match="not enough memory for an image of 20x28"):
            translator.translate(image, style)
    monkeypatch.setattr(generator.dec, "forward", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        translator.translate(image, style)


def test_stretch_of_a_constant_image_is_finite() -> None:
    assert value_mapping(True)(torch.full((3, 2, 2), 0.25)).isfinite().all()
    image = torch.tensor([-0.5, 0.0, 0.5])
    assert torch.equal(value_mapping(False)(image), image)
    torch.testing.assert_close(value_mapping(True)(image), torch.tensor([-1.0, 0.0, 1.0]))
