"""Datasets of the images of one domain, and how a configuration defines them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastmunit.config import Config
from fastmunit.data.paths import DOMAINS, PARTS, Domain, Half, Part
from fastmunit.data.pixels import Stored
from fastmunit.data.seeding import named_generator
from fastmunit.data.slides import FileSource, domain_source, region_requests
from fastmunit.data.sources import GivenImages, NamedSource
from fastmunit.data.transforms import TestTransform, TrainTransform
from fastmunit.data.usable_regions import index_together
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError
from fastmunit.files import printable

_Pixels = TypeVar("_Pixels", Tensor, np.ndarray)


class ImageDataset(Dataset[Tensor]):
    """The images of one domain: `dataset[i]` is (C, H, W) float32 in [-1, 1].

    With `train`, flips and crops are random, but a function of (seed, stream, epoch, i): `dataset[i]` always has those
    of epoch 0, and `dataset.sample(i, epoch)` has others in each epoch. The global random state is neither read nor
    changed.

    Args:
        images: Image files, a `FileSource` or `SlideSource`, or an image source.
        size: Shorter side after resizing, in pixels, or None to keep the size.
        crop: (height, width) in pixels, or None to keep the whole image.
        channels: Number of channels of the tensors; see `decode_image`.
        train: Use random flips (if `flip`) and random crops instead of center crops without flips.
        seed: Seed of the random numbers.
        stream: Number that distinguishes datasets with the same seed: 0 for domain A and 1 for domain B, or 0 for both
            if they are pairs, which need equal flips and crops.
        flip: Set to False for images that change their meaning when mirrored.
        half: Use only the left or right half of each image.
        max_pixels: Maximum number of pixels of a file; see `decode_image`.
        values: How pixels are read; see `read_planes`.
    """

    def __init__(
        self,
        images: Sequence[str | os.PathLike[str]] | FileSource | NamedSource,
        size: int | None,
        crop: tuple[int, int] | None,
        channels: int = 3,
        train: bool = False,
        seed: int = 0,
        stream: int = 0,
        flip: bool = True,
        half: Half | None = None,
        max_pixels: int | None = None,
        values: PixelValues | None = None,
    ) -> None:
        self.source = images if isinstance(images, NamedSource | FileSource) else FileSource(images)
        self.size = size
        self.channels = channels
        self.seed = seed
        self.stream = stream
        self.half = half
        self.max_pixels = max_pixels
        self.values = values or PixelValues()
        self.train_transform = TrainTransform(size, crop, flip) if train else None
        self.test_transform = TestTransform(size, crop)

    def __len__(self) -> int:
        return self.source.count

    @property
    def paths(self) -> list[str | os.PathLike[str]]:
        """Paths of the image files. Raises TypeError if the images are from another source."""
        if isinstance(self.source, NamedSource):
            raise TypeError(f"{self.source.name} is not a list of files")
        return self.source.paths

    def label(self, index: int) -> str | os.PathLike[str]:
        """Return the name of an image for messages: its path, or the name of its source with the index."""
        return self.source.label(index)

    def identity(self) -> dict[str, Any]:
        """Return "count", the number of images, and "names", a SHA-256 that identifies them ("" if none can)."""
        return self.source.identity()

    def __getitem__(self, index: int) -> Tensor:
        """Return an image as in epoch 0. Raises DataError with the name of the file if it cannot be used."""
        return self.sample(index, epoch=0)

    def sample(self, index: int, epoch: int) -> Tensor:
        """Return an image as in an epoch. Without `train`, all epochs are equal."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} is out of range for a dataset of {len(self)} images")
        index %= len(self)
        return self.transform(self.decode(index, epoch), index, epoch)

    def decode(self, index: int, epoch: int) -> Tensor:
        """Decode an image, and take its half if the dataset has a `half`: (C, H, W) as from `decode_image`."""
        return self.take_half(self.decode_whole(index, epoch), index)

    def decode_whole(self, index: int, epoch: int) -> Tensor:
        """Decode a stored image, or read the region of an epoch: (C, H, W) as from `decode_image`."""
        return self.source.planes(index, self.channels, self.max_pixels, self.values, epoch)

    def stored(self, index: int) -> Stored:
        """Return an image as it is stored, or its half if the dataset has a `half`."""
        stored = self.source.stored(index, self.channels, self.max_pixels, self.values)
        return stored._replace(pixels=self.take_half(stored.pixels, index))

    def take_half(self, image: _Pixels, index: int) -> _Pixels:
        """Crop a decoded image to `half`, if the dataset has one. Raises DataError if the width is odd."""
        if self.half is None:
            return image
        width = image.shape[2]
        if width % 2:
            raise DataError(odd_width(self.label(index), width))
        return image[:, :, : width // 2] if self.half == "left" else image[:, :, width // 2 :]

    def transform(self, image: Tensor, index: int, epoch: int) -> Tensor:
        """Apply the transform of `sample` to a decoded image."""
        label = self.label(index)
        if self.train_transform is None:
            return self.test_transform(image, label)
        return self.train_transform(image, named_generator("transform", self.seed, self.stream, epoch, index), label)


def training_datasets(config: Config, given: GivenImages | None = None) -> tuple[ImageDataset, ImageDataset]:
    """Create the training datasets of domains A and B: flip, resize to `new_size`, random crop.

    Args:
        config: Configuration with the sizes and the folders or lists.
        given: Image sources to use instead of folders and lists.

    Raises:
        ConfigError, DataError: If `domain_files` raises.
    """
    crop = (config.crop_image_height, config.crop_image_width)
    return _dataset(config, "train", "a", crop, given), _dataset(config, "train", "b", crop, given)


def test_datasets(
    config: Config,
    given: GivenImages | None = None,  # noqa: PT028 - not a test
    any_size: bool = True,  # noqa: PT028
) -> tuple[ImageDataset, ImageDataset]:
    """Create the test datasets of domains A and B: resize to `new_size`, center crop of `test_crop`.

    Args:
        config: Configuration with the sizes and the folders or lists.
        given: Image sources to use instead of folders and lists.
        any_size: See `test_crop`.

    Raises:
        ConfigError, DataError: If `domain_files` raises.
    """
    crop_a, crop_b = test_crop(config, "a", any_size), test_crop(config, "b", any_size)
    return _dataset(config, "test", "a", crop_a, given), _dataset(config, "test", "b", crop_b, given)


def test_crop(config: Config, domain: Domain, any_size: bool = True) -> tuple[int, int]:  # noqa: PT028 - not a test
    """Return (height, width) of test images: `new_size` for both as in MUNIT, or the training crop without resizing.

    They are rounded down to a multiple of the generators' downsampling factor, since outputs would otherwise be smaller
    than inputs. With `any_size` False, for systems whose networks do not accept every such size, they are the training
    crop.
    """
    if not any_size:
        return config.crop_image_height, config.crop_image_width
    size = config.size_a if domain == "a" else config.size_b
    height, width = (config.crop_image_height, config.crop_image_width) if size is None else (size, size)
    multiple = 2**config.gen.n_downsample
    return max(height // multiple, 1) * multiple, max(width // multiple, 1) * multiple


def index_regions(
    config: Config, progress: Callable[[int, int], object], parts: Sequence[Part] = PARTS, any_size: bool = True
) -> None:
    """Find the usable regions of all slides and volumes, before datasets need them. See `index_together`.

    Args:
        config: Configuration with the files and the rules.
        progress: Called with the number of regions that this process has looked at, and the number that it will.
        parts: Parts of the data.
        any_size: See `test_crop`.

    Raises:
        ConfigError, DataError: If `domain_files` raises, or a file cannot be used.
    """
    crop = (config.crop_image_height, config.crop_image_width)
    requests = [
        request
        for part in parts
        for domain in DOMAINS
        if domain == "a" or config.pairs == "unpaired"
        for request in region_requests(
            config, part, domain, crop if part == "train" else test_crop(config, domain, any_size)
        )
        if request is not None
    ]
    index_together(requests, progress)


def display_images(dataset: ImageDataset, count: int) -> Tensor:
    """Return `dataset[0]` to `dataset[count - 1]` as a batch (count, C, H, W), the same on every call.

    Raises:
        DataError: If the dataset has fewer images, or one cannot be used.
    """
    if len(dataset) < count:
        raise DataError(
            f"expected {count} images to display, got a dataset of {len(dataset)}: add images or lower display_size."
        )
    return torch.stack([dataset[index] for index in range(count)])


def odd_width(path: str | os.PathLike[str], width: int) -> str:
    """Return the error message for an image whose width cannot be halved."""
    return (
        f"{printable(path)} is {width} pixels wide, which is odd: with pairs side_by_side, an image consists of two of "
        "equal width."
    )


def differing_sizes(
    a: os.PathLike[str] | str, shape_a: Sequence[int], b: os.PathLike[str] | str, shape_b: Sequence[int]
) -> str:
    """Return the error message for a pair whose resized images differ in size; shapes are (height, width)."""
    (height_a, width_a), (height_b, width_b) = shape_a, shape_b
    return (
        f"{printable(a)} and {printable(b)} are a pair, but {height_a}x{width_a} and {height_b}x{width_b} (height x "
        "width) after the resize: make their sizes equal, so that both can be cropped in the same way."
    )


def _dataset(
    config: Config, part: Part, domain: Domain, crop: tuple[int, int], given: GivenImages | None
) -> ImageDataset:
    images: FileSource | NamedSource
    if given is not None:
        images, half = given.source(part, domain), given.half(domain)
    else:
        images, half = domain_source(config, part, domain, crop)
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
        values=PixelValues.of(config, domain),
    )
