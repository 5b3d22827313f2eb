"""The model that a server offers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fastmunit.errors import FastmunitError
from fastmunit.runs import resolve_device
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator
from fastmunit.translation.translate import ConfigLike, Precision, find_checkpoint

_MAX_PNG_CHANNELS = 4


@dataclass(frozen=True)
class Model:
    """A trained model with all its directions.

    Attributes:
        name: Name of the run folder or file.
        system: Name of the system.
        translators: Translator of each direction, the default direction first.
        trained_size: Height and width of the images that the model was trained on.
    """

    name: str
    system: str
    translators: Mapping[str, Translator]
    trained_size: tuple[int, int]


def load_model(
    checkpoint: str | os.PathLike[str],
    config: ConfigLike | None = None,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "float32",
) -> Model:
    """Load a trained model with all directions of its system, which share the networks.

    Args:
        checkpoint: A run folder, or a gen_*.pt or ema_*.pt.
        config: Configuration of a file that has no config.yaml next to it: a `Config`, a YAML file or a shipped name.
        device: Device to compute on; see `fastmunit.runs.resolve_device`.
        precision: Precision of convolutions and matrix products.

    Raises:
        CheckpointError: If the file is missing or damaged, or does not fit the configuration.
        ConfigError: If the configuration cannot be used.
        FastmunitError: If the outputs have more channels than a PNG can store.
    """
    file, settings = find_checkpoint(checkpoint, config)
    system = registry.system_of(settings)
    generators = system.load_generators(file, settings, resolve_device(device))
    translators = {}
    for direction in system.directions:
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
    name = folder.parent.name if folder.name == "checkpoints" else file.stem
    return Model(name, system.name, translators, (settings.crop_image_height, settings.crop_image_width))
