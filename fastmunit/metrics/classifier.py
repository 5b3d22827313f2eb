"""Small image classifiers for IS and CIS: the file, the network, the training."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.data.folders import find_images, require_folder
from fastmunit.data.images import decode_image
from fastmunit.data.transforms import TestTransform
from fastmunit.errors import CheckpointError, DataError
from fastmunit.files import load_tensors, save_tensors
from fastmunit.metrics.checks import check_images
from fastmunit.nn.networks import imagenet

Architecture = Literal["alexnet", "small"]

LEAST_SIDE = 31
"""Smallest size of the images that a classifier is made for, in pixels."""

_KIND = "fastmunit classifier"
_BLOCKS, _HELD_OUT_BLOCKS = 10, (4, 9)
_LR: dict[Architecture, tuple[float, float]] = {"alexnet": (1e-4, 1e-3), "small": (1e-3, 1e-3)}
_CACHE_BYTES = 2 << 30


class Classifier(nn.Module):
    """Class probabilities of images (N, 3, H, W) in [-1, 1], resized to the size it was trained at.

    Attributes:
        classes: names, in the order of the probabilities.
        architecture: "alexnet" (ImageNet convolutions, fine-tuned) or "small" (four convolutions, from scratch).
        size: side of its images in pixels.
        accuracy: part of held-out images that it names right; None before training.
        held_out: number of those images.
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
        if architecture == "alexnet":
            whole = imagenet.untrained_features("alexnet") if backbone is None else backbone
            self.features, channels = nn.Sequential(*list(whole.children())[:12]).requires_grad_(True), 256
        else:
            self.features, channels = _small_features(), 128
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(channels, len(self.classes)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        logits: Tensor = self.head(self.features(imagenet.preprocess_torchvision(images)).mean(dim=(2, 3)))
        return logits

    @torch.inference_mode()
    def probabilities(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """(N, K) probabilities of images on any device; float64, on the CPU.

        Raises:
            DataError: the images are not (N, 3, H, W), or hold NaN.
        """
        check_images(images, "the classifier")
        device = self.head[-1].weight.device
        logits = torch.cat([self(batch.to(device, torch.float32)).cpu() for batch in images.split(batch_size)])
        return logits.double().softmax(dim=1)


@dataclass(frozen=True)
class LabelledImages:
    """Image files with the index of their class.

    Attributes:
        classes: names of the class folders, sorted.
        paths: of the images.
        labels: index of the class of each.
        notes: one line for each class folder with files that are left out.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...] = ()


def class_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders in `folder`, sorted, hidden ones left out: one a class where it is a class-per-folder data set."""
    return sorted(path for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))


def labelled_images(folder: str | os.PathLike[str]) -> LabelledImages:
    """Images of a data set with one folder a class: FOLDER/CLASS/….jpg, sorted with numbers in numeric order.

    Raises:
        DataError: the folder is missing, has fewer than two class folders, or one without images.
    """
    root = require_folder(folder, "data folder", "give a folder with one folder of images for each class")
    folders = class_folders(root)
    if len(folders) < 2:
        raise DataError(
            f"{root} has {len(folders)} class folders: a classifier needs at least 2, each a folder of images."
        )
    paths: list[Path] = []
    labels: list[int] = []
    notes: list[str] = []
    for label, path in enumerate(folders):
        found = find_images(path)
        paths += sorted(found.paths, key=_natural)
        labels += [label] * len(found.paths)
        notes += [found.note] if found.note is not None else []
    return LabelledImages(tuple(path.name for path in folders), tuple(paths), tuple(labels), tuple(notes))


def split_by_blocks(images: LabelledImages) -> tuple[list[int], list[int]]:
    """Indices for training and for the accuracy: of each class's ten blocks of neighbouring files, two are held out.

    Neighbouring files are often frames of one scene, so that single held-out files would be near-copies of training
    images.

    Raises:
        DataError: a class has fewer than ten images.
    """
    training: list[int] = []
    held_out: list[int] = []
    for label, name in enumerate(images.classes):
        members = [index for index, of in enumerate(images.labels) if of == label]
        if len(members) < _BLOCKS:
            raise DataError(f"class {name} has {len(members)} images: a classifier needs {_BLOCKS} of each class.")
        for place, index in enumerate(members):
            block = place * _BLOCKS // len(members)
            (held_out if block in _HELD_OUT_BLOCKS else training).append(index)
    return training, held_out


def train_classifier(
    folder: str | os.PathLike[str],
    *,
    size: int = 64,
    epochs: int = 12,
    batch_size: int = 32,
    weights: str | os.PathLike[str] | None = None,
    architecture: Architecture = "alexnet",
    seed: int = 0,
    device: str | torch.device = "cpu",
    max_pixels: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Classifier:
    """Train a classifier on a class-per-folder data set and measure its accuracy on held-out blocks of files.

    The protocol of the MUNIT paper, section 5.2, fine-tunes Inception-v3 on each data set; here it is AlexNet, whose
    convolutions are smaller, with Adam, random flips and shifts of up to a sixteenth, and a rate that falls to zero.
    The accuracy is that after the last epoch: no epoch is picked by it.

    Args:
        folder: one folder of images for each class.
        size: side that images are resized and centre-cropped to: that of the images that it will judge.
        epochs: passes over the training images.
        batch_size: images in a step.
        weights: folder with AlexNet's file, see `imagenet.convolution_weights`.
        architecture: "alexnet", or "small", which needs no weights.
        seed: of weights, order and augmentation; the global random state is not touched.
        device: to train on.
        max_pixels: refuse images with more pixels; None is Pillow's limit.
        progress: is called with the fraction done and a line of text.

    Raises:
        DataError: too few classes or images, damaged images, or a size below 31.
        CheckpointError: AlexNet's weights are not there.
    """
    if size < LEAST_SIDE:
        raise DataError(f"classifier size {size}: at least {LEAST_SIDE} pixels are needed.")
    data = labelled_images(folder)
    training, held_out = split_by_blocks(data)
    backbone = imagenet.features("alexnet", weights) if architecture == "alexnet" else None
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = Classifier(data.classes, architecture, size, backbone).to(device)
        images = _Images(data.paths, size, max_pixels)
        labels = torch.tensor(data.labels)
        fine, new = _LR[architecture]
        optimizer = torch.optim.Adam(
            [{"params": model.features.parameters(), "lr": fine}, {"params": model.head.parameters(), "lr": new}]
        )
        steps = max(1, epochs * -(-len(training) // batch_size))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        step = 0
        for epoch in range(epochs):
            order = torch.tensor(training)[torch.randperm(len(training))]
            model.train()
            for chosen in order.split(batch_size):
                batch = _augmented(images.batch(chosen)).to(device)
                loss = F.cross_entropy(model(batch), labels[chosen].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
                if progress is not None:
                    progress(step / steps, f"epoch {epoch + 1}/{epochs}, loss {float(loss.detach()):.3f}")
        model.eval().requires_grad_(False)
        held = torch.tensor(held_out)
        guesses = torch.cat([model.probabilities(images.batch(part).to(device)) for part in held.split(64)]).argmax(1)
        model.accuracy = float((guesses == labels[held]).double().mean())
        model.held_out = len(held_out)
    return model.cpu()


def save_classifier(model: Classifier, path: str | os.PathLike[str]) -> None:
    """Write a classifier with its class names and accuracy: a file of plain tensors, whole or not at all."""
    content: dict[str, Any] = {
        "kind": _KIND,
        "classes": list(model.classes),
        "architecture": model.architecture,
        "size": model.size,
        "accuracy": model.accuracy,
        "held_out": model.held_out,
        "state": model.state_dict(),
    }
    save_tensors(content, path)


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Read what `save_classifier` wrote, in eval mode.

    Raises:
        CheckpointError: the file is missing, damaged, or no classifier, or its parts do not fit each other.
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
        raise CheckpointError(f"{path} is no classifier: give a file that `fastmunit train-classifier` wrote.")
    classes = content.get("classes")
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path} has no list of at least 2 class names: train it again.")
    architecture, size = content.get("architecture"), content.get("size")
    if architecture not in _LR or not isinstance(size, int) or size < LEAST_SIDE:
        raise CheckpointError(f"{path} has no known architecture ({architecture!r}, size {size!r}): train it again.")
    with torch.random.fork_rng(devices=[]):
        model = Classifier(classes, architecture, size)
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


@torch.inference_mode()
def accuracy_on(
    model: Classifier,
    folder: str | os.PathLike[str],
    limit: int = 1000,
    max_pixels: int | None = None,
    reasons: dict[Path, str] | None = None,
    each: Callable[..., Iterable[Any]] = map,
) -> tuple[float, int]:
    """Accuracy on another class-per-folder data set, and the number of images it was taken on (at most `limit`).

    Args:
        model: the classifier.
        folder: one folder of images for each class.
        limit: most images to take.
        max_pixels: refuse images with more pixels; None is Pillow's limit.
        reasons: is told of images that cannot be read, which are left out; None raises for the first.
        each: computes a function of each item of a list; `distributed.each` divides the images by the processes.

    Raises:
        DataError: its class folders are not those of the classifier, or no image can be read.
    """
    data = labelled_images(folder)
    if set(data.classes) != set(model.classes):
        raise DataError(
            f"the classifier and {folder} have different classes: {_difference(model.classes, data.classes)}. Give a "
            "classifier that `fastmunit train-classifier` trained on the classes of this domain."
        )
    order = {name: index for index, name in enumerate(model.classes)}
    chosen = random.Random(0).sample(range(len(data.paths)), min(limit, len(data.paths)))
    images = _Images(data.paths, model.size, max_pixels)
    if reasons is not None:
        problems = list(each(images.problem, chosen))
        reasons.update((data.paths[index], why) for index, why in zip(chosen, problems, strict=True) if why is not None)
        chosen = [index for index, why in zip(chosen, problems, strict=True) if why is None]
        if not chosen:
            raise DataError(f"no image in {folder} can be read: {next(iter(reasons.values()))}")

    def right(part: Sequence[int]) -> int:
        truth = torch.tensor([order[data.classes[data.labels[index]]] for index in part])
        return int((model.probabilities(images.batch(torch.tensor(part))).argmax(1) == truth).sum())

    parts = [chosen[start : start + 64] for start in range(0, len(chosen), 64)]
    return sum(each(right, parts)) / len(chosen), len(chosen)


def _difference(known: Sequence[str], found: Sequence[str]) -> str:
    """Which classes one has and the other has not, in words."""
    unknown, absent = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    parts = [("it does not know", unknown), ("the folder has no", absent)]
    return "; ".join(f"{text} {_listed(names)}" for text, names in parts if names)


def _listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _small_features() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64, 128):
        layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


class _Images:
    """Batches of files, (N, 3, size, size) in [-1, 1], decoded once while they fit into memory."""

    def __init__(self, paths: Sequence[Path], size: int, max_pixels: int | None) -> None:
        self._paths = paths
        self._max_pixels = max_pixels
        self._transform = TestTransform(size, (size, size))
        self._keep = len(paths) * 3 * size * size <= _CACHE_BYTES
        self._kept: dict[int, Tensor] = {}

    def batch(self, indices: Tensor) -> Tensor:
        levels = torch.stack([self._levels(index) for index in indices.tolist()])
        return levels.float() / 127.5 - 1

    def problem(self, index: int) -> str | None:
        """Why a file cannot be read; None where it can."""
        try:
            self._levels(index)
        except DataError as error:
            return str(error)
        return None

    def _levels(self, index: int) -> Tensor:
        found = self._kept.get(index)
        if found is None:
            path = self._paths[index]
            image = self._transform(decode_image(path, 3, self._max_pixels), path)
            found = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            if self._keep:
                self._kept[index] = found
        return found


def _augmented(images: Tensor) -> Tensor:
    flip = torch.rand(len(images), 1, 1, 1) < 0.5
    images = torch.where(flip, images.flip(3), images)
    reach = max(1, images.shape[-1] // 16)
    down, right = torch.randint(2 * reach + 1, (2,)).tolist()
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    return padded[:, :, down : down + images.shape[2], right : right + images.shape[3]]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts frame 9 before frame 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
