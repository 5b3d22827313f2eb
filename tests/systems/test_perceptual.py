"""Tests of the domain-invariant perceptual loss: weights, preprocessing, formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastmunit.errors import CheckpointError
from fastmunit.nn.networks.imagenet import WEIGHTS_VARIABLE, preprocess_torchvision
from fastmunit.nn.networks.vgg import Vgg16
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.perceptual import PerceptualLoss, preprocess_caffe

TORCHVISION_LAYERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


@pytest.fixture(scope="module")
def vgg() -> Vgg16:
    torch.manual_seed(0)
    return Vgg16()


@pytest.fixture
def public_folder(vgg: Vgg16, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    torch.save(vgg.state_dict(), tmp_path / "models" / "vgg16.weight")
    return tmp_path


def test_preprocessing() -> None:
    image = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    bgr = preprocess_caffe(image).flatten().tolist()
    assert bgr == pytest.approx([255 - 103.939, 127.5 - 116.779, 0 - 123.680])
    rgb = preprocess_torchvision(image).flatten().tolist()
    assert rgb == pytest.approx([-0.485 / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225])


def test_formula_with_public_weights(vgg: Vgg16, public_folder: Path) -> None:
    loss = PerceptualLoss(public_folder)
    assert not any(p.requires_grad for p in loss.parameters())
    x, y = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    x.requires_grad_()
    value = loss(x, y)
    features = []
    for image in (x, y):
        phi = vgg((image.flip(1) + 1) * 127.5 - torch.tensor([103.939, 116.779, 123.680]).view(1, 3, 1, 1))
        mean = phi.mean((2, 3), keepdim=True)
        features.append((phi - mean) / (phi.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt())
    torch.testing.assert_close(value, F.mse_loss(*features), rtol=1e-4, atol=1e-6)
    value.backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_torchvision_layout(vgg: Vgg16, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(vgg.state_dict().values())
    names = [f"features.{layer}.{kind}" for layer in TORCHVISION_LAYERS for kind in ("weight", "bias")]
    state = {name: value.half() for name, value in zip(names, values, strict=True)}
    torch.save(state, tmp_path / "vgg16_features_fp16.pth")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    loss = PerceptualLoss()
    torch.testing.assert_close(loss.vgg.conv5_3.weight, vgg.conv5_3.weight, rtol=1e-3, atol=1e-4)
    del state["features.28.bias"]
    torch.save(state, tmp_path / "vgg16_features_fp16.pth")
    with pytest.raises(CheckpointError, match=r"features\.28\.bias"):
        PerceptualLoss()


def test_wrong_file(public_folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, public_folder / "models" / "vgg16.weight")
    with pytest.raises(CheckpointError, match="does not fit VGG-16"):
        PerceptualLoss(public_folder)


def test_no_weights_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(CheckpointError, match=r"vgg16_features\.pth.*FASTMUNIT_WEIGHTS.*vgg_w to 0"):
        PerceptualLoss()


def test_munit_with_the_perceptual_loss(hyperparameters: dict[str, Any], images: Any, public_folder: Path) -> None:
    """vgg_a compares a translation into A with its source. VGG uses no random numbers and is not trained."""
    torch.manual_seed(0)
    plain = MUNIT(hyperparameters).gen_a.state_dict()
    torch.manual_seed(0)
    trainer = MUNIT({**hyperparameters, "vgg_w": 2, "vgg_model_path": str(public_folder)})
    assert all(torch.equal(plain[key], value) for key, value in trainer.gen_a.state_dict().items())
    before = {key: value.clone() for key, value in trainer.gen_a.state_dict().items()}
    torch.manual_seed(1)
    trainer.gen_update(*images)
    trained = {key: value.clone() for key, value in trainer.gen_a.state_dict().items()}
    torch.manual_seed(1)
    s_a = torch.randn(2, 3, 1, 1)
    trainer.gen_a.load_state_dict(before)
    torch.manual_seed(0)
    fresh = MUNIT(hyperparameters)
    with torch.no_grad():
        x_ba = fresh.gen_a.decode(fresh.gen_b.encode(images[1])[0], s_a)
        expected = PerceptualLoss(public_folder)(x_ba, images[1])
    torch.testing.assert_close(torch.as_tensor(trainer.loss_gen_vgg_a), expected, rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(trained[key], before[key]) for key in before)


def test_grey_images_are_refused(public_folder: Path) -> None:
    with pytest.raises(ValueError, match="3 channels"):
        PerceptualLoss(public_folder)(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32))
