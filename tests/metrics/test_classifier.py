from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastmunit.config import Config
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.errors import CheckpointError, DataError
from fastmunit.metrics.classifier import Classifier, load_classifier, save_classifier
from fastmunit.metrics.classifier_training import accuracy_on, labeled_images, split_by_blocks, train_classifier


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write bright and dark images with noise, 20 of each."""
    root = tmp_path_factory.mktemp("shapes")
    random = np.random.default_rng(0)
    for name, level in (("bright", 170), ("dark", 80)):
        (root / name).mkdir()
        for k in range(20):
            pixels = random.normal(level, 30, (36, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"frame_{k}.png")
    return root


@pytest.fixture(scope="module")
def trained(shapes: Path) -> Classifier:
    return train_classifier(shapes, size=32, epochs=8, batch_size=8, architecture="small")


def test_learns_and_reports_its_accuracy(trained: Classifier) -> None:
    assert trained.classes == ("bright", "dark")
    assert trained.accuracy == 1 and trained.held_out == 8
    p = trained.probabilities(torch.stack([torch.full((3, 32, 32), 0.3), torch.full((3, 32, 32), -0.4)]))
    assert p.shape == (2, 2) and p.dtype == torch.float64
    assert p.sum(1).tolist() == pytest.approx([1, 1])
    assert p[0, 0] > 0.5 and p[1, 1] > 0.5


@pytest.mark.gpu
def test_a_classifier_on_a_gpu_takes_images_of_any_device(shapes: Path) -> None:
    model = train_classifier(shapes, size=32, epochs=8, batch_size=8, architecture="small", device="cuda")
    assert model.accuracy == 1
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(model.probabilities(images), model.probabilities(images.cuda()))
    assert accuracy_on(model, shapes)[0] == 1


def test_the_accuracy_is_measured_on_unseen_images(shapes: Path, tmp_path: Path) -> None:
    """With random labels, memorized images do not raise the accuracy."""
    random = np.random.default_rng(1)
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(60):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
    model = train_classifier(tmp_path, size=32, epochs=3, architecture="small")
    assert model.accuracy is not None and 0.15 < model.accuracy < 0.85 and model.held_out == 24


def test_the_seed_decides(shapes: Path) -> None:
    before = torch.get_rng_state()
    models = [train_classifier(shapes, size=32, epochs=1, architecture="small", seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    first, same, other = (model.head[1].weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_whole_blocks_of_consecutive_files_are_held_out(shapes: Path) -> None:
    data = labeled_images(shapes)
    names = [path.stem for path in data.paths[:20]]
    assert names == [f"frame_{k}" for k in range(20)], "frame 9 comes before frame 10"
    training, held_out = split_by_blocks(data)
    assert sorted(training + held_out) == list(range(40))
    assert held_out == [8, 9, 18, 19, 28, 29, 38, 39]


def test_saved_and_loaded(trained: Classifier, tmp_path: Path) -> None:
    save_classifier(trained, tmp_path / "c.pt")
    loaded = load_classifier(tmp_path / "c.pt")
    images = torch.rand(4, 3, 48, 48) * 2 - 1
    assert torch.equal(loaded.probabilities(images), trained.probabilities(images))
    assert (loaded.classes, loaded.accuracy, loaded.held_out) == (trained.classes, trained.accuracy, trained.held_out)


def test_values_are_read_as_in_the_training(tmp_path: Path) -> None:
    """Without the range, 12-bit values in 16 bits would be the lowest sixteenth of what the networks compute."""
    random = np.random.default_rng(0)
    for name, level in (("bright", 2700), ("dark", 1300)):
        (tmp_path / name).mkdir()
        for k in range(10):
            pixels = random.normal(level, 400, (36, 36)).clip(0, 4095).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
    values = PixelValues.of(Config.from_dict({"input_dim_b": 1, "value_range_b": [0, 4095]}), "b")
    model = train_classifier(
        tmp_path, size=32, epochs=12, batch_size=8, architecture="small", channels=1, values=values
    )
    expected = torch.stack([torch.full((3, 32, 32), 2 * level / 4095 - 1) for level in (2700, 1300)])
    assert model.probabilities(expected).argmax(1).tolist() == [0, 1]
    assert accuracy_on(model, tmp_path, channels=1, values=values) == (1, 20)
    assert accuracy_on(model, tmp_path)[0] == 0.5
    save_classifier(model, tmp_path / "c.pt")
    assert load_classifier(tmp_path / "c.pt").value_range == values.range == ValueRange(0, 4095)
    with pytest.raises(DataError, match="gray and RGB images, but the domain has 5 channels"):
        train_classifier(tmp_path, size=32, architecture="small", channels=5)


def test_accuracy_on_other_data(trained: Classifier, shapes: Path, tmp_path: Path) -> None:
    assert accuracy_on(trained, shapes) == (1, 40)
    (tmp_path / "bright").mkdir()
    (tmp_path / "gray").mkdir()
    for name in ("bright", "gray"):
        Image.new("RGB", (40, 40)).save(tmp_path / name / "0.png")
    with pytest.raises(DataError, match=r"it does not know gray; the folder has no dark\. .*train-classifier"):
        accuracy_on(trained, tmp_path)


def test_alexnet_is_fine_tuned(shapes: Path, tmp_path: Path, alexnet: torch.nn.Sequential) -> None:
    torch.save({f"features.{k}": v for k, v in alexnet.state_dict().items()}, tmp_path / "alexnet_features.pth")
    model = train_classifier(shapes, size=32, epochs=1, weights=tmp_path)
    assert model.architecture == "alexnet"
    change = (model.features[0].weight - alexnet[0].weight).abs().max()
    assert 0 < change < 0.02
    save_classifier(model, tmp_path / "c.pt")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_classifier(tmp_path / "c.pt").probabilities(images), model.probabilities(images))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "has 0 class folders: a classifier needs at least 2"),
        ({"a": 12}, "has 1 class folders"),
        ({"a": 12, "b": 0}, "b contains no images"),
        ({"a": 12, "b": 9}, "class b has 9 images: a classifier needs 10 per class"),
        ({"a": 12, "b\x1b": 9}, r"class b\\x1b has 9 images"),
    ],
)
def test_unusable_folders(folders: dict[str, int], message: str, tmp_path: Path) -> None:
    for name, count in folders.items():
        (tmp_path / name).mkdir()
        for k in range(count):
            Image.new("RGB", (40, 40)).save(tmp_path / name / f"{k}.png")
    with pytest.raises(DataError, match=message):
        train_classifier(tmp_path, size=32, architecture="small")


def test_no_folder_and_a_tiny_size(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist: give a folder with one folder"):
        train_classifier(tmp_path / "absent")
    with pytest.raises(DataError, match="at least 31 pixels"):
        train_classifier(shapes, size=16)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        for k in range(10):
            (tmp_path / name / f"{k}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"\.png is damaged"):
        train_classifier(tmp_path, size=32, architecture="small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "another"}, "is not a classifier: give a file that `fastmunit train-classifier` wrote"),
        ({"classes": ["bright"]}, "no list of at least 2 class names"),
        ({"classes": ["bright", "dark", "gray"]}, "do not fit 3 classes"),
        ({"architecture": "vit"}, "no known architecture"),
        ({"size": 3}, "no known architecture"),
        ({"state": {}}, "do not fit 2 classes"),
    ],
)
def test_unusable_files(trained: Classifier, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_classifier(trained, tmp_path / "c.pt")
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save({**content, **change}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message):
        load_classifier(tmp_path / "c.pt")


def test_other_files(tmp_path: Path) -> None:
    """Every message says which file to give."""
    advice = "give a file that `fastmunit train-classifier` wrote"
    with pytest.raises(CheckpointError, match=rf"classifier .*absent\.pt does not exist: {advice}"):
        load_classifier(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match=f"is a folder: {advice}"):
        load_classifier(tmp_path)
    (tmp_path / "c.pt").write_text("text")
    with pytest.raises(CheckpointError, match=rf"c\.pt cannot be read as a classifier: {advice}"):
        load_classifier(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 32, 32), "expected RGB images, got gray"),
        (torch.zeros(3, 32, 32), "expected images"),
        (torch.full((2, 3, 32, 32), float("nan")), "NaN .*has diverged"),
    ],
)
def test_unusable_images(trained: Classifier, images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=f"the classifier.*{message}"):
        trained.probabilities(images)
