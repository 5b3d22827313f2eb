"""Turning a checkpoint into a model folder."""

from __future__ import annotations

import os
from pathlib import Path

from fastmunit.data.value_range import PixelValues
from fastmunit.files import require_apart
from fastmunit.model_folder.about import About
from fastmunit.model_folder.save import FILES, write_folder
from fastmunit.model_folder.tensors import WeightType
from fastmunit.runs.checkpoints.checkpoint import Which
from fastmunit.systems import registry
from fastmunit.systems.parts.pretrained import model_of_generators, model_of_translator
from fastmunit.translation.translate import (
    ConfigLike,
    about_file,
    files_of_model,
    find_checkpoint,
    load_translator,
    own_direction,
)


def save_model(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    config: ConfigLike | None = None,
    which: Which = "newest",
    direction: str | None = None,
    about: About | None = None,
    dtype: WeightType | None = None,
    name: str | None = None,
) -> None:
    """Write a model folder with what a trained model needs for translation.

    The card has what the run folder tells: iterations, data, scores of `fastmunit evaluate`, a sample picture.

    Args:
        checkpoint: A run folder, a gen_*.pt or ema_*.pt, or a model folder.
        folder: New or empty folder, or an earlier model folder other than `checkpoint`, which is replaced.
        config: Configuration of a file that has no config.yaml next to it; see `load_translator`.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).
        direction: "a2b" or "b2a". None keeps the generators of both.
        about: Facts for the card, which replace those of the run one by one.
        dtype: Type to store the weights in. None keeps theirs.
        name: Name under which the card's example loads the model. None is the name of the folder.

    Raises:
        FastmunitError: If the model cannot be loaded, a value range is "auto", or the folder cannot be written.
    """
    file, settings = find_checkpoint(checkpoint, config, which=which)
    require_apart([Path(folder) / name for name in FILES], files_of_model(file))
    PixelValues.require_numbers(settings)
    if direction is None and own_direction(file) is None:
        system = registry.system_of(settings)
        model = model_of_generators(system, system.load_generators(file, settings), settings)
    else:
        model = model_of_translator(load_translator(file, settings, direction=direction, device="cpu"))
    model.about = about_file(file, settings).with_changes(about)
    write_folder(folder, model, dtype=dtype, name=name)
