"""Convolutions trained on ImageNet (AlexNet, VGG-16): found in a folder, or downloaded by torchvision."""

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
from fastmunit.systems.parts.weights import is_plain

WEIGHTS_VARIABLE = "FASTMUNIT_WEIGHTS"
"""Environment variable naming a folder with alexnet_features*.pth and vgg16_features*.pth in torchvision's layout."""

Backbone = Literal["alexnet", "vgg16"]


class WeightsNotFoundError(CheckpointError):
    """The weights are in no folder that was named, and could not be downloaded."""


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
    """RGB in [-1, 1] to ImageNet-normalised RGB: for torchvision's weights."""
    mean = images.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = images.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / std


def convolution_weights(name: Backbone, folder: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Weights and biases of the convolutions, float32, in torchvision's order: "0.weight", "0.bias", "3.weight" and on.

    Args:
        name: "alexnet" or "vgg16".
        folder: must hold NAME_features*.pth (keys "features.0.weight" or "0.weight", any float type). None looks into
            $FASTMUNIT_WEIGHTS and then lets torchvision download its ImageNet weights, which is announced on stderr.

    Raises:
        WeightsNotFoundError: `folder` has no such file, or there is none and nothing can be downloaded.
        CheckpointError: the file is damaged or not of this network.
    """
    state, origin = _read(name, folder)
    picked = {}
    for layer in _KNOWN[name].convolutions:
        for key in (f"{layer}.weight", f"{layer}.bias"):
            value = state.get(f"features.{key}", state.get(key)) if isinstance(state, dict) else None
            if not isinstance(value, Tensor) or not is_plain(value):
                raise CheckpointError(f"{origin} has no features.{key}: it is not torchvision's {_KNOWN[name].title}.")
            picked[key] = value.float()
    return picked


def features(name: Backbone, folder: str | os.PathLike[str] | None = None) -> nn.Sequential:
    """The `features` of torchvision (convolutions, ReLUs, max pools) with its ImageNet weights, frozen, in eval mode.

    Arguments and errors: see `convolution_weights`. The global random state is not touched.
    """
    state = convolution_weights(name, folder)
    network = untrained_features(name)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights found for {_KNOWN[name].title} have other sizes: {' '.join(str(error).split())}"
        ) from error
    return network


def untrained_features(name: Backbone) -> nn.Sequential:
    """The same network with weights of torch's default initialisation, without a draw from the global generator."""
    import torchvision

    with torch.device("meta"):  # the fully connected layers, which nobody needs, take no time and memory
        network: nn.Sequential = getattr(torchvision.models, name)(weights=None).features
    with torch.random.fork_rng(devices=[]):
        network = network.to_empty(device="cpu")
        for module in network:
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    for index, module in enumerate(network):
        if isinstance(module, nn.ReLU):
            network[index] = nn.ReLU()  # in place, it would overwrite features that are still to be read
    return network.eval().requires_grad_(False)


def _read(name: Backbone, folder: str | os.PathLike[str] | None) -> tuple[Any, str]:
    pattern = f"{name}_features*.pth"
    named = folder if folder is not None else os.environ.get(WEIGHTS_VARIABLE) or None
    if named is not None:
        found = sorted(Path(named).glob(pattern))
        if found:
            return load_tensors(found[0]), str(found[0])
        if folder is not None:
            reason = "has no such file" if Path(folder).is_dir() else "is not a folder"
            raise WeightsNotFoundError(
                f"{_KNOWN[name].title} weights were to be taken from {folder}, which {reason}: put torchvision's "
                f"features as {name}_features.pth there, or leave the folder out to download them."
            )
    return _download(name)


def _download(name: Backbone) -> tuple[Any, str]:
    import torchvision

    known = _KNOWN[name]
    weights = getattr(torchvision.models, known.enum).IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not cached.is_file():
        print(
            f"Downloading torchvision's {known.title} weights from {weights.url} into {cached.parent}; with "
            f"{name}_features.pth in a folder named by {WEIGHTS_VARIABLE} nothing is downloaded.",
            file=sys.stderr,
            flush=True,
        )
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True), weights.url
    except OSError as error:
        raise WeightsNotFoundError(
            f"{known.title} weights are needed, and torchvision's could not be downloaded ({error}). Put torchvision's "
            f"{known.title} features as {name}_features.pth into a folder and set {WEIGHTS_VARIABLE} to it."
        ) from error
