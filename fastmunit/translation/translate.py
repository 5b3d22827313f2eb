"""Translating with a trained model from Python."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.data.values import ImageLike, image_tensor
from fastmunit.errors import CheckpointError
from fastmunit.runs import RunFolder, resolve_device
from fastmunit.runs.checkpoints.checkpoint import generators as newest_generators
from fastmunit.systems import registry
from fastmunit.systems.base import System
from fastmunit.systems.translator import Translator
from fastmunit.translation.styles import StylesLike, style_codes

Precision = Literal["float32", "bfloat16", "float16"]
Model = str | os.PathLike[str] | System | Translator


@overload
def translate(
    model: Model,
    images: ImageLike,
    styles: StylesLike = 10,
    *,
    direction: str = "a2b",
    seed: int = 0,
    precision: Precision | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    max_pixels: int | None = None,
) -> Tensor: ...


@overload
def translate(
    model: Model,
    images: Sequence[ImageLike],
    styles: StylesLike = 10,
    *,
    direction: str = "a2b",
    seed: int = 0,
    precision: Precision | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    max_pixels: int | None = None,
) -> Tensor | list[Tensor]: ...


@torch.inference_mode(mode=False)
def translate(
    model: Model,
    images: ImageLike | Sequence[ImageLike],
    styles: StylesLike = 10,
    *,
    direction: str = "a2b",
    seed: int = 0,
    precision: Precision | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    max_pixels: int | None = None,
) -> Tensor | list[Tensor]:
    """Translate images into many styles; each image is encoded once.

    It is safe in any thread, also beside a training of `model`: neither the model nor torch's random state is changed.

    Args:
        model: a run folder, a gen_*.pt, a trained system such as `fastmunit.MUNIT`, or what `load_translator` gave.
        images: an image of any size, or several: a tensor (C, H, W) or (N, C, H, W) in [-1, 1], a path, a PIL image,
            a NumPy array (H, W) or (H, W, C) of uint8 or uint16, or a list of any of these.
        styles: how many random styles S; style codes (S, style_dim, 1, 1), or the path of a .safetensors file with such
            a tensor named `styles`; or an image of the target domain whose style is to be taken, or a list of S of
            them, in the forms that `images` has. A system without style codes gives one output per image.
        direction: "a2b" or "b2a".
        seed: of the random styles, the same ones for every image.
        precision: of convolutions and matrix products; None is that of `model` where it is a translator, else float32.
        device: of a model that is loaded; see `fastmunit.runs.resolve_device`.
        batch_size: styles decoded at once; None chooses by the image's size.
        config: of a gen_*.pt without a config.yaml beside it: a `Config`, a YAML file or a shipped name.
        max_pixels: refuse files of images with more pixels; None is what the configuration of `model` has, or Pillow's
            limit where it has none or `model` is a translator.

    Returns:
        (S, C', H, W) in [-1, 1] for one image, (N, S, C', H, W) for a batch and for a list of images of equal size;
        for a list of images of several sizes, a list of (S, C', H, W). float32, on the CPU.

    Raises:
        FastmunitError: the model or an image cannot be used, or there is not enough memory.
        TypeError: an argument is of a type that is not listed here.
        ValueError: an argument has a wrong value or shape.
    """
    if direction not in ("a2b", "b2a"):
        raise ValueError(f"direction is {direction!r}: use a2b or b2a")
    if precision is not None and precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}: use one of {', '.join(get_args(Precision))}, or None")
    seed = _integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}: use a number from -2^63 to 2^64 - 1")
    if isinstance(styles, int | float | complex | np.generic):
        styles = _integer("styles", styles)
        if styles < 1:
            raise ValueError(f"styles is {styles}: ask for at least 1")
    if batch_size is not None:
        batch_size = _integer("batch_size", batch_size)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: use at least 1, or None")
    if max_pixels is not None:
        max_pixels = _integer("max_pixels", max_pixels)
        if max_pixels < 1:
            raise ValueError(f"max_pixels is {max_pixels}: use at least 1, or None")
    translator, configured = _translator_of(model, config, direction, device)
    limit = configured if max_pixels is None else max_pixels
    inputs = _images(images, translator.channels, limit)
    codes = style_codes(translator, styles, seed, precision, limit)
    outputs = [translator.translate(image, codes, batch_size, precision=precision) for image in inputs]
    if isinstance(images, list | tuple) or (isinstance(images, Tensor) and images.dim() == 4):
        return torch.stack(outputs) if len({output.shape for output in outputs}) == 1 else outputs
    return outputs[0]


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
        newest = newest_generators(RunFolder(weights.parent if weights.name == "checkpoints" else weights))
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


def _translator_of(
    model: object, config: str | os.PathLike[str] | Config | None, direction: str, device: str
) -> tuple[Translator, int | None]:
    """Return what translates, and the pixel limit of its configuration."""
    if isinstance(model, Translator):
        return model, None
    if isinstance(model, System):
        return model.evaluation_translator(direction), model.config.max_pixels
    if isinstance(model, str | os.PathLike):
        weights, settings = model_files(model, config)
        return registry.load_translator(weights, settings, direction, resolve_device(device)), settings.max_pixels
    raise TypeError(
        "model: expected a run folder, a gen_*.pt, a system such as fastmunit.MUNIT, or what load_translator returned, "
        f"got {type(model).__name__}"
    )


def _images(images: object, channels: int, max_pixels: int | None) -> list[Tensor]:
    """Return the images to translate, each (C, H, W)."""
    if isinstance(images, Tensor):
        if images.dim() not in (3, 4):
            raise ValueError(f"images must be (C, H, W) or (N, C, H, W), not of shape {tuple(images.shape)}")
        if images.numel() == 0 or not images.is_floating_point():
            raise ValueError(f"images must hold values in [-1, 1], not {tuple(images.shape)} in {images.dtype}")
        return [images] if images.dim() == 3 else list(images)
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("images is an empty list: give one image or more")
        return [image_tensor(image, channels, "images", max_pixels) for image in images]
    return [image_tensor(images, channels, "images", max_pixels)]


def _integer(name: str, value: object) -> int:
    """Return a Python or NumPy integer as an int; bool is none."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
