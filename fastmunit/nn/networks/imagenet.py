"""Convolutions trained on ImageNet (AlexNet, VGG-16), from a folder or downloaded by torchvision."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors

WEIGHTS_VARIABLE = "FASTMUNIT_WEIGHTS"
"""Environment variable: path of a folder with alexnet_features*.pth and vgg16_features*.pth of torchvision."""

Backbone = Literal["alexnet", "vgg16"]


class WeightsNotFoundError(CheckpointError):
    """An error for weights that are in no given folder and could not be downloaded."""


@dataclass(frozen=True)
class _Known:
    title: str
    enum: str
    convolutions: tuple[int, ...]


_KNOWN: dict[Backbone, _Known] = {
    "alexnet": _Known("AlexNet", "AlexNet_Weights", (0, 3, 6, 8, 10)),
    "vgg16": _Known("VGG-16", "VGG16_Weights", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
}


def preprocess_torchvision(images: Tensor) -> Tensor:
    """Normalize RGB images in [-1, 1] by ImageNet's mean and standard deviation, as torchvision's weights need it."""
    mean = images.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = images.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / std


def convolution_weights(name: Backbone, folder: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Return weights and biases of the convolutions in float32, in torchvision's order: "0.weight", "0.bias", ...

    Args:
        name: "alexnet" or "vgg16".
        folder: A folder with NAME_features*.pth (keys "features.0.weight" or "0.weight", any floating-point dtype).
            None looks into $FASTMUNIT_WEIGHTS, and then lets torchvision download its ImageNet weights, with a message
            on stderr.

    Raises:
        WeightsNotFoundError: If `folder` has no such file, or no folder is given and nothing can be downloaded.
        CheckpointError: If the file is damaged or belongs to another network.
    """
    state, origin = _read(name, folder)
    picked = {}
    for layer in _KNOWN[name].convolutions:
        for key in (f"{layer}.weight", f"{layer}.bias"):
            value = state.get(f"features.{key}", state.get(key)) if isinstance(state, dict) else None
            if not isinstance(value, Tensor) or not _is_dense(value):
                raise CheckpointError(f"{origin} has no features.{key}: it is not torchvision's {_KNOWN[name].title}.")
            picked[key] = value.float()
    return picked


def at_hand(name: Backbone) -> bool:
    """Return True if `convolution_weights` without a folder would find the weights on this machine.

    They are in the folder that FASTMUNIT_WEIGHTS names, or torchvision has downloaded them before.
    """
    folder = os.environ.get(WEIGHTS_VARIABLE)
    return (bool(folder) and bool(_files(name, str(folder)))) or _cached(name).is_file()


def _is_dense(value: Tensor) -> bool:
    """Return True if a tensor has floating-point numbers in memory."""
    strided = value.layout is torch.strided and not value.is_nested
    return strided and value.is_floating_point() and value.device.type != "meta"


def features(name: Backbone, folder: str | os.PathLike[str] | None = None) -> nn.Sequential:
    """Return torchvision's `features` (convolutions, ReLUs, max pools) with ImageNet weights, frozen, in eval mode.

    The global random state is not touched. For arguments and errors, see `convolution_weights`.
    """
    state = convolution_weights(name, folder)
    network = untrained_features(name)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights for {_KNOWN[name].title} have other sizes: {' '.join(str(error).split())}"
        ) from error
    return network


def untrained_features(name: Backbone) -> nn.Sequential:
    """Return the same network with torch's default initialization, without a draw from the global generator."""
    import torchvision

    with torch.device("meta"):  # the unused fully connected layers take no time or memory
        network: nn.Sequential = getattr(torchvision.models, name)(weights=None).features
    with torch.random.fork_rng(devices=[]):
        network = network.to_empty(device="cpu")
        for module in network:
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    for index, module in enumerate(network):
        if isinstance(module, nn.ReLU):
            network[index] = nn.ReLU()  # in place, it would overwrite features before they are read
    return network.eval().requires_grad_(False)


def _read(name: Backbone, folder: str | os.PathLike[str] | None) -> tuple[Any, str]:
    named = folder if folder is not None else os.environ.get(WEIGHTS_VARIABLE) or None
    if named is not None:
        files = _files(name, named)
        if files:
            return load_tensors(files[0]), str(files[0])
        if folder is not None:
            reason = "has no such file" if Path(folder).is_dir() else "is not a folder"
            raise WeightsNotFoundError(
                f"{_KNOWN[name].title} weights are expected in {folder}, which {reason}: put torchvision's "
                f"features there as {name}_features.pth, or give another folder."
            )
    return _download(name)


def _files(name: Backbone, folder: str | os.PathLike[str]) -> list[Path]:
    return sorted(Path(folder).glob(f"{name}_features*.pth"))


def _torchvision_weights(name: Backbone) -> Any:
    import torchvision

    return getattr(torchvision.models, _KNOWN[name].enum).IMAGENET1K_V1


def _cached(name: Backbone) -> Path:
    """Return the path of torchvision's download."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_torchvision_weights(name).url).name


def _download(name: Backbone) -> tuple[Any, str]:
    known, weights, cached = _KNOWN[name], _torchvision_weights(name), _cached(name)
    if not cached.is_file():
        print(
            f"Downloading torchvision's {known.title} weights from {weights.url} into {cached.parent}. To avoid the "
            f"download, put {name}_features.pth into a folder and set {WEIGHTS_VARIABLE} to it.",
            file=sys.stderr,
            flush=True,
        )
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True), weights.url
    except OSError as error:
        raise WeightsNotFoundError(
            f"could not download torchvision's {known.title} weights ({error}): put torchvision's {known.title} "
            f"features as {name}_features.pth into a folder, and set {WEIGHTS_VARIABLE} to it."
        ) from error
