"""`fastmunit.translate` and `load_translator`: the same images from every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fastmunit
from fastmunit.config import Config
from fastmunit.data import read_image, save_image
from fastmunit.errors import CheckpointError, ConfigError, FastmunitError

SMALL = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "dis.n_layer=2", "display_size=2"]


@pytest.fixture(scope="module")
def trainer() -> fastmunit.MUNIT:
    torch.manual_seed(0)
    return fastmunit.MUNIT(Config.load("demo", [*SMALL, "input_dim_a=1"]))


@pytest.fixture(scope="module")
def run_folder(trainer: fastmunit.MUNIT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer.save(folder / "checkpoints", 4)
    trainer.config.save(folder / "config.yaml")
    return folder


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 30, 41, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_every_kind_of_model_and_input_gives_the_same(
    trainer: fastmunit.MUNIT, run_folder: Path, image: torch.Tensor, tmp_path: Path
) -> None:
    expected = fastmunit.translate(trainer, image, 3, seed=5)
    assert expected.shape == (3, 3, 30, 41)
    assert trainer.training
    file = run_folder / "checkpoints/gen_00000005.pt"
    for model in (run_folder, file, fastmunit.load_translator(run_folder)):
        torch.testing.assert_close(fastmunit.translate(model, image, 3, seed=5), expected)
    batch = torch.stack([image, -image])
    both = fastmunit.translate(run_folder, batch, 3, seed=5)
    assert both.shape == (2, 3, 3, 30, 41)
    torch.testing.assert_close(both[0], expected)
    save_image(image, tmp_path / "input.png")
    rounded = read_image(tmp_path / "input.png", 1)
    torch.testing.assert_close(
        fastmunit.translate(trainer, tmp_path / "input.png", 3, seed=5),
        fastmunit.translate(trainer, rounded, 3, seed=5),
    )


def test_styles_may_be_codes_or_an_image(trainer: fastmunit.MUNIT, image: torch.Tensor, tmp_path: Path) -> None:
    codes = torch.randn(2, 8, 1, 1)
    outputs = fastmunit.translate(trainer, image, codes)
    padded = torch.nn.functional.pad(image[None], (0, 3, 0, 2), mode="reflect")
    with torch.inference_mode():
        content = trainer.gen_a.enc_content(padded)
        expected = torch.cat([trainer.gen_b.decode(content, code[None]) for code in codes])[..., :30, :41]
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    save_image(torch.rand(3, 32, 32) * 2 - 1, tmp_path / "style.png")
    guided = fastmunit.translate(trainer, image, tmp_path / "style.png")
    with torch.inference_mode():
        style = trainer.gen_b.enc_style(read_image(tmp_path / "style.png", 3)[None])
    torch.testing.assert_close(guided, fastmunit.translate(trainer, image, style), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_and_codes_of_any_type_are_brought_to_that_of_the_weights(
    trainer: fastmunit.MUNIT, image: torch.Tensor, dtype: torch.dtype
) -> None:
    image, codes = image.to(dtype), torch.randn(2, 8, 1, 1).to(dtype)
    assert torch.equal(
        fastmunit.translate(trainer, image, codes), fastmunit.translate(trainer, image.float(), codes.float())
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_is_close(trainer: fastmunit.MUNIT, image: torch.Tensor, precision: str) -> None:
    exact = fastmunit.translate(trainer, image, 3)
    rounded = fastmunit.translate(trainer, image, 3, precision=precision)  # type: ignore[arg-type]
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().max()) < 0.1


def test_both_directions_have_their_channels(trainer: fastmunit.MUNIT, image: torch.Tensor) -> None:
    back = fastmunit.translate(trainer, image.expand(3, -1, -1), 2, direction="b2a")
    assert back.shape == (2, 1, 30, 41)
    with pytest.raises(FastmunitError, match="the image has 3 channels and the model takes 1"):
        fastmunit.translate(trainer, image.expand(3, -1, -1), 2)


def test_mistakes_are_named(run_folder: Path, image: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist: check the path"):
        fastmunit.translate(tmp_path / "nothing", image)
    with pytest.raises(CheckpointError, match="holds no snapshot"):
        fastmunit.translate(tmp_path, image)
    lonely = tmp_path / "gen_00000005.pt"
    lonely.write_bytes((run_folder / "checkpoints/gen_00000005.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"there is no config\.yaml beside"):
        fastmunit.translate(lonely, image)
    with pytest.raises(CheckpointError, match="does not fit the configuration"):
        fastmunit.translate(lonely, image, config="demo")
    with pytest.raises(ConfigError, match=r"system 'munitt' is none of .*; did you mean 'munit'\?"):
        fastmunit.translate(lonely, image, config=Config(system="munitt"))
    with pytest.raises(ValueError, match=r"must be \(C, H, W\) or \(N, C, H, W\)"):
        fastmunit.translate(run_folder, image[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"direction": "a2a"}, "direction is 'a2a': use a2b or b2a"),
        ({"precision": "fp16"}, "precision is 'fp16': use one of float32, bfloat16, float16"),
        ({"styles": 0}, "styles is 0: ask for at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"styles": torch.zeros(2, 5, 1, 1)}, r"styles must be \(S, 8, 1, 1\), not of shape \(2, 5, 1, 1\)"),
        ({"styles": torch.zeros(0, 8, 1, 1)}, r"styles must be \(S, 8, 1, 1\)"),
        ({"images": torch.zeros(0, 1, 32, 32)}, r"not \(0, 1, 32, 32\) in torch.float32"),
        ({"images": torch.zeros(1, 32, 32, dtype=torch.uint8)}, "in torch.uint8"),
    ],
)
def test_wrong_arguments_are_named(
    trainer: fastmunit.MUNIT, image: torch.Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fastmunit.translate(trainer, **{"images": image, **arguments})
