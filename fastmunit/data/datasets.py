"""Datasets of single domains, as a configuration describes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastmunit.config import Config
from fastmunit.data.crop_size import takes_any_size
from fastmunit.data.images import decode_image
from fastmunit.data.paths import Domain, Half, Part, domain_files
from fastmunit.data.seeding import named_generator
from fastmunit.data.sources import GivenImages, NamedSource, file_identity
from fastmunit.data.transforms import TestTransform, TrainTransform
from fastmunit.errors import DataError
from fastmunit.files import shown


class FileSource:
    """Image files, with the interface of a `NamedSource`."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = list(paths)
        self.count = len(self.paths)

    def label(self, index: int) -> str | os.PathLike[str]:
        """Return the path of an image."""
        return self.paths[index]

    def planes(self, index: int, channels: int, max_pixels: int | None) -> Tensor:
        """Return an image as `decode_image` does."""
        return decode_image(self.paths[index], channels, max_pixels)

    def identity(self) -> dict[str, Any]:
        """Return what tells these files from others; see `file_identity`."""
        return file_identity(self.paths)


class ImageDataset(Dataset[Tensor]):
    """Images of one domain: `dataset[i]` is (C, H, W) float32 in [-1, 1].

    With `train`, flip and crop are random, but fixed by (seed, stream, epoch, i): `dataset[i]` is epoch 0 and the same
    each time, `dataset.sample(i, epoch)` is another draw for every epoch. The global random state is neither read nor
    changed.

    Args:
        images: image files, or a source of a program.
        size: shortest side after resizing, pixels; None keeps the size.
        crop: (height, width) in pixels; None keeps the whole image.
        channels: channels of the tensors; see `decode_image`.
        train: random flip (if `flip`) and crop; else no flip and a centre crop.
        seed: seed of the random draws.
        stream: number that tells apart datasets with the same seed (0 for domain A, 1 for domain B; 0 for both where
            they are pairs, whose flips and crops are the same).
        flip: False for images that mean something else in a mirror.
        half: take the left or the right half of each image alone.
        max_pixels: refuse files with more pixels; see `decode_image`.
    """

    def __init__(
        self,
        images: Sequence[str | os.PathLike[str]] | NamedSource,
        size: int | None,
        crop: tuple[int, int] | None,
        channels: int = 3,
        train: bool = False,
        seed: int = 0,
        stream: int = 0,
        flip: bool = True,
        half: Half | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.source = images if isinstance(images, NamedSource) else FileSource(images)
        self.size = size
        self.channels = channels
        self.seed = seed
        self.stream = stream
        self.half = half
        self.max_pixels = max_pixels
        self.train_transform = TrainTransform(size, crop, flip) if train else None
        self.test_transform = TestTransform(size, crop)

    def __len__(self) -> int:
        return self.source.count

    @property
    def paths(self) -> list[str | os.PathLike[str]]:
        """The image files. Raises TypeError where the images are of a program."""
        if isinstance(self.source, NamedSource):
            raise TypeError(f"{self.source.name} is no list of files")
        return self.source.paths

    def label(self, index: int) -> str | os.PathLike[str]:
        """What an image is called: its path, or the name of its source with the index."""
        return self.source.label(index)

    def identity(self) -> dict[str, Any]:
        """What tells these images from others: "count" and "names", a SHA-256, "" where there is nothing to hash."""
        return self.source.identity()

    def __getitem__(self, index: int) -> Tensor:
        """The image as epoch 0 shows it. Raises DataError naming the file when it cannot be used."""
        return self.sample(index, epoch=0)

    def sample(self, index: int, epoch: int) -> Tensor:
        """The image as an epoch shows it; without `train` all epochs are equal."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a dataset of {len(self)}")
        index %= len(self)
        return self.transform(self.decode(index), index, epoch)

    def decode(self, index: int) -> Tensor:
        """The image as it is stored, or its half: (C, H, W) as `decode_image` gives it."""
        return self.take_half(self.decode_whole(index), index)

    def decode_whole(self, index: int) -> Tensor:
        """The image as it is stored: (C, H, W) as `decode_image` gives it."""
        return self.source.planes(index, self.channels, self.max_pixels)

    def take_half(self, image: Tensor, index: int) -> Tensor:
        """The half of a decoded image that the dataset is of, or all of it. Raises DataError on an odd width."""
        if self.half is None:
            return image
        width = image.shape[2]
        if width % 2:
            raise DataError(odd_width(self.label(index), width))
        return image[:, :, : width // 2] if self.half == "left" else image[:, :, width // 2 :]

    def transform(self, image: Tensor, index: int, epoch: int) -> Tensor:
        """What `sample` makes of the decoded image."""
        label = self.label(index)
        if self.train_transform is None:
            return self.test_transform(image, label)
        return self.train_transform(image, named_generator("transform", self.seed, self.stream, epoch, index), label)


def training_datasets(config: Config, given: GivenImages | None = None) -> tuple[ImageDataset, ImageDataset]:
    """Training data of domains A and B: flip, resize to `new_size`, random crop.

    Args:
        config: sizes and crop, and the folders or lists.
        given: images of a program, to use in place of folders and lists.

    Raises:
        ConfigError, DataError: as `domain_files`.
    """
    crop = (config.crop_image_height, config.crop_image_width)
    return _dataset(config, "train", "a", crop, given), _dataset(config, "train", "b", crop, given)


def test_datasets(
    config: Config,
    given: GivenImages | None = None,  # noqa: PT028 - no test
) -> tuple[ImageDataset, ImageDataset]:
    """Test data of domains A and B: resize to `new_size`, centre crop of `test_crop`.

    Arguments: as of `training_datasets`.

    Raises:
        ConfigError, DataError: as `domain_files`.
    """
    crop_a, crop_b = test_crop(config, "a"), test_crop(config, "b")
    return _dataset(config, "test", "a", crop_a, given), _dataset(config, "test", "b", crop_b, given)


def test_crop(config: Config, domain: Domain) -> tuple[int, int]:
    """(height, width) of test images: `new_size` squared as in MUNIT, the training crop when nothing is resized.

    Rounded down to a multiple of the generators' downsampling, without which outputs are smaller than inputs. Systems
    whose networks do not take any such size have the training crop.
    """
    if not takes_any_size(config):
        return config.crop_image_height, config.crop_image_width
    size = config.size_a if domain == "a" else config.size_b
    height, width = (config.crop_image_height, config.crop_image_width) if size is None else (size, size)
    multiple = 2**config.gen.n_downsample
    return max(height // multiple, 1) * multiple, max(width // multiple, 1) * multiple


def display_images(dataset: ImageDataset, count: int) -> Tensor:
    """`dataset[0]` to `dataset[count - 1]` as one (count, C, H, W) batch, the same each time.

    Raises:
        DataError: the dataset has fewer images, or one cannot be used.
    """
    if len(dataset) < count:
        raise DataError(
            f"{count} images are to be displayed but the dataset has {len(dataset)}: add images or lower display_size."
        )
    return torch.stack([dataset[index] for index in range(count)])


def odd_width(path: str | os.PathLike[str], width: int) -> str:
    """What is wrong with an image that cannot be halved."""
    return (
        f"{shown(path)} is {width} pixels wide, which is odd: with pairs side_by_side an image holds two of equal "
        "width."
    )


def differing_sizes(
    a: os.PathLike[str] | str, shape_a: Sequence[int], b: os.PathLike[str] | str, shape_b: Sequence[int]
) -> str:
    """What is wrong with a pair whose images differ in size after the resize; shapes are (height, width)."""
    (height_a, width_a), (height_b, width_b) = shape_a, shape_b
    return (
        f"{shown(a)} and {shown(b)} are a pair, but {height_a}x{width_a} and {height_b}x{width_b} (height x width) "
        "after the resize: give both one size, so that they can be cropped alike."
    )


def _dataset(
    config: Config, part: Part, domain: Domain, crop: tuple[int, int], given: GivenImages | None
) -> ImageDataset:
    images: Sequence[str | os.PathLike[str]] | NamedSource
    if given is not None:
        images, half = given.source(part, domain), given.half(domain)
    else:
        files = domain_files(config, part, domain)
        images, half = files.paths, files.half
    return ImageDataset(
        images,
        size=config.size_a if domain == "a" else config.size_b,
        crop=crop,
        channels=config.input_dim_a if domain == "a" else config.input_dim_b,
        train=part == "train",
        seed=config.seed,
        stream="ab".index(domain) if config.pairs == "unpaired" else 0,
        half=half,
        flip=config.flip,
        max_pixels=config.max_pixels,
    )
