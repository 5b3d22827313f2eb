"""Digits of two domains, and the classifier that experiments with them train.

The domains are scikit-learn's optdigits (1,797 digits of 8x8 pixels) and 3,000 digits of MNIST's test set.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fastmunit import data
from fastmunit.errors import DataError, FastmunitError

SIZE = 32
SUBSET = Path(__file__).parent / "data" / "mnist_digits.npz"


class Digits(NamedTuple):
    """Gray images (N, H, W) and their classes (N,), uint8."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def part(self, selection: slice) -> Digits:
        """Select some of the digits."""
        return Digits(self.images[selection], self.labels[selection])


def load_optdigits() -> Digits:
    """Load scikit-learn's 1,797 digits of 8x8 pixels, white on black. Raises FastmunitError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FastmunitError('this example needs scikit-learn: pip install "fastmunit[examples]".') from error
    bunch = load_digits()
    return Digits(np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.uint8))


def load_mnist(folder: Path | None) -> Digits:
    """Load MNIST's test digits: 3,000 from a file next to this script, or all 10,000 from idx files in `folder`.

    The 28x28 pixels are cropped to the middle 20x20, which the digits were scaled to: optdigits have no margin.

    Raises:
        DataError: If a file is missing or damaged.
    """
    if folder is None:
        with np.load(SUBSET) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    else:
        images = read_idx(folder / "t10k-images-idx3-ubyte.gz", dimensions=3)
        labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz", dimensions=1)
        if len(images) != len(labels):
            raise DataError(f"{folder} has {len(images)} images but {len(labels)} labels: download it again.")
    return Digits(np.ascontiguousarray(images[:, 4:24, 4:24]), labels)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes. Raises DataError, which names the file, if it is not one."""
    try:
        content = gzip.decompress(path.read_bytes())
        magic, *shape = struct.unpack(f">{1 + dimensions}I", content[: 4 + 4 * dimensions])
        if magic != 0x800 + dimensions:
            raise ValueError(f"its first four bytes are {magic:#010x}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give --mnist the folder with MNIST's gzipped test files.") from error
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(
            f"{path} is not a gzipped idx file of {dimensions} dimensions ({error}): replace it."
        ) from error


def write_images(digits: Digits, folder: Path) -> list[Path]:
    """Write missing PNG files of digits. Return all paths, in the order of `digits`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05d}.png" for index in range(len(digits.images))]
    for path, image in zip(paths, digits.images, strict=True):
        if not path.exists():
            partial = path.with_suffix(".partial")
            Image.fromarray(image).save(partial, format="PNG")
            partial.replace(path)
    return paths


def read_images(paths: Sequence[Path]) -> Tensor:
    """Read images as UNIT translates them: (N, 1, SIZE, SIZE) in [-1, 1]."""
    dataset = data.ImageDataset(paths, SIZE, (SIZE, SIZE), channels=1)
    return torch.stack([dataset[index] for index in range(len(dataset))])


class Classifier(nn.Sequential):
    """A network from images (N, 1, SIZE, SIZE) to logits of ten classes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * (SIZE // 8) ** 2, 10),
        )  # fmt: skip


def train_classifier(
    images: Tensor,
    labels: Tensor,
    seed: int,
    iterations: int,
    batch_size: int = 32,
    prepare: Callable[[Tensor, Tensor, int], Tensor] = lambda images, _indices, _epoch: images,
) -> Classifier:
    """Train a classifier with Adam on the cross entropy. Return it in eval mode.

    Args:
        images: Images (N, 1, SIZE, SIZE).
        labels: Their classes (N,), int64 on the same device.
        seed: Seed of weights, order and dropout. The order of the images depends on it and on N alone.
        iterations: Number of updates, the same for every classifier of an experiment.
        batch_size: Images per update.
        prepare: Takes a batch, the indices of its images and the number of the epoch, and returns what the network
            reads.
    """
    torch.manual_seed(seed)
    classifier = Classifier().to(images.device)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(seed)
    epoch, batches = -1, list[Tensor]()
    for _ in range(iterations):
        if not batches:
            epoch, batches = epoch + 1, list(torch.randperm(len(images), generator=order).split(batch_size))
        indices = batches.pop(0)
        place = indices.to(images.device)
        optimizer.zero_grad()
        F.cross_entropy(classifier(prepare(images[place], indices, epoch)), labels[place]).backward()
        optimizer.step()
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the percentage of images that are classified correctly."""
    correct = [(classifier(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return 100 * float(torch.stack(correct).sum()) / len(images)
