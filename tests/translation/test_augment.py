"""`fastmunit.Augment` and `AugmentedDataset`: types, draws, batches and worker processes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import fastmunit
from fastmunit.config import Config
from fastmunit.errors import ConfigError, DataError
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator
from fastmunit.translation.style_file import write_styles

SMALL = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "dis.n_layer=2", "display_size=2"]
CODES = torch.randn(3, 8, 1, 1, generator=torch.Generator().manual_seed(0))


class Painted(Translator):
    """A translator whose output is its style, a color, so that the draws can be read from it."""

    def __init__(self, channels: tuple[int, int] = (3, 3)) -> None:
        super().__init__(nn.PReLU(), multiple=4, min_size=4, channels=channels, style_dim=channels[1])
        self.calls = 0

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        self.calls += 1
        return styles.tanh().expand(-1, -1, *content.shape[2:])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    trainer = fastmunit.MUNIT(Config.load("demo", SMALL))
    folder = tmp_path_factory.mktemp("run")
    trainer.save(folder / "checkpoints", 4)
    trainer.config.save(folder / "config.yaml")
    return folder


def pictures(count: int, height: int = 30, width: int = 41, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def test_it_is_what_translate_returns(run_folder: Path) -> None:
    augment = fastmunit.Augment(run_folder, CODES[:1], p=1)
    image = pictures(1)[0]
    expected = fastmunit.translate(run_folder, image.float() / 127.5 - 1, CODES[:1])[0]
    torch.testing.assert_close(augment(image.double() / 255) * 2 - 1, expected.double(), atol=1e-5, rtol=0)
    assert torch.equal(augment(image), ((expected + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_type_and_size_are_kept(run_folder: Path, dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    augment = fastmunit.Augment(run_folder, p=1)
    image = pictures(2, 17, 33)[: max(batch, default=1)].reshape(*batch, 3, 17, 33)
    image = image if dtype == torch.uint8 else (image.float() / 255).to(dtype)
    for value in (image, tv_tensors.Image(image)):
        output = augment(value)
        assert (type(output), output.dtype, output.shape) == (type(value), dtype, value.shape)
        assert not torch.equal(output, image)
        assert output.min() >= 0 and output.max() <= (255 if dtype == torch.uint8 else 1)


def test_pil_images(run_folder: Path) -> None:
    image = Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy())
    augment = fastmunit.Augment(run_folder, p=1)
    output = augment.at(3)(image)
    assert (output.mode, output.size) == ("RGB", image.size)
    tensor = augment.at(3)(v2.functional.pil_to_tensor(image))
    assert np.array_equal(np.asarray(output), tensor.permute(1, 2, 0).numpy())
    gray = fastmunit.Augment(Painted((1, 1)), p=1)(image.convert("L"))
    assert (gray.mode, gray.size) == ("L", image.size)


def test_masks_boxes_and_labels_pass_through(run_folder: Path) -> None:
    image = tv_tensors.Image(pictures(1)[0])
    mask = tv_tensors.Mask(torch.arange(30 * 41).view(1, 30, 41))
    boxes: Any = tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(30, 41))  # type: ignore[call-overload, unused-ignore]
    target = {"mask": mask, "boxes": boxes, "label": 7, "values": torch.rand(3, 30, 41), "name": "a.png"}
    output, kept = fastmunit.Augment(run_folder, p=1)(image, target)
    assert isinstance(output, tv_tensors.Image) and not torch.equal(output, image)
    assert all(kept[name] is value for name, value in target.items())
    only = (mask, boxes)
    assert fastmunit.Augment(run_folder, p=1)(only) == only


def test_batches_have_a_style_per_image_and_one_pass() -> None:
    translator = Painted()
    translator.run_each = lambda images, styles: translator.decode(images, styles)  # type: ignore[method-assign]
    augment = fastmunit.Augment(translator, p=0.5, seed=3)
    batch, labels = pictures(64, 6, 5), torch.arange(64)
    output, kept = augment.at(range(100, 164), epoch=2)(batch, labels)
    assert translator.calls == 1
    assert kept is labels
    changed = (output != batch).flatten(1).any(dim=1)
    assert 20 < int(changed.sum()) < 44  # a binomial distribution leaves this range in 2 of 1000 cases
    colors = output[changed][:, :, 0, 0]
    assert len({tuple(color.tolist()) for color in colors}) == len(colors)
    assert torch.equal(output[~changed], batch[~changed])
    for place in (0, 17, 63):
        single = augment.at(100 + place, epoch=2)(batch[place])
        assert torch.equal(single, output[place])


@pytest.mark.parametrize("system", registry.names())
def test_every_system_translates_a_batch_like_its_images(system: str) -> None:
    torch.manual_seed(0)
    config = Config.load("demo" if system == "munit" else f"demo_{system}", ["gen.dim=4", "dis.dim=4"])
    translator = registry.system_of(config)(config).evaluation_translator("a2b")
    channels = translator.channels
    images = torch.rand(3, channels, 30, 33) * 2 - 1
    styles = translator.random_styles(3, torch.Generator().manual_seed(0))
    outputs = translator.translate_each(images, styles)
    assert outputs.shape == (3, translator.target_channels, 30, 33)
    for image, style, output in zip(images, styles.split(1), outputs, strict=True):
        torch.testing.assert_close(output, translator.translate(image, style)[0], atol=2e-5, rtol=1e-4)


def test_draws_depend_on_seed_index_and_epoch_alone() -> None:
    image = pictures(1, 4, 4)[0]

    def color(seed: int, index: int, epoch: int) -> tuple[int, ...]:
        return tuple(fastmunit.Augment(Painted(), p=1, seed=seed).at(index, epoch)(image)[:, 0, 0].tolist())

    first = color(0, 1, 2)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert color(0, 1, 2) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert len({first, color(1, 1, 2), color(0, 2, 2), color(0, 1, 3), color(0, 2, 1)}) == 5


def test_without_a_place_draws_come_from_torch() -> None:
    augment, image = fastmunit.Augment(Painted(), p=1), pictures(1, 4, 4)[0]
    torch.manual_seed(0)
    first, second = augment(image), augment(image)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(augment(image), first)


def test_probability() -> None:
    batch = pictures(5, 4, 4)
    assert torch.equal(fastmunit.Augment(Painted(), p=0)(batch), batch)
    assert bool((fastmunit.Augment(Painted(), p=1)(batch) != batch).flatten(1).any(dim=1).all())
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"probability p in \[0, 1\]"):
            fastmunit.Augment(Painted(), p=p)


def test_styles_of_a_bank(tmp_path: Path, run_folder: Path) -> None:
    colors = torch.tensor([[-1.0, 0, 1], [0.5, 0.5, 0.5]]).view(2, 3, 1, 1)
    write_styles(tmp_path / "bank.safetensors", colors)
    augment = fastmunit.Augment(Painted(), tmp_path / "bank.safetensors", p=1)
    output = augment.at(range(40))(pictures(40, 4, 4)).float() / 127.5 - 1
    expected = colors.tanh()
    distances = torch.stack([(output - color).abs().amax(dim=(1, 2, 3)) for color in expected])
    assert bool((distances.amin(dim=0) < 1 / 127).all())
    assert 8 < int(distances.argmin(dim=0).sum()) < 32
    with pytest.raises(DataError, match="belongs to another model"):
        fastmunit.Augment(run_folder, tmp_path / "bank.safetensors")
    with pytest.raises(DataError, match="does not exist"):
        fastmunit.Augment(run_folder, tmp_path / "none.safetensors")


def test_mistakes_are_named(run_folder: Path) -> None:
    augment = fastmunit.Augment(run_folder, p=0)  # also images that are not translated are checked
    image = pictures(1)[0]
    for value, error, message in (
        (image[:1], ValueError, r"expected images of 3 channels, .* got 1: put v2\.RGB\(\)"),
        (image[[0, 1, 2, 0]], ValueError, r"got 4: choose .* image\[\.\.\., :3, :, :\]"),
        (image[0], ValueError, r"expected images \(C, H, W\) or \(N, C, H, W\), got \(30, 41\)"),
        (image[None, None], ValueError, "expected images .* got"),
        (image[:, :0], ValueError, "expected images .* got"),
        (image.float() / 127.5 - 1, ValueError, r"expected floats in \[0, 1\], got values in \[-1, .*v2\.Normalize"),
        (image.float() * float("nan"), ValueError, r"expected floats in \[0, 1\], got values in \[nan"),
        (image.short(), TypeError, r"got torch\.int16: put v2\.ToDtype"),
        (tv_tensors.Video(image[None]), TypeError, "expected images, got a tv_tensors.Video"),
        (image.permute(1, 2, 0).numpy(), TypeError, r"got a NumPy array: put v2\.ToImage\(\)"),
        ({"image": image.numpy(), "mask": tv_tensors.Mask(image[0])}, TypeError, "got a NumPy array"),
        (Image.new("RGBA", (8, 8)), ValueError, "mode L or RGB, got RGBA"),
        (Image.new("P", (8, 8)), ValueError, "mode L or RGB, got P"),
    ):
        with pytest.raises(error, match=message):
            augment(value)
    with pytest.raises(ValueError, match="an index for each of 2 images, got 1: give one per image"):
        augment.at(0)(pictures(2))
    with pytest.raises(ValueError, match=r"as many images in each batch of a sample, got \[1, 2\]"):
        augment(tv_tensors.Image(pictures(2)), tv_tensors.Image(pictures(1)))
    for codes in (torch.full((2, 8, 1, 1), torch.nan), torch.full((2, 8, 1, 1), 1e300, dtype=torch.float64)):
        with pytest.raises(ValueError, match="expected finite styles, got infinite or NaN values"):
            fastmunit.Augment(run_folder, codes)
    with pytest.raises(ConfigError, match="precision is 'zz': use one of float32, bfloat16, float16, or None"):
        fastmunit.Augment(run_folder, precision="zz")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="translates 1 channels to 3"):
        fastmunit.Augment(Painted((1, 3)))
    with pytest.raises(ValueError, match="but the translator is for None"):
        fastmunit.Augment(Painted(), direction="b2a")
    assert augment(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_samples_without_images_pass_through() -> None:
    augment = fastmunit.Augment(Painted(), p=1)
    sample = {"caption": "a pear", "label": 1, "box": np.zeros(4)}
    assert augment(sample) == sample
    assert augment.at(3)(sample) == sample
    assert augment.at([])(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    with pytest.raises(ValueError, match="an index for each of 0 images, got 1"):
        augment.at(3)(torch.zeros(0, 3, 8, 8))


def test_models_with_a_value_range() -> None:
    translator = Painted((1, 1))
    translator.config = Config.from_dict({"value_range_a": [0, 4095], "value_range_b": [0, 4095]})
    augment = fastmunit.Augment(translator, p=1)
    assert augment(torch.rand(1, 5, 5)).shape == (1, 5, 5)
    with pytest.raises(TypeError, match=r"the ends of the model's value range, got uint8"):
        augment(pictures(1, channels=1)[0])


class Numbered(Dataset[Any]):
    """Pairs of an image and its index."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, int]:
        if index >= 6:
            raise IndexError(index)
        return tv_tensors.Image(pictures(6, 16, 16)[index]), index


def test_an_epoch_is_an_integer(run_folder: Path) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        fastmunit.AugmentedDataset([], fastmunit.Augment(run_folder)).set_epoch(1.5)  # type: ignore[arg-type]


def test_datasets_repeat_and_change_with_the_epoch(run_folder: Path) -> None:
    dataset = fastmunit.AugmentedDataset(Numbered(), fastmunit.Augment(run_folder, p=1), v2.ToDtype(torch.float64))
    first = [image for image, _ in dataset]  # type: ignore[attr-defined, unused-ignore]
    assert len(first) == len(dataset) == 6
    assert first[0].dtype == torch.float64
    assert torch.equal(dataset[-1][0], first[5])
    dataset.set_epoch(1)
    assert not torch.equal(dataset[0][0], first[0])
    dataset.set_epoch(0)
    assert torch.equal(dataset[0][0], first[0])
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[2][0], first[2])


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_return_what_one_process_does(run_folder: Path, start: str) -> None:
    dataset = fastmunit.AugmentedDataset(Numbered(), fastmunit.Augment(run_folder, p=0.7, seed=4))
    loader = DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True, multiprocessing_context=start)
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        loaded = torch.cat([images for images, _ in loader])
        expected = torch.stack([image for image, _ in dataset])  # type: ignore[attr-defined, unused-ignore]
        assert torch.equal(loaded, expected)
