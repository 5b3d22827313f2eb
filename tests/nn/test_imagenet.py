"""Sources of ImageNet weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastmunit.errors import CheckpointError
from fastmunit.nn.networks import imagenet


def saved(folder: Path, name: imagenet.Backbone, dtype: torch.dtype = torch.float32, prefix: str = "features.") -> None:
    state = imagenet.untrained_features(name).state_dict()
    torch.save({prefix + key: value.to(dtype) for key, value in state.items()}, folder / f"{name}_features.pth")


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_layout_equals_torchvision(name: imagenet.Backbone) -> None:
    import torchvision

    with torch.device("meta"):
        whole = getattr(torchvision.models, name)(weights=None).features
    ours = imagenet.untrained_features(name)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in whole.state_dict().items()}
    assert [type(module) for module in ours] == [type(module) for module in whole]
    assert not any(module.inplace for module in ours if isinstance(module, nn.ReLU))
    assert all(torch.isfinite(p).all() and p.abs().sum() > 0 and not p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize(("dtype", "prefix"), [(torch.float32, "features."), (torch.float16, "")])
def test_a_folder_with_the_file(dtype: torch.dtype, prefix: str, tmp_path: Path) -> None:
    saved(tmp_path, "alexnet", dtype, prefix)
    network = imagenet.features("alexnet", tmp_path)
    stored = torch.load(tmp_path / "alexnet_features.pth", weights_only=True)
    assert torch.equal(network[10].weight, stored[f"{prefix}10.weight"].float())
    assert network[0].weight.dtype == torch.float32


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "alexnet")
    monkeypatch.setenv(imagenet.WEIGHTS_VARIABLE, str(tmp_path))
    assert len(imagenet.convolution_weights("alexnet")) == 10


def test_the_global_random_state_does_not_change(tmp_path: Path) -> None:
    saved(tmp_path, "alexnet")
    before = torch.get_rng_state()
    imagenet.features("alexnet", tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_a_folder_without_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(imagenet.WeightsNotFoundError, match=r"VGG-16 .* has no such file: put .*vgg16_features\.pth"):
        imagenet.features("vgg16", tmp_path)
    with pytest.raises(imagenet.WeightsNotFoundError, match="is not a folder"):
        imagenet.features("vgg16", tmp_path / "absent")


def test_a_download_is_announced_and_its_failure_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(imagenet.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(imagenet.WeightsNotFoundError, match=r"no network.*alexnet_features\.pth.*FASTMUNIT_WEIGHTS"):
        imagenet.features("alexnet")
    assert "Downloading torchvision's AlexNet weights from https://" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1)}, r"has no features\.0\.weight"),
        ([1, 2], r"has no features\.0\.weight"),
        ("wide", "other sizes"),
    ],
)
def test_files_with_other_contents(content: Any, message: str, tmp_path: Path) -> None:
    if content == "wide":
        saved(tmp_path, "alexnet")
        content = torch.load(tmp_path / "alexnet_features.pth", weights_only=True)
        content["features.0.weight"] = torch.zeros(32, 3, 11, 11)
    torch.save(content, tmp_path / "alexnet_features.pth")
    with pytest.raises(CheckpointError, match=message):
        imagenet.features("alexnet", tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    saved(tmp_path, "alexnet")
    path = tmp_path / "alexnet_features.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        imagenet.features("alexnet", tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(imagenet.untrained_features("alexnet"), tmp_path / "alexnet_features.pth")
    with pytest.raises(CheckpointError, match="plain tensors"):
        imagenet.features("alexnet", tmp_path)
