"""`fastmunit.translate`, `load_translator` and `load_generators`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastmunit
from fastmunit.config import Config
from fastmunit.data import read_image, save_image
from fastmunit.errors import CheckpointError, ConfigError, DataError, FastmunitError
from fastmunit.translation.style_file import write_styles

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
    reference = read_image(tmp_path / "style.png", 3)
    assert torch.equal(fastmunit.translate(trainer, image, reference), guided)
    assert torch.equal(fastmunit.translate(trainer, image, [reference]), guided)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_and_codes_are_cast_to_the_dtype_of_the_weights(
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
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        fastmunit.translate(tmp_path, image)
    lonely = tmp_path / "gen_00000005.pt"
    lonely.write_bytes((run_folder / "checkpoints/gen_00000005.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"there is no config\.yaml next to"):
        fastmunit.translate(lonely, image)
    with pytest.raises(CheckpointError, match="does not fit the configuration"):
        fastmunit.translate(lonely, image, config="demo")
    with pytest.raises(ConfigError, match=r"system 'munitt' is none of .*; did you mean 'munit'\?"):
        fastmunit.translate(lonely, image, config=Config(system="munitt"))
    with pytest.raises(ValueError, match=r"expected images \(C, H, W\) or \(N, C, H, W\), got \(30, 41\)"):
        fastmunit.translate(run_folder, image[0])


def test_generators_of_a_run_folder_or_a_file(trainer: fastmunit.MUNIT, run_folder: Path) -> None:
    file = run_folder / "checkpoints/gen_00000005.pt"
    for arguments in ((run_folder,), (file,), (file, trainer.config), (file, run_folder / "config.yaml")):
        gen_a, gen_b = fastmunit.load_generators(*arguments)
        assert not gen_a.training and not gen_b.training
        assert torch.equal(gen_a.enc_style.model[0].conv.weight, trainer.gen_a.enc_style.model[0].conv.weight)


def test_arguments_that_contradict_the_model(trainer: fastmunit.MUNIT, run_folder: Path, image: torch.Tensor) -> None:
    backward = fastmunit.load_translator(run_folder, direction="b2a")
    rgb = image.expand(3, -1, -1)
    expected = fastmunit.translate(trainer, rgb, 2, direction="b2a")
    assert torch.equal(fastmunit.translate(backward, rgb, 2), expected)
    assert torch.equal(fastmunit.translate(backward, rgb, 2, direction="b2a", device="cpu"), expected)
    with pytest.raises(ValueError, match="direction is 'a2b', but the translator is for b2a: leave direction out"):
        fastmunit.translate(backward, rgb, 2, direction="a2b")
    for model in (trainer, backward):
        with pytest.raises(ValueError, match=r"config is for a run folder or a gen_\*\.pt, .*: leave config out"):
            fastmunit.translate(model, rgb, 2, config="demo")
    meta = torch.empty(0, device="meta").device
    for model in (trainer, backward):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastmunit.translation.translate.resolve_device", lambda name: meta)
            with pytest.raises(ValueError, match="device is 'other', but the model is on cpu: leave device out"):
                fastmunit.translate(model, rgb, 2, direction="b2a", device="other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"direction": "a2a"}, "direction is 'a2a': use a2b or b2a"),
        ({"precision": "fp16"}, "precision is 'fp16': use one of float32, bfloat16, float16"),
        ({"styles": 0}, "styles is 0: use at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"styles": torch.zeros(2, 5, 1, 1)}, r"expected styles \(S, 8, 1, 1\), got \(2, 5, 1, 1\)"),
        ({"styles": torch.zeros(0, 8, 1, 1)}, r"expected styles \(S, 8, 1, 1\), got \(0, "),
        ({"images": torch.zeros(0, 1, 32, 32)}, r"got \(0, 1, 32, 32\) in torch.float32"),
        ({"images": torch.zeros(1, 32, 32, dtype=torch.uint8)}, "in torch.uint8"),
        ({"images": []}, "images is an empty list"),
        ({"images": [torch.zeros(1, 1, 32, 32)]}, r"images: expected \(C, H, W\), got shape \(1, 1, 32, 32\)"),
        (
            {"images": np.zeros((2, 8, 8, 1), np.uint8)},
            r"expected an array \(H, W\) or \(H, W, C\), got shape \(2, 8, 8, 1\)",
        ),
        ({"images": np.zeros((0, 8), np.uint8)}, r"got shape \(0, 8\)"),
        (
            {"styles": torch.zeros(2, 8, 1, 1, dtype=torch.int64)},
            "expected styles as floating point numbers, got torch.int64",
        ),
        ({"styles": []}, "styles is an empty list"),
        ({"seed": 2**64}, "seed is 18446744073709551616: use a number from"),
    ],
)
def test_wrong_arguments_are_named(
    trainer: fastmunit.MUNIT, image: torch.Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fastmunit.translate(trainer, **{"images": image, **arguments})


def test_max_pixels_of_the_call_or_of_the_configuration(
    trainer: fastmunit.MUNIT, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(torch.zeros(1, 16, 16), tmp_path / "input.png")
    save_image(torch.zeros(3, 16, 16), tmp_path / "style.png")
    image, style = tmp_path / "input.png", tmp_path / "style.png"
    narrow = Config.load(run_folder / "config.yaml", ["max_pixels=255"])
    for arguments in ({"max_pixels": 255}, {"config": narrow}):
        for images in (image, [image]):
            with pytest.raises(DataError, match=r"input\.png has 0\.000256 megapixels, more than the limit"):
                fastmunit.translate(run_folder, images, 1, **arguments)  # type: ignore[call-overload]
        for styles in (style, [style]):
            with pytest.raises(DataError, match=r"style\.png has 0\.000256 megapixels, more than the limit"):
                fastmunit.translate(run_folder, torch.zeros(1, 16, 16), styles, **arguments)  # type: ignore[call-overload]
    assert fastmunit.translate(run_folder, image, style, config=narrow, max_pixels=256).shape == (1, 3, 16, 16)
    monkeypatch.setattr(trainer.config, "max_pixels", 255)
    with pytest.raises(DataError, match="more than the limit"):
        fastmunit.translate(trainer, image, 1)
    with pytest.raises(ValueError, match="max_pixels is 0"):
        fastmunit.translate(trainer, image, 1, max_pixels=0)


def test_outputs_are_ordinary_tensors(trainer: fastmunit.MUNIT, image: torch.Tensor) -> None:
    """Outputs can be modified in place, require gradients, and enter losses that are differentiated."""
    for outputs in (fastmunit.translate(trainer, image, 2), fastmunit.translate(trainer, image[:, :16, :16], 2)):
        assert not outputs.is_inference() and outputs.is_contiguous() and not outputs.requires_grad
        outputs.clamp_(-0.5, 0.5)
        layer = torch.nn.Conv2d(3, 1, 1)
        (layer(outputs).mean() * outputs.requires_grad_().mean()).backward()
        assert layer.weight.grad is not None and outputs.grad is not None
    with torch.inference_mode():
        assert not fastmunit.translate(trainer, image, 2).is_inference()
    code = trainer.evaluation_translator("a2b").style_of(torch.rand(3, 32, 32)).requires_grad_()
    (code**2).sum().backward()


def test_weights_of_a_loaded_model_get_no_gradients(run_folder: Path, image: torch.Tensor) -> None:
    assert not fastmunit.translate(run_folder, image.requires_grad_(), 2).requires_grad


def as_picture(channels: int, depth: type = np.uint8, height: int = 20, width: int = 24) -> np.ndarray:
    random = np.random.default_rng(channels)
    shape = (height, width) if channels == 0 else (height, width, channels)
    return random.integers(0, np.iinfo(depth).max, shape, dtype=depth, endpoint=True)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_arrays_and_pil_images_are_translated_as_their_files(
    trainer: fastmunit.MUNIT, tmp_path: Path, channels: int, direction: str
) -> None:
    array = as_picture(channels)
    picture = Image.fromarray(array[..., 0] if channels == 1 else array)
    picture.save(tmp_path / "image.png")
    expected = fastmunit.translate(trainer, tmp_path / "image.png", 2, direction=direction)
    for same in (array, picture, str(tmp_path / "image.png"), np.asfortranarray(array)):
        assert torch.equal(fastmunit.translate(trainer, same, 2, direction=direction), expected)
    guided = fastmunit.translate(trainer, tmp_path / "image.png", tmp_path / "image.png", direction=direction)
    for same in (array, picture, [array]):
        assert torch.equal(fastmunit.translate(trainer, array, same, direction=direction), guided)


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_arrays_of_uint16(trainer: fastmunit.MUNIT, channels: int) -> None:
    """Multiples of 257 are 8-bit values. A 16-bit gray file is translated as its array."""
    array = as_picture(channels)
    expected = fastmunit.translate(trainer, array, 1, direction="b2a")
    for deep in (array.astype(np.uint16) * 257, (array.astype(np.uint16) * 257).astype(">u2")):
        outputs = fastmunit.translate(trainer, deep, 1, direction="b2a")
        torch.testing.assert_close(
            outputs, expected, rtol=0, atol=0.05
        )  # 8-bit pixels are rounded when blended with white and converted to gray
    if channels == 0:
        deep = as_picture(0, np.uint16)
        of_file = fastmunit.translate(trainer, Image.fromarray(deep), 1)
        torch.testing.assert_close(fastmunit.translate(trainer, deep, 1), of_file)


def test_lists_of_anything(trainer: fastmunit.MUNIT, image: torch.Tensor, tmp_path: Path) -> None:
    array = as_picture(3, height=30, width=41)
    Image.fromarray(array).save(tmp_path / "image.png")
    several = [image, array, Image.fromarray(array), tmp_path / "image.png"]
    outputs = fastmunit.translate(trainer, several, 2)
    assert isinstance(outputs, torch.Tensor) and outputs.shape == (4, 2, 3, 30, 41)
    assert torch.equal(outputs[0], fastmunit.translate(trainer, image, 2))
    assert torch.equal(outputs[1], outputs[2]) and torch.equal(outputs[1], outputs[3])
    assert fastmunit.translate(trainer, (image,), 2).shape == (1, 2, 3, 30, 41)  # type: ignore[union-attr]
    sizes = fastmunit.translate(trainer, [image, array[:20]], 2)
    assert isinstance(sizes, list) and [tuple(output.shape[2:]) for output in sizes] == [(30, 41), (20, 41)]
    guided = fastmunit.translate(trainer, image, [array, tmp_path / "image.png", Image.fromarray(array)])
    assert guided.shape == (3, 3, 30, 41)
    torch.testing.assert_close(guided[:1], fastmunit.translate(trainer, image, array))


def test_numbers_of_numpy(trainer: fastmunit.MUNIT, image: torch.Tensor) -> None:
    expected = fastmunit.translate(trainer, image, 3, seed=5)
    outputs = fastmunit.translate(trainer, image, np.int64(3), seed=np.uint8(5), batch_size=np.int32(3))  # type: ignore[arg-type]
    assert torch.equal(outputs, expected)


def test_styles_of_a_file(trainer: fastmunit.MUNIT, image: torch.Tensor, tmp_path: Path) -> None:
    codes = torch.randn(2, 8, 1, 1)
    write_styles(tmp_path / "codes.safetensors", codes.double(), ["a", "b"])
    outputs = fastmunit.translate(trainer, image, tmp_path / "codes.safetensors")
    assert torch.equal(outputs, fastmunit.translate(trainer, image, codes))
    write_styles(tmp_path / "codes.safetensors", codes[:, :4])
    with pytest.raises(DataError, match=r"belongs to another model: expected styles \(S, 8, 1, 1\)"):
        fastmunit.translate(trainer, image, tmp_path / "codes.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 7}, "images: expected a path, a PIL image, a NumPy array .*, got int"),
        ({"images": None}, "images: expected a path, .* got NoneType"),
        ({"images": b"in.png"}, "images: expected a path, .* got bytes"),
        ({"images": [[torch.zeros(1, 8, 8)]]}, "images: expected a path, .* got list"),
        ({"images": np.zeros((8, 8), np.float32)}, "array of uint8 or uint16, got float32"),
        ({"images": np.zeros((8, 8), bool)}, "array of uint8 or uint16, got bool"),
        ({"images": np.zeros((8, 8), np.int64)}, "array of uint8 or uint16, got int64"),
        ({"images": np.array(["a.png"])}, "array of uint8 or uint16, got <U5"),
        ({"styles": 2.0}, "styles: expected an integer, got float"),
        ({"styles": np.float32(2)}, "styles: expected an integer, got float32"),
        ({"styles": True}, "styles: expected an integer, got bool"),
        ({"styles": np.bool_(True)}, "styles: expected an integer, got bool"),
        ({"styles": {}}, "styles: expected a number of styles, codes .*, a .safetensors file, .* got dict"),
        ({"styles": [3]}, "styles: expected a number of styles, .* got int"),
        ({"styles": np.zeros((2, 8, 1, 1))}, "styles: expected a NumPy array of uint8 or uint16, got float64"),
        ({"seed": True}, "seed: expected an integer, got bool"),
        ({"seed": 1.5}, "seed: expected an integer, got float"),
        ({"batch_size": True}, "batch_size: expected an integer, got bool"),
        ({"model": torch.nn.Conv2d(3, 3, 1)}, "model: expected a run folder, .* got Conv2d"),
    ],
)
def test_other_types_are_named(
    trainer: fastmunit.MUNIT, image: torch.Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message) as raised:
        fastmunit.translate(**{"model": trainer, "images": image, **arguments})
    assert len(str(raised.value)) < 400


def test_a_damaged_pil_image_is_named(trainer: fastmunit.MUNIT, tmp_path: Path) -> None:
    Image.fromarray(as_picture(3)).save(tmp_path / "image.png")
    whole = (tmp_path / "image.png").read_bytes()
    (tmp_path / "image.png").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "image.png") as opened, pytest.raises(DataError, match="the PIL image is damaged"):
        fastmunit.translate(trainer, opened, 1)
    with pytest.raises(DataError, match="a PIL image of 0x4 pixels"):
        fastmunit.translate(trainer, Image.new("RGB", (0, 4)), 1)


def test_precision_applies_to_the_call(run_folder: Path, image: torch.Tensor) -> None:
    """None uses the translator's own precision. Calls in other threads do not matter."""
    translator = fastmunit.load_translator(run_folder)
    exact, rounded = (fastmunit.translate(translator, image, 2, precision=p) for p in ("float32", "bfloat16"))  # type: ignore[arg-type]
    assert translator.precision == "float32"
    assert not torch.equal(exact, rounded)
    assert torch.equal(fastmunit.translate(translator, image, 2), exact)
    translator.precision = "bfloat16"
    assert torch.equal(fastmunit.translate(translator, image, 2), rounded)
    assert torch.equal(fastmunit.translate(translator, image, 2, precision="float32"), exact)

    def ask(index: int) -> bool:
        precision, expected = [(None, rounded), ("bfloat16", rounded), ("float32", exact)][index % 3]
        return torch.equal(fastmunit.translate(translator, image, 2, precision=precision), expected)  # type: ignore[arg-type]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(40)))
    assert translator.precision == "bfloat16"


def test_no_styles_are_named(trainer: fastmunit.MUNIT, image: torch.Tensor) -> None:
    translator = trainer.evaluation_translator("a2b")
    with pytest.raises(ValueError, match=r"with S of at least 1, got \(0, "):
        translator.translate(image, torch.zeros(0, translator.style_dim, 1, 1))
