"""The choice of the distribution that a translator draws random styles from."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from fastmunit.config import Config
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import expand, printable
from fastmunit.styles.extract import training_styles
from fastmunit.systems.style_distributions import FittedNormal, GivenStyles
from fastmunit.systems.translators import Translator
from fastmunit.translation.styles import require_styles, styles_from_file

NORMAL, ENCODED = "normal", "encoded"


def set_style_distribution(
    translator: Translator, choice: str, config: Config, advance: Callable[[float], object] = lambda done: None
) -> None:
    """Set the distribution that a translator draws random styles from.

    Args:
        translator: The model.
        choice: "normal" for N(0, I); "encoded" for the normal distribution fitted to the styles of the training images;
            otherwise a style file, for the one fitted to its codes.
        config: Configuration that names the training images.
        advance: Called with the part that is done while images are encoded.

    Raises:
        FastmunitError: If the model has no style codes, or there are too few styles or no images to encode.
    """
    if choice == NORMAL:
        translator.style_distribution = None
        return
    _require_codes(translator)
    if choice == ENCODED:
        source, styles = "the training set", training_styles(translator, config, advance=advance)
    else:
        try:
            path = expand(choice)
        except ValueError as error:
            raise DataError(f"styles file: {error}.") from error
        source, styles = f"styles file {printable(path)}", styles_from_file(translator, path)
    try:
        translator.style_distribution = FittedNormal(styles.codes)
    except ValueError as error:
        raise DataError(f"{source} has one style: {error}.") from error


def draw_from_file(translator: Translator, path: str | os.PathLike[str], min_count: int = 1) -> None:
    """Let a translator draw random styles from those of a file, without repetition as long as there are unused ones.

    Raises:
        FastmunitError: If the file cannot be used or belongs to another model, has fewer styles than `min_count`, or
            the model has no style codes.
    """
    _require_codes(translator)
    codes = styles_from_file(translator, path).codes
    if len(codes) < min_count:
        raise DataError(
            f"styles file {printable(path)} has {len(codes)} styles, and {min_count} different ones are needed per "
            "image: lower the number of samples, or add styles."
        )
    translator.style_distribution = GivenStyles(codes)


def _require_codes(translator: Translator) -> None:
    """Raise FastmunitError if random styles are not numbers from a distribution that can be replaced."""
    require_styles(translator)
    if not translator.random_styles(1, torch.Generator().manual_seed(0)).is_floating_point():
        system = "this model" if translator.config is None else f"a {translator.config.system} model"
        raise FastmunitError(f"the styles of {system} are seeds of noise, which have no other distribution.")
