"""Extraction of style codes from images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data.failures import Failure, raise_failures
from fastmunit.data.pixels import read_pixels
from fastmunit.data.sources import given_images
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import printable
from fastmunit.metrics.images import evenly_spaced
from fastmunit.systems.code_checks import require_integer
from fastmunit.systems.translators import Translator
from fastmunit.translation.domains import source_values, target_values
from fastmunit.translation.inputs import Input, list_inputs
from fastmunit.translation.output_sheet import resized
from fastmunit.translation.references import encode_reference
from fastmunit.translation.style_file import StyleModel, Styles

MAX_TRAINING_IMAGES = 1000
"""Training images that are encoded, evenly spaced if there are more."""


@dataclass(frozen=True)
class ExtractedStyles:
    """Style codes of images.

    Attributes:
        styles: One code per image, with its name and the model.
        paths: The image files.
        failures: Images that could not be read and were left out.
        notes: Remarks on files that are no images.
    """

    styles: Styles
    paths: list[Path]
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def extract(
    translator: Translator,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    size: int | None = None,
    max_pixels: int | None = None,
    name: str = "",
    advance: Callable[[float], object] = lambda done: None,
) -> ExtractedStyles:
    """Encode the style of each image of the target domain.

    Args:
        translator: The model.
        images: Image files and folders. A style has the name of its file without the suffix, relative to the folder.
        size: Length to resize the shortest side to. None keeps it.
        max_pixels: Refuse images with more pixels. None is the limit of the configuration.
        name: Name of the model in style files. Empty for its title.
        advance: Called with the part that is done after each image.

    Raises:
        DataError: If there is no image, or none can be read.
        ConfigError: If the size is not an integer of at least 1.
        FastmunitError: If the model has no style encoder.
    """
    require_style_encoder(translator)
    if size is not None:
        require_integer("size", size, 1)
    sources = [images] if isinstance(images, str | os.PathLike) else list(images)
    inputs, notes = list_inputs([Path(source) for source in sources])
    if not inputs:
        raise DataError("expected images or folders, got none: give at least one")
    prepare = None if size is None else partial(resized, size=size)
    limit = _limit(translator, max_pixels)
    codes, used, failures = list[Tensor](), list[Input](), list[Failure]()
    for number, item in enumerate(inputs, start=1):
        try:
            code, _ = encode_reference(translator, item.path, max_pixels=limit, prepare=prepare)
            codes.append(_finite(code.cpu(), item.path))
            used.append(item)
        except FastmunitError as error:  # the file cannot be used, or memory is short for this image
            failures.append(Failure(item.path, str(error)))
        advance(number / len(inputs))
    if not codes:
        raise_failures(failures, "no image could be encoded")
    styles = Styles(torch.cat(codes), [item.name for item in used], StyleModel.of(translator, name))
    return ExtractedStyles(styles, [item.path for item in used], failures, notes)


def training_styles(
    translator: Translator,
    config: Config,
    *,
    name: str = "",
    advance: Callable[[float], object] = lambda done: None,
) -> Styles:
    """Encode the training images of the target domain, as the training sees them in its first epoch.

    At most `MAX_TRAINING_IMAGES` are used. Those that cannot be read are left out.

    Args:
        translator: The model.
        config: Its configuration, which names the images.
        name: Name of the model in style files. Empty for its title.
        advance: Called with the part that is done after each image.

    Raises:
        DataError: If no training images are there, or none can be read.
        FastmunitError: If the model has no style encoder.
    """
    require_style_encoder(translator)
    try:
        images = data.training_datasets(config, given_images(config))["ab".index((translator.direction or "a2b")[-1])]
    except FastmunitError as error:
        raise DataError(
            f"the training images of the model are not at hand, so give images or a file: {error}"
        ) from error
    codes, names, reason = list[Tensor](), list[str](), ""
    chosen = evenly_spaced(len(images), MAX_TRAINING_IMAGES)
    for number, index in enumerate(chosen, start=1):
        label = images.label(index)
        try:
            codes.append(_finite(translator.style_of(images[index]).cpu(), label))
            names.append(printable(Path(label).name))
        except DataError as error:
            reason = reason or str(error)
        advance(number / len(chosen))
    if not codes:
        raise DataError(f"no training image could be encoded: {reason}")
    return Styles(torch.cat(codes), names, StyleModel.of(translator, name))


def require_style_encoder(translator: Translator) -> None:
    """Raise FastmunitError if a model cannot compute the style code of an image."""
    if not translator.takes_references:
        system = "this" if translator.config is None else f"this {translator.config.system}"
        raise FastmunitError(
            f"{system} model has no style encoder for {translator.direction or 'a2b'}: use a system with one, such as "
            "munit or bicyclegan."
        )


def read_target(translator: Translator, path: Path, size: int | None = None, max_pixels: int | None = None) -> Tensor:
    """Read an image of the target domain (C', H, W). Raise DataError if it cannot be used."""
    values = target_values(translator)
    return resized(read_pixels(path, translator.target_channels, _limit(translator, max_pixels), values), size)


def read_source(translator: Translator, path: Path, size: int | None = None, max_pixels: int | None = None) -> Tensor:
    """Read an image of the source domain (C, H, W). Raise DataError if it cannot be used."""
    values = source_values(translator)
    return resized(read_pixels(path, translator.channels, _limit(translator, max_pixels), values), size)


def _limit(translator: Translator, max_pixels: int | None) -> int | None:
    configured = None if translator.config is None else translator.config.max_pixels
    return configured if max_pixels is None else max_pixels


def _finite(code: Tensor, label: str | os.PathLike[str]) -> Tensor:
    if not bool(code.isfinite().all()):
        raise DataError(f"the style of {printable(label)} is NaN or infinite: the model has diverged.")
    return code
