"""Images that a program gives in place of folders: what they must be, and what they are called in messages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.data.factory import call_factory, located
from fastmunit.data.paths import Domain, Half, Part
from fastmunit.data.values import ImageLike, checked, image_planes
from fastmunit.errors import DataError
from fastmunit.memory import is_out_of_memory
from fastmunit.section import brief


@runtime_checkable
class ImageSource(Protocol):
    """Images of one domain, by index: `len(images)` of them, `images[0]` to `images[len(images) - 1]`.

    An image is one of:

    - a path, or a PIL image;
    - a NumPy array (H, W) or (H, W, C) of uint8 or uint16;
    - a tensor (C, H, W) of uint8;
    - a tensor (C, H, W) of floating point values in [-1, 1], with the channels of the configuration.

    Flip, resize and crop of the configuration follow, and for all but the last a conversion between grey and RGB. A
    list of paths is such a source, and so are an array (N, H, W, C) of uint8 in memory or on disk (`numpy.memmap`) and
    a Hugging Face dataset in `fastmunit.data.huggingface`.

    What a source promises:

    - `images[i]` is the same image each time, in whatever order and process it is asked for. A training that is resumed
      computes the same weights only then.
    - The number of images does not change.
    - It is asked in one thread of a process at a time, not always the same one. With `num_workers` above 0 the
      processes that ask are forked from the one that trains, which has asked for some images before: a file or
      connection that is opened once would be shared by all of them. Open it anew where `os.getpid()` has changed.
    - It leaves the global random state of torch alone.

    A source may have a text `fingerprint` that tells it from other images. A run that is resumed says so where the
    fingerprint is another one than before; without it, only the number of images is compared.
    """

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int, /) -> ImageLike:
        """Return an image; `index` is at least 0 and below the length."""
        ...


ImageSources: TypeAlias = Mapping[str, ImageSource]
"""Sources by name: trainA, trainB, testA, testB; with `pairs: side_by_side` train, test."""


class NamedSource:
    """A source with a name for messages; whatever goes wrong with it is a DataError.

    Args:
        images: The source.
        name: Its name.

    Raises:
        DataError: It is no `ImageSource`, or is empty.
    """

    def __init__(self, images: ImageSource, name: str) -> None:
        if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, ImageSource):
            raise DataError(
                f"{name} is of type {type(images).__name__}, which is no source of images: give an object with __len__ "
                "and __getitem__, such as a list of paths (fastmunit.data.list_images), or set data_root for folders."
            )
        self.images, self.name = images, name
        try:
            self.count = len(images)
        except Exception as error:  # of the program, which may raise anything
            raise DataError(f"{name} does not tell how many images it has: {located(error)}.") from error
        if self.count == 0:
            raise DataError(f"{name} has no images: add some.")

    def label(self, index: int) -> str:
        """Return what an image is called in messages."""
        return f"{self.name}[{index}]"

    def planes(self, index: int, channels: int, max_pixels: int | None) -> Tensor:
        """Return an image as `decode_image` does: (C, H, W), uint8, or float32 in [0, 1].

        Raises:
            DataError: The source raises, or what it returns is no image that can be used.
        """
        label = self.label(index)
        try:
            image = self.images[index]
        except Exception as error:  # of the program, which may raise anything
            if is_out_of_memory(error):
                raise
            raise DataError(f"{label}: the data raised {located(error)}: mend the data.") from error
        try:
            planes = _planes(image, channels, label, max_pixels)
        except DataError as error:
            raise DataError(f"{label}: {error}") from error
        except (TypeError, ValueError) as error:
            raise DataError(str(error)) from error
        if planes.shape[0] != channels:
            bands = planes.shape[0]
            raise DataError(
                f"{label} has {bands} channels but input_dim is {channels}: set input_dim to {bands} or convert it."
            )
        return planes

    def identity(self) -> dict[str, Any]:
        """Return what tells these images from others: their number, and a SHA-256, "" where there is nothing to hash.

        Raises:
            DataError: The fingerprint is no text.
        """
        found: object = getattr(self.images, "fingerprint", None)
        if isinstance(self.images, list | tuple) and all(isinstance(path, str | os.PathLike) for path in self.images):
            return file_identity(self.images)
        if found is None:
            return {"count": self.count, "names": ""}
        if not isinstance(found, str):
            raise DataError(f"the fingerprint of {self.name} is of type {type(found).__name__}: make it text, or None.")
        return {"count": self.count, "names": hashlib.sha256(os.fsencode(found)).hexdigest()}


class GivenImages:
    """Sources by part and domain.

    Args:
        images: Sources by name; see `ImageSources`.
        pairs: `Config.pairs`. With "folders", image k of A and image k of B are a pair.

    Raises:
        DataError: A source is missing, is none, or has a name that means nothing; pairs are not complete.
    """

    def __init__(self, images: ImageSources, pairs: str) -> None:
        self.joined = pairs == "side_by_side"
        parts = {"train": ["train"], "test": ["test"]} if self.joined else _PARTS
        known = [name for names in parts.values() for name in names]
        if not isinstance(images, Mapping):
            raise DataError(
                f"the data are of type {type(images).__name__}: give a mapping with {_and(parts['train'])}, and "
                f"{_and(parts['test'])} where there are test images."
            )
        unknown = [brief(name) for name in images if name not in known]
        if unknown:
            raise DataError(f"the data have {', '.join(unknown[:3])}: with pairs {pairs} the names are {_and(known)}.")
        given = {name: images.get(name) for name in known}
        tested = any(given[name] is not None for name in parts["test"])
        missing = [name for name in parts["train"] if given[name] is None]
        missing += [name for name in parts["test"] if given[name] is None and tested]
        if missing:
            raise DataError(f"the data have no {missing[0]}: with pairs {pairs} give {_and(parts['train'])} at least.")
        self._sources = {name: NamedSource(source, name) for name, source in given.items() if source is not None}
        self.has_test = tested
        if pairs == "folders":
            for a, b in parts.values():
                self._require_pairs(a, b)

    def source(self, part: Part, domain: Domain) -> NamedSource:
        """Return the images of a domain; those of the training where there are no test images."""
        part = part if self.has_test else "train"
        return self._sources[part if self.joined else f"{part}{domain.upper()}"]

    def half(self, domain: Domain) -> Half | None:
        """Return which half of each image shows the domain; None where the whole image does."""
        return ("left" if domain == "a" else "right") if self.joined else None

    def require_test(self) -> None:
        """Raise DataError where there are no test images."""
        if not self.has_test:
            names = "test" if self.joined else "testA and testB"
            raise DataError(f"the data have no test images: give {names} beside those of the training.")

    def _require_pairs(self, a: str, b: str) -> None:
        counts = [self._sources[name].count for name in (a, b) if name in self._sources]
        if len(set(counts)) > 1:
            raise DataError(
                f"pairs folders: {a} has {counts[0]:,} images and {b} {counts[1]:,}, and image k of both are a pair: "
                "give as many of both, or set pairs to unpaired."
            )


_PARTS = {"train": ["trainA", "trainB"], "test": ["testA", "testB"]}


def given_images(config: Config, images: ImageSources | GivenImages | None = None) -> GivenImages | None:
    """Return the sources to use in place of folders: `images`, else those of `data_module`, else None.

    Raises:
        ConfigError: The factory that `data_module` names cannot be called.
        DataError: As `GivenImages`.
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
    """Return what tells files from others: their number, and a SHA-256 of their names in order.

    Names are relative to the folder that holds them all, so that moved data are the same data.
    """
    names = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    folder = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120
    relative = "\0".join(os.path.relpath(name, folder) for name in names)
    return {"count": len(names), "names": hashlib.sha256(os.fsencode(relative)).hexdigest()}


def _planes(image: object, channels: int, label: str, max_pixels: int | None) -> Tensor:
    if isinstance(image, Tensor) and image.dim() == 3 and image.dtype == torch.uint8:
        image = image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, Tensor):
        image = checked(image.detach(), label).cpu()
        low, high = (float(value) for value in image.aminmax())
        if not -1 <= low <= high <= 1:
            raise ValueError(f"{label}: values {low:g}..{high:g} are outside [-1, 1]: scale them to it.")
        return (image.to(torch.promote_types(image.dtype, torch.float32)) + 1).div(2).to(torch.float32)
    if isinstance(image, np.ndarray) and image.ndim not in (2, 3):
        raise ValueError(f"{label}: an array must be (H, W) or (H, W, C), not {image.shape}: return one image.")
    if isinstance(image, Mapping | list | tuple):
        raise TypeError(
            f"{label}: got a {type(image).__name__}: return the image alone (for a dataset of Hugging Face, give "
            "fastmunit.data.huggingface(dataset, column))."
        )
    return image_planes(image, channels, label, max_pixels)


def _and(names: list[str]) -> str:
    return " and ".join(names)
