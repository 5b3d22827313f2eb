"""Image sources of user programs, instead of folders: their protocol, and their names in messages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.data.factory import call_factory, located
from fastmunit.data.paths import Domain, Half, Part
from fastmunit.data.pixels import Stored
from fastmunit.data.value_range import PixelValues
from fastmunit.data.values import ImageLike, checked, image_planes, stored_image
from fastmunit.errors import DataError
from fastmunit.memory import is_out_of_memory
from fastmunit.section import brief


@runtime_checkable
class ImageSource(Protocol):
    """The images of one domain by index, from `images[0]` to `images[len(images) - 1]`.

    An image is one of:

    - a path, or a PIL image;
    - a NumPy array (H, W) or (H, W, C) of uint8 or uint16, or of any real type if the configuration has a value range;
    - a tensor (C, H, W) of uint8;
    - a tensor (C, H, W) of floating point values in [-1, 1], with the channels of the configuration.

    All except the last are converted between gray and RGB as needed. Flip, resize and crop of the configuration follow.
    A list of paths is such a source, and so are an array (N, H, W, C) of uint8 in memory or on disk (`numpy.memmap`),
    and a Hugging Face dataset wrapped in `fastmunit.data.huggingface`.

    A source must guarantee:

    - `images[i]` is always the same image, in any order and in any process. Otherwise resumed training does not compute
      the same weights.
    - The number of images does not change.
    - It does not change the global random state of torch.

    Images are requested from one thread of a process at a time, but not always from the same thread. With `num_workers`
    above 0, worker processes are forked from the training process, which has already requested some images. They would
    share a file or connection that was opened before, so open it again if `os.getpid()` has changed.

    A source may have a text attribute `fingerprint` that identifies the images. Resuming a run reports if it has
    changed. Without a fingerprint, only the number of images is compared.
    """

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int, /) -> ImageLike:
        """Return the image at an index from 0 to the length - 1."""
        ...


ImageSources: TypeAlias = Mapping[str, ImageSource]
"""Sources by name: trainA, trainB, testA and testB, or with `pairs: side_by_side` train and test."""


class NamedSource:
    """An image source with a name for messages. Any error of the source becomes a DataError.

    Args:
        images: The source.
        name: Name of the source.

    Raises:
        DataError: If `images` is not an `ImageSource`, or is empty.
    """

    def __init__(self, images: ImageSource, name: str) -> None:
        if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, ImageSource):
            raise DataError(
                f"{name} is of type {type(images).__name__}, which is not an image source: give an object with __len__ "
                "and __getitem__, such as a list of paths (fastmunit.data.list_images), or set data_root for folders."
            )
        self.images, self.name = images, name
        try:
            self.count = len(images)
        except Exception as error:  # the source may raise anything
            raise DataError(f"len() of {name} failed: {located(error)}.") from error
        if self.count == 0:
            raise DataError(f"{name} has no images: add some.")

    def label(self, index: int) -> str:
        """Return the name of an image for messages."""
        return f"{self.name}[{index}]"

    def planes(self, index: int, channels: int, max_pixels: int | None, values: PixelValues, epoch: int = 0) -> Tensor:
        """Return an image like `read_planes`: (C, H, W), uint8 or float32 in [0, 1]. All epochs are equal.

        Raises:
            DataError: If the source raises, or returns something that cannot be used as an image.
        """
        label = self.label(index)
        image = self._image(index)
        with _named(label):
            planes = _planes(image, channels, label, max_pixels, values)
        self._require_channels(len(planes), channels, label)
        return planes

    def stored(self, index: int, channels: int, max_pixels: int | None, values: PixelValues) -> Stored:
        """Return an image as it is stored.

        Raises:
            DataError: As in `planes`, and if the image is a tensor in [-1, 1], which has no stored values.
        """
        label = self.label(index)
        image = self._image(index)
        with _named(label):
            if isinstance(image, Tensor) and image.dtype != torch.uint8:
                raise DataError("a tensor in [-1, 1] has no stored values: give arrays, or [low, high] instead of auto")
            stored = stored_image(_as_array(image), channels, label, max_pixels, values)
        self._require_channels(len(stored.pixels), channels, label)
        return stored

    @property
    def has_stored_values(self) -> bool:
        """False if the first image is a tensor in [-1, 1]."""
        image = self._image(0)
        return not isinstance(image, Tensor) or image.dtype == torch.uint8

    def _image(self, index: int) -> object:
        try:
            return self.images[index]
        except Exception as error:  # the source may raise anything
            if is_out_of_memory(error):
                raise
            raise DataError(f"{self.label(index)}: the source raised {located(error)}: fix the source.") from error

    def _require_channels(self, bands: int, channels: int, label: str) -> None:
        if bands != channels:
            raise DataError(
                f"{label} has {bands} channels but input_dim is {channels}: set input_dim to {bands} or convert it."
            )

    def identity(self) -> dict[str, Any]:
        """Return "count", the number of images, and "names", a SHA-256 that identifies them ("" if none can).

        Raises:
            DataError: If the fingerprint is not text.
        """
        fingerprint: object = getattr(self.images, "fingerprint", None)
        if isinstance(self.images, list | tuple) and all(isinstance(path, str | os.PathLike) for path in self.images):
            return file_identity(self.images)
        if fingerprint is None:
            return {"count": self.count, "names": ""}
        if not isinstance(fingerprint, str):
            kind = type(fingerprint).__name__
            raise DataError(f"the fingerprint of {self.name} is of type {kind}: return text or None.")
        return {"count": self.count, "names": hashlib.sha256(os.fsencode(fingerprint)).hexdigest()}


class GivenImages:
    """The image sources of a user program by part and domain.

    Args:
        images: Sources by name; see `ImageSources`.
        pairs: Value of `Config.pairs`. With "folders", image k of A and image k of B are a pair.

    Raises:
        DataError: If a source is missing or invalid, a name is unknown, or pairs are incomplete.
    """

    def __init__(self, images: ImageSources, pairs: str) -> None:
        self.joined = pairs == "side_by_side"
        parts = {"train": ["train"], "test": ["test"]} if self.joined else _PARTS
        known = [name for names in parts.values() for name in names]
        if not isinstance(images, Mapping):
            raise DataError(
                f"expected data as a mapping, got {type(images).__name__}: give one with {_and(parts['train'])}, "
                f"and with {_and(parts['test'])} if there are test images."
            )
        unknown = [brief(name) for name in images if name not in known]
        if unknown:
            raise DataError(f"the data have {', '.join(unknown[:3])}: with pairs {pairs}, the names are {_and(known)}.")
        given = {name: images.get(name) for name in known}
        tested = any(given[name] is not None for name in parts["test"])
        missing = [name for name in parts["train"] if given[name] is None]
        missing += [name for name in parts["test"] if given[name] is None and tested]
        if missing:
            raise DataError(f"the data have no {missing[0]}: with pairs {pairs}, give at least {_and(parts['train'])}.")
        self._sources = {name: NamedSource(source, name) for name, source in given.items() if source is not None}
        self.has_test = tested
        if pairs == "folders":
            for a, b in parts.values():
                self._require_pairs(a, b)

    def source(self, part: Part, domain: Domain) -> NamedSource:
        """Return the images of a domain, which are the training images if there are no test images."""
        part = part if self.has_test else "train"
        return self._sources[part if self.joined else f"{part}{domain.upper()}"]

    def half(self, domain: Domain) -> Half | None:
        """Return the half of each image that belongs to the domain, or None for the whole image."""
        return ("left" if domain == "a" else "right") if self.joined else None

    def require_test(self) -> None:
        """Raise DataError if there are no test images."""
        if not self.has_test:
            names = "test" if self.joined else "testA and testB"
            raise DataError(f"the data have no test images: give {names} in addition to the training images.")

    def _require_pairs(self, a: str, b: str) -> None:
        counts = [self._sources[name].count for name in (a, b) if name in self._sources]
        if len(set(counts)) > 1:
            raise DataError(
                f"pairs folders: {a} has {counts[0]:,} images and {b} has {counts[1]:,}, but image k of both are a "
                "pair: give equal numbers of both, or set pairs to unpaired."
            )


_PARTS = {"train": ["trainA", "trainB"], "test": ["testA", "testB"]}


def given_images(config: Config, images: ImageSources | GivenImages | None = None) -> GivenImages | None:
    """Return the sources to use instead of folders: `images`, or else those of `data_module`, or else None.

    Raises:
        ConfigError: If the factory named by `data_module` cannot be called.
        DataError: If `GivenImages` raises.
    """
    if isinstance(images, GivenImages):
        return images
    if images is not None:
        return GivenImages(images, config.pairs)
    if config.data_module is None:
        return None
    try:
        return GivenImages(call_factory(config.data_module, config), config.pairs)
    except DataError as error:
        raise DataError(f"data_module {config.data_module!r}: {error}") from error


def file_identity(paths: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    """Return "count", the number of files, and "names", a SHA-256 of their names in order.

    Names are relative to the common parent folder, so that moving the data does not change them.
    """
    names = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    folder = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120
    relative = "\0".join(os.path.relpath(name, folder) for name in names)
    return {"count": len(names), "names": hashlib.sha256(os.fsencode(relative)).hexdigest()}


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Turn errors about the image inside the block to a DataError that names it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from error


def _as_array(image: object) -> object:
    """Return a tensor of bytes (C, H, W) as an array (H, W, C), and any other value unchanged."""
    if isinstance(image, Tensor) and image.dim() == 3 and image.dtype == torch.uint8:
        return image.permute(1, 2, 0).cpu().numpy()
    return image


def _planes(image: object, channels: int, label: str, max_pixels: int | None, values: PixelValues) -> Tensor:
    image = _as_array(image)
    if isinstance(image, Tensor):
        image = checked(image.detach(), label).cpu()
        low, high = (float(value) for value in image.aminmax())
        if not -1 <= low <= high <= 1:
            raise ValueError(f"{label}: values {low:g}..{high:g} are outside [-1, 1]: scale them to [-1, 1].")
        return (image.to(torch.promote_types(image.dtype, torch.float32)) + 1).div(2).to(torch.float32)
    if isinstance(image, np.ndarray) and image.ndim not in (2, 3):
        raise ValueError(f"{label}: expected an array (H, W) or (H, W, C), got shape {image.shape}: return one image.")
    if isinstance(image, Mapping | list | tuple):
        raise TypeError(
            f"{label}: got a {type(image).__name__}: return only the image (wrap a Hugging Face dataset as "
            "fastmunit.data.huggingface(dataset, column))."
        )
    return image_planes(image, channels, label, max_pixels, values)


def _and(names: list[str]) -> str:
    return " and ".join(names)
