"""Training of classifiers on folders of labeled images, and their accuracy."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.data.folders import find_images, require_folder
from fastmunit.data.pixels import read_planes
from fastmunit.data.transforms import TestTransform
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError
from fastmunit.files import printable
from fastmunit.metrics.classifier import MIN_SIZE, Architecture, Classifier
from fastmunit.nn.networks import imagenet

_BLOCKS, _HELD_OUT_BLOCKS = 10, (4, 9)
# Learning rates of the convolutions and of the last layer.
_LR: dict[Architecture, tuple[float, float]] = {"alexnet": (1e-4, 1e-3), "small": (1e-3, 1e-3)}
_CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class LabeledImages:
    """Image files and their classes.

    Attributes:
        classes: Names of the class folders, sorted.
        paths: Paths of the images.
        labels: Index of the class of each image.
        notes: A line per class folder with files that are left out.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...] = ()


def class_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the class folders of a data set with one folder per class, sorted, without hidden ones."""
    return sorted(path for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))


def labeled_images(folder: str | os.PathLike[str]) -> LabeledImages:
    """List a data set with one folder per class, FOLDER/CLASS/….jpg. Numbers in file names sort in numeric order.

    Raises:
        DataError: If the folder is missing, has fewer than two class folders, or one of them has no images.
    """
    root = require_folder(folder, "data folder", "give a folder with one folder of images per class")
    folders = class_folders(root)
    if len(folders) < 2:
        raise DataError(
            f"{printable(root)} has {len(folders)} class folders: a classifier needs at least 2, each a folder of "
            "images."
        )
    paths: list[Path] = []
    labels: list[int] = []
    notes: list[str] = []
    for label, path in enumerate(folders):
        images = find_images(path)
        paths += sorted(images.paths, key=_natural)
        labels += [label] * len(images.paths)
        notes += [images.note] if images.note is not None else []
    return LabeledImages(tuple(path.name for path in folders), tuple(paths), tuple(labels), tuple(notes))


def split_by_blocks(images: LabeledImages) -> tuple[list[int], list[int]]:
    """Return indices for training and indices held out for the accuracy: two of ten blocks of files per class.

    Consecutive files are often frames of one scene, so single held-out files would be near-copies of training images.

    Raises:
        DataError: If a class has fewer than ten images.
    """
    training: list[int] = []
    held_out: list[int] = []
    for label, name in enumerate(images.classes):
        members = [index for index, other in enumerate(images.labels) if other == label]
        if len(members) < _BLOCKS:
            raise DataError(
                f"class {printable(name)} has {len(members)} images: a classifier needs {_BLOCKS} per class."
            )
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
    channels: int = 3,
    values: PixelValues | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Classifier:
    """Train a classifier on a data set with one folder per class and measure its accuracy on held-out files.

    The MUNIT paper, section 5.2, fine-tunes Inception-v3 on each data set. This function fine-tunes the smaller
    convolutions of AlexNet, with Adam, random flips and shifts of up to a sixteenth, and a learning rate that decays
    to zero. The accuracy belongs to the last epoch; no epoch is selected by it.

    Args:
        folder: Folder with one folder of images per class.
        size: Side that images are resized and center-cropped to. Use the size of the images to classify later.
        epochs: Passes over the training images.
        batch_size: Images per step.
        weights: Folder with the weights of AlexNet; see `imagenet.convolution_weights`.
        architecture: "alexnet", or "small", which needs no weights.
        seed: Seed of weights, order and augmentation; the global random state is not touched.
        device: Device to train on.
        max_pixels: Limit on the pixels of an image; None is Pillow's limit.
        channels: Channels that images are read with, 1 or 3. Gray is repeated for the classifier.
        values: How pixels are read; see `read_planes`. It must be that of the domain whose outputs are classified.
        progress: Called with the completed fraction and a line of text.

    Raises:
        DataError: If there are too few classes or images, an image is damaged, or the size is below 31,
            or the number of channels is neither 1 nor 3.
        CheckpointError: If the weights of AlexNet are missing.
    """
    if size < MIN_SIZE:
        raise DataError(f"classifier size: expected at least {MIN_SIZE} pixels, got {size}.")
    if channels not in (1, 3):
        raise DataError(f"a classifier judges gray and RGB images, but the domain has {channels} channels.")
    data = labeled_images(folder)
    training, held_out = split_by_blocks(data)
    backbone = imagenet.features("alexnet", weights) if architecture == "alexnet" else None
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = Classifier(data.classes, architecture, size, backbone).to(device)
        images = _Images(data.paths, size, max_pixels, channels, values)
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
        model.value_range = None if values is None else values.range
    return model.cpu()


@torch.inference_mode()
def accuracy_on(
    model: Classifier,
    folder: str | os.PathLike[str],
    limit: int = 1000,
    max_pixels: int | None = None,
    reasons: dict[Path, str] | None = None,
    each: Callable[..., Iterable[Any]] = map,
    channels: int = 3,
    values: PixelValues | None = None,
) -> tuple[float, int]:
    """Return the accuracy on another data set with one folder per class, and the number of images it was measured on.

    Args:
        model: Classifier.
        folder: Folder with one folder of images per class.
        limit: Largest number of images.
        max_pixels: Limit on the pixels of an image; None is Pillow's limit.
        reasons: Receives the reason per image that cannot be read and is left out. None raises for the first.
        each: Applies a function to each item of a list. `distributed.each` divides the images among processes.
        channels: Channels that images are read with; see `train_classifier`.
        values: How pixels are read; see `read_planes`.

    Raises:
        DataError: If the class folders are not the classes of the classifier, or no image can be read.
    """
    data = labeled_images(folder)
    if set(data.classes) != set(model.classes):
        raise DataError(
            f"the classifier and {printable(folder)} have different classes: "
            f"{_difference(model.classes, data.classes)}. Give a classifier that `fastmunit train-classifier` trained "
            "on the classes of this domain."
        )
    order = {name: index for index, name in enumerate(model.classes)}
    chosen = random.Random(0).sample(range(len(data.paths)), min(limit, len(data.paths)))
    images = _Images(data.paths, model.size, max_pixels, channels, values)
    if reasons is not None:
        problems = list(each(images.problem, chosen))
        reasons.update((data.paths[index], why) for index, why in zip(chosen, problems, strict=True) if why is not None)
        chosen = [index for index, why in zip(chosen, problems, strict=True) if why is None]
        if not chosen:
            raise DataError(f"no image in {printable(folder)} can be read: {next(iter(reasons.values()))}")

    def count_correct(part: Sequence[int]) -> int:
        truth = torch.tensor([order[data.classes[data.labels[index]]] for index in part])
        return int((model.probabilities(images.batch(torch.tensor(part))).argmax(1) == truth).sum())

    parts = [chosen[start : start + 64] for start in range(0, len(chosen), 64)]
    return sum(each(count_correct, parts)) / len(chosen), len(chosen)


def _difference(known: Sequence[str], others: Sequence[str]) -> str:
    """Describe the classes that only one of the two has."""
    unknown, absent = sorted(set(others) - set(known)), sorted(set(known) - set(others))
    parts = [("it does not know", unknown), ("the folder has no", absent)]
    return "; ".join(f"{text} {_listed(names)}" for text, names in parts if names)


def _listed(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(map(printable, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")


class _Images:
    """Batches of image files, (N, 3, size, size) in [-1, 1]. Files are decoded once if all of them fit in the cache."""

    def __init__(
        self, paths: Sequence[Path], size: int, max_pixels: int | None, channels: int, values: PixelValues | None
    ) -> None:
        self._paths = paths
        self._read = partial(read_planes, channels=channels, max_pixels=max_pixels, values=values)
        self._transform = TestTransform(size, (size, size))
        self._use_cache = len(paths) * 3 * size * size <= _CACHE_BYTES
        self._cache: dict[int, Tensor] = {}

    def batch(self, indices: Tensor) -> Tensor:
        levels = torch.stack([self._levels(index) for index in indices.tolist()])
        return levels.float() / 127.5 - 1

    def problem(self, index: int) -> str | None:
        """Return the reason why a file cannot be read, or None."""
        try:
            self._levels(index)
        except DataError as error:
            return str(error)
        return None

    def _levels(self, index: int) -> Tensor:
        levels = self._cache.get(index)
        if levels is None:
            path = self._paths[index]
            image = self._transform(self._read(path), path).expand(3, -1, -1)
            levels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            if self._use_cache:
                self._cache[index] = levels
        return levels


def _augmented(images: Tensor) -> Tensor:
    flip = torch.rand(len(images), 1, 1, 1) < 0.5
    images = torch.where(flip, images.flip(3), images)
    max_shift = max(1, images.shape[-1] // 16)
    down, right = torch.randint(2 * max_shift + 1, (2,)).tolist()
    padded = F.pad(images, (max_shift,) * 4, mode="replicate")
    return padded[:, :, down : down + images.shape[2], right : right + images.shape[3]]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts frame 9 before frame 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
