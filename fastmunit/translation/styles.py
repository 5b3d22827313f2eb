"""Style codes from random numbers, reference images and style files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fastmunit.data.values import ACCEPTED, IMAGE_TYPES, ImageLike
from fastmunit.errors import DataError
from fastmunit.files import printable
from fastmunit.systems.translators import Translator
from fastmunit.translation.large_images import Resources
from fastmunit.translation.references import encode_reference
from fastmunit.translation.style_file import SUFFIX, Styles, as_codes, read_styles, require_same_model

StylesLike = int | ImageLike | Sequence[ImageLike]


def require_styles(translator: Translator) -> None:
    """Raise DataError if a model gives one output per image."""
    if not translator.style_dim:
        system = "this model" if translator.config is None else f"a {translator.config.system} model"
        raise DataError(f"{system} gives one output per image, so there are no styles to choose: leave them out.")


def styles_from_file(translator: Translator, path: str | os.PathLike[str]) -> Styles:
    """Read a style file for a model.

    Raises:
        DataError: If the file cannot be used, or belongs to another model, or the model has no styles.
    """
    require_styles(translator)
    styles = read_styles(path)
    require_same_model(styles, translator, path)
    try:
        codes = as_codes(styles.codes, translator.style_dim, _example(translator), "styles")
    except DataError as error:
        raise DataError(f"styles file {printable(path)} belongs to another model: {error}.") from error
    return replace(styles, codes=codes)


def styles_by_direction(path: str | os.PathLike[str], translators: Mapping[str, Translator]) -> dict[str, Styles]:
    """Read a style file for the direction that it names, or the first one if it names none.

    Args:
        path: The file.
        translators: Translator of each direction of a model.

    Returns:
        The styles by their direction, one entry.

    Raises:
        DataError: If the file cannot be used, or belongs to another model or to a direction that is not there, or the
            model has no styles.
    """
    require_styles(next(iter(translators.values())))
    model = read_styles(path).model
    direction = next(iter(translators)) if model is None else model.direction
    if direction not in translators:
        raise DataError(
            f"styles file {printable(path)} is for {printable(direction)}, and this model translates "
            f"{' and '.join(translators)} only: give a file of that direction."
        )
    return {direction: styles_from_file(translators[direction], path)}


def style_codes(
    translator: Translator,
    styles: object,
    seed: int,
    precision: str | None,
    max_pixels: int | None = None,
    resources: Resources | None = None,
) -> Tensor:
    """Convert the argument `styles` of `fastmunit.translate` to style codes.

    Raises:
        TypeError: If `styles` has another type than those listed there.
        ValueError: If codes or images have a wrong shape.
        FastmunitError: If a file cannot be used, or the model takes no references.
    """
    if isinstance(styles, int):
        count = styles if translator.style_dim else 1
        return translator.random_styles(count, torch.Generator().manual_seed(seed))
    if isinstance(styles, Tensor) and styles.dim() != 3:  # a tensor of three dimensions is an image
        return as_codes(styles, translator.style_dim, _example(translator), "styles")
    if isinstance(styles, str | os.PathLike) and Path(styles).suffix.lower() == SUFFIX:
        return styles_from_file(translator, styles).codes
    if isinstance(styles, list | tuple):
        if not styles:
            raise ValueError("styles is an empty list: give at least one reference")
        return torch.cat([_code_of(translator, reference, precision, max_pixels, resources) for reference in styles])
    return _code_of(translator, styles, precision, max_pixels, resources)


def _code_of(
    translator: Translator,
    reference: object,
    precision: str | None,
    max_pixels: int | None,
    resources: Resources | None,
) -> Tensor:
    if not isinstance(reference, IMAGE_TYPES):
        raise TypeError(
            f"styles: expected a number of styles, codes (S, style_dim, 1, 1), a {SUFFIX} file, or reference images "
            f"({ACCEPTED}, or a list of them), got {type(reference).__name__}."
        )
    return encode_reference(translator, reference, resources, precision, max_pixels)[0]


def _example(translator: Translator) -> Tensor:
    return translator.random_styles(1, torch.Generator().manual_seed(0))
