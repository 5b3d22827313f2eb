"""Small image classifiers for IS and CIS: the network and its file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.data.value_range import ValueRange
from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors, save_tensors
from fastmunit.metrics.images import check_images
from fastmunit.nn.networks import imagenet

Architecture = Literal["alexnet", "small"]
_ARCHITECTURES: tuple[Architecture, ...] = ("alexnet", "small")

MIN_SIZE = 31
"""Smallest image size of a classifier, in pixels."""

_KIND = "fastmunit classifier"


class Classifier(nn.Module):
    """A classifier of images (N, 3, H, W) in [-1, 1], which it resizes to the size that it was trained at.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        architecture: "alexnet" (fine-tuned ImageNet convolutions) or "small" (four convolutions, from scratch).
        size: Side of the resized images in pixels.
        accuracy: Fraction of held-out images that it classifies correctly; None before training.
        held_out: Number of held-out images.
        value_range: Range of stored values of the images that it was trained on. None is that of their type.
    """

    def __init__(
        self, classes: Sequence[str], architecture: Architecture, size: int, backbone: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.architecture: Architecture = architecture
        self.size = size
        self.accuracy: float | None = None
        self.held_out = 0
        self.value_range: ValueRange | None = None
        if architecture == "alexnet":
            whole = imagenet.untrained_features("alexnet") if backbone is None else backbone
            self.features, channels = nn.Sequential(*list(whole.children())[:12]).requires_grad_(True), 256
        else:
            self.features, channels = _small_features(), 128
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(channels, len(self.classes)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K)."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        logits: Tensor = self.head(self.features(imagenet.preprocess_torchvision(images)).mean(dim=(2, 3)))
        return logits

    @torch.inference_mode()
    def probabilities(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Return class probabilities (N, K), float64, on the CPU.

        Args:
            images: Images (N, 3, H, W) in [-1, 1], on any device.
            batch_size: Images per forward pass.

        Raises:
            DataError: If the shape is wrong, or the images contain NaN.
        """
        check_images(images, "the classifier")
        device = self.head[-1].weight.device
        logits = torch.cat([self(batch.to(device, torch.float32)).cpu() for batch in images.split(batch_size)])
        return logits.double().softmax(dim=1)


def save_classifier(model: Classifier, path: str | os.PathLike[str]) -> None:
    """Write a classifier with its class names and accuracy to a file of plain tensors, atomically."""
    content: dict[str, Any] = {
        "kind": _KIND,
        "classes": list(model.classes),
        "architecture": model.architecture,
        "size": model.size,
        "accuracy": model.accuracy,
        "held_out": model.held_out,
        "value_range": None if model.value_range is None else asdict(model.value_range),
        "state": model.state_dict(),
    }
    save_tensors(content, path)


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Read a classifier from a file, in eval mode.

    Raises:
        CheckpointError: If the file is missing, damaged or not a classifier, or its parts do not fit each other.
    """
    if not Path(path).is_file():
        kind = "is a folder" if Path(path).is_dir() else "does not exist"
        raise CheckpointError(f"classifier {path} {kind}: give a file that `fastmunit train-classifier` wrote.")
    try:
        content = load_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} cannot be read as a classifier: give a file that `fastmunit train-classifier` wrote. ({error})"
        ) from error
    if not isinstance(content, Mapping) or content.get("kind") != _KIND:
        raise CheckpointError(f"{path} is not a classifier: give a file that `fastmunit train-classifier` wrote.")
    classes = content.get("classes")
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path} has no list of at least 2 class names: train it again.")
    architecture, size = content.get("architecture"), content.get("size")
    if architecture not in _ARCHITECTURES or not isinstance(size, int) or size < MIN_SIZE:
        raise CheckpointError(f"{path} has no known architecture ({architecture!r}, size {size!r}): train it again.")
    with torch.random.fork_rng(devices=[]):
        model = Classifier(classes, architecture, size)
    if (values := content.get("value_range")) is not None:  # absent in files of earlier versions
        try:
            model.value_range = ValueRange(**values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} has a damaged value range ({error}): train it again.") from error
    try:
        model.load_state_dict(content["state"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the weights do not fit {len(classes)} classes of {architecture}: {' '.join(str(error).split())}"
        ) from error
    accuracy, held_out = content.get("accuracy"), content.get("held_out")
    model.accuracy = float(accuracy) if isinstance(accuracy, int | float) else None
    model.held_out = held_out if isinstance(held_out, int) else 0
    return model.eval().requires_grad_(False)


def _small_features() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64, 128):
        layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)
