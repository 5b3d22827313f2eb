"""The model that a server offers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from fastmunit.data.value_range import PixelValues
from fastmunit.errors import FastmunitError
from fastmunit.files import printable
from fastmunit.page.samples import SampleFiles, sample_files
from fastmunit.page.settings import SHOWN_CHANNELS
from fastmunit.runs import resolve_device
from fastmunit.runs.checkpoints.checkpoint import Which
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator
from fastmunit.translation.style_file import Styles
from fastmunit.translation.styles import styles_by_direction
from fastmunit.translation.translate import ConfigLike, Precision, directions_of, find_checkpoint

_MAX_PNG_CHANNELS = 4


@dataclass(frozen=True)
class Model:
    """A trained model with all its directions.

    Attributes:
        name: Name of the run folder or file.
        system: Name of the system.
        translators: Translator of each direction, the default direction first.
        trained_size: Height and width of the images that the model was trained on.
        samples: Sample pictures for the page.
        styles: Styles of a style file by their direction.
    """

    name: str
    system: str
    translators: Mapping[str, Translator]
    trained_size: tuple[int, int]
    samples: SampleFiles = field(default_factory=SampleFiles)
    styles: Mapping[str, Styles] = field(default_factory=dict)


def load_model(
    checkpoint: str | os.PathLike[str],
    config: ConfigLike | None = None,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "float32",
    samples: bool = False,
    which: Which = "newest",
    styles_file: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a trained model with all directions of its system, which share the networks.

    Args:
        checkpoint: A run folder, a gen_*.pt or ema_*.pt, or the folder or name of a model.
        config: Configuration of a file that has no config.yaml next to it: a `Config`, a YAML file or a shipped name.
        device: Device to compute on; see `fastmunit.runs.resolve_device`.
        precision: Precision of convolutions and matrix products.
        samples: Load pictures of the run's test set for the page, too; see `sample_files`.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).
        styles_file: Style file whose styles the page begins with, and `/styles/named` returns.

    Raises:
        CheckpointError: If the file is missing or damaged, or does not fit the configuration.
        ConfigError: If the configuration cannot be used.
        DataError: If the style file cannot be used or belongs to another model.
        FastmunitError: If the outputs have more channels than a PNG can store.
    """
    file, settings = find_checkpoint(checkpoint, config, which=which)
    PixelValues.require_numbers(settings)  # before there are requests
    system = registry.system_of(settings)
    directions, place = directions_of(file, settings), resolve_device(device)
    generators = system.load_generators(file, settings, place) if len(directions) > 1 else None
    translators = {}
    for direction in directions:
        if generators is None:
            translator = system.load_translator(file, settings, direction, place)
        else:
            translator = system.directed_translator(generators, settings, direction)
        translator.precision = precision
        if translator.target_channels <= _MAX_PNG_CHANNELS:
            translators[direction] = translator
    if not translators:
        raise FastmunitError(
            f"the model gives images of more than {_MAX_PNG_CHANNELS} channels, which no PNG can store: use "
            "`fastmunit translate`, which writes TIFF files."
        )
    folder = file.resolve().parent
    if folder.name == "checkpoints":
        name = folder.parent.name
    else:  # the weights of a model folder always have the same name
        name = file.stem if file.suffix == ".pt" else folder.name
    size = settings.crop_image_height, settings.crop_image_width
    shown = samples and set(settings.channels("a2b")) <= SHOWN_CHANNELS
    pictures = sample_files(settings, size) if shown else SampleFiles()
    styles = {} if styles_file is None else styles_by_direction(styles_file, translators)
    return Model(printable(name), system.name, translators, size, pictures, styles)
