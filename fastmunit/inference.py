"""Translating with a trained model from Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fastmunit import data
from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.models import registry
from fastmunit.models.system import System
from fastmunit.models.translator import Translator
from fastmunit.training import RunFolder, resolve_device, snapshot

Precision = Literal["float32", "bfloat16", "float16"]


def translate(
    model: str | os.PathLike[str] | System | Translator,
    images: Tensor | str | os.PathLike[str],
    styles: int | Tensor | str | os.PathLike[str] = 10,
    *,
    direction: str = "a2b",
    seed: int = 0,
    precision: Precision = "float32",
    device: str = "auto",
    batch_size: int | None = None,
    config: str | os.PathLike[str] | Config | None = None,
) -> Tensor:
    """Translate images into many styles; each image is encoded once.

    Args:
        model: a run folder, a gen_*.pt, a trained system such as `fastmunit.MUNIT`, or what `load_translator` gave.
        images: (C, H, W) or (N, C, H, W) in [-1, 1], or the path of an image; of any size.
        styles: how many random styles S, style codes (S, style_dim, 1, 1), or the path of an image of the target domain
            whose style is to be taken. A system without style codes gives one output an image.
        direction: "a2b" or "b2a".
        seed: of the random styles, the same ones for every image.
        precision: of convolutions and matrix products.
        device: of a model that is loaded; see `fastmunit.training.resolve_device`.
        batch_size: styles decoded at once; None chooses by the image's size.
        config: of a gen_*.pt without a config.yaml beside it: a `Config`, a YAML file or a shipped name.

    Returns:
        (S, C', H, W) in [-1, 1] for one image, (N, S, C', H, W) for a batch; float32, on the CPU.

    Raises:
        FastmunitError: the model or an image cannot be used, or there is not enough memory.
        ValueError: an argument is none of these.
    """
    if direction not in ("a2b", "b2a"):
        raise ValueError(f"direction is {direction!r}: use a2b or b2a")
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}: use one of {', '.join(get_args(Precision))}")
    if isinstance(styles, int) and styles < 1:
        raise ValueError(f"styles is {styles}: ask for at least 1")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: use at least 1, or None")
    if isinstance(model, Translator):
        translator = model
    elif isinstance(model, System):
        translator = model.evaluation_translator(direction)
    else:
        translator = load_translator(model, config, direction=direction, device=device)
    return _translate(translator, images, styles, seed, precision, batch_size)


def load_translator(
    checkpoint: str | os.PathLike[str],
    config: str | os.PathLike[str] | Config | None = None,
    *,
    direction: str = "a2b",
    device: str = "auto",
) -> Translator:
    """Load what translates one way from a run folder or a gen_*.pt. Arguments and errors as in `translate`."""
    weights, settings = model_files(checkpoint, config)
    return registry.load_translator(weights, settings, direction, resolve_device(device))


def model_files(
    checkpoint: str | os.PathLike[str], config: str | os.PathLike[str] | Config | None = None
) -> tuple[Path, Config]:
    """The gen_*.pt (or ema_*.pt) that `checkpoint` stands for, and its configuration.

    Args:
        checkpoint: a run folder, its checkpoints folder, or the file itself.
        config: the configuration, where there is no config.yaml beside.

    Raises:
        CheckpointError: there is no such file, or no configuration for it.
        ConfigError: `config` cannot be used.
    """
    weights = Path(checkpoint)
    if weights.is_dir():
        newest = snapshot.generators(RunFolder(weights.parent if weights.name == "checkpoints" else weights))
        if newest is None:
            raise CheckpointError(f"{weights} holds no snapshot: give a run folder or a gen_*.pt.")
        weights = newest
    elif not weights.exists():
        raise CheckpointError(f"checkpoint {weights} does not exist: check the path.")
    if config is not None:
        return weights, config if isinstance(config, Config) else Config.load(config)
    for candidate in (weights.parent.parent / "config.yaml", weights.parent / "config.yaml"):
        if candidate.exists():
            return weights, Config.load(candidate)
    raise CheckpointError(
        f"there is no config.yaml beside {weights}: give --config with the YAML file it was trained with, or a shipped "
        "name such as edges2shoes."
    )


def _translate(
    translator: Translator,
    images: Tensor | str | os.PathLike[str],
    styles: int | Tensor | str | os.PathLike[str],
    seed: int,
    precision: Precision,
    batch_size: int | None,
) -> Tensor:
    translator.precision = precision
    if not isinstance(images, Tensor):
        images = data.read_image(images, translator.channels)
    if images.dim() not in (3, 4):
        raise ValueError(f"images must be (C, H, W) or (N, C, H, W), not of shape {tuple(images.shape)}")
    if images.numel() == 0 or not images.is_floating_point():
        raise ValueError(f"images must hold values in [-1, 1], not {tuple(images.shape)} in {images.dtype}")
    if isinstance(styles, int):
        count = styles if translator.style_dim else 1
        codes = translator.random_styles(count, torch.Generator().manual_seed(seed))
    elif isinstance(styles, Tensor):
        codes = styles.to(translator.device, translator.dtype if styles.is_floating_point() else None)
        if codes.dim() != 4 or not len(codes) or tuple(codes.shape[1:]) != (translator.style_dim, 1, 1):
            raise ValueError(f"styles must be (S, {translator.style_dim}, 1, 1), not of shape {tuple(codes.shape)}")
    else:
        codes = translator.style_of(data.read_image(styles, translator.target_channels))
    if images.dim() == 3:
        return translator.translate(images, codes, batch_size)
    return torch.stack([translator.translate(image, codes, batch_size) for image in images])
