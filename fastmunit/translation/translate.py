"""Translate images in Python, and load trained models."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args, overload

import numpy as np
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.data.value_range import PixelValues
from fastmunit.data.values import ImageLike, image_tensor
from fastmunit.errors import CheckpointError, ConfigError
from fastmunit.export.description import DESCRIPTION_FILE, is_export, read_description
from fastmunit.export.translator import ExportedTranslator
from fastmunit.model_folder import tensors
from fastmunit.model_folder.about import About
from fastmunit.model_folder.load import find, find_folder, is_model_folder
from fastmunit.model_folder.save import FILES
from fastmunit.runs import RunFolder, resolve_device
from fastmunit.runs.checkpoints.checkpoint import Which, generators
from fastmunit.runs.provenance import about_checkpoint
from fastmunit.systems import registry
from fastmunit.systems.base import System
from fastmunit.systems.translators import Translator
from fastmunit.translation.domains import source_values
from fastmunit.translation.large_images import Resources, memory_of, save_statistics_of, statistics_of, translate_image
from fastmunit.translation.styles import StylesLike, style_codes

if TYPE_CHECKING:
    from typing_extensions import Unpack

Precision = Literal["float32", "bfloat16", "float16"]
Model = str | os.PathLike[str] | System | Translator
ConfigLike = str | os.PathLike[str] | Config


class _Options(TypedDict, total=False):
    direction: str | None
    seed: int
    precision: Precision | None
    device: str
    batch_size: int | None
    config: ConfigLike | None
    which: Which
    max_pixels: int | None
    memory: int | str | None
    scratch: str | os.PathLike[str] | None
    statistics: str | os.PathLike[str]
    save_statistics: str | os.PathLike[str] | None


@overload
def translate(model: Model, images: ImageLike, styles: StylesLike = 10, **options: Unpack[_Options]) -> Tensor: ...


@overload
def translate(
    model: Model, images: Sequence[ImageLike], styles: StylesLike = 10, **options: Unpack[_Options]
) -> Tensor | list[Tensor]: ...


@torch.inference_mode(mode=False)
def translate(
    model: Model,
    images: ImageLike | Sequence[ImageLike],
    styles: StylesLike = 10,
    *,
    direction: str | None = None,
    seed: int = 0,
    precision: Precision | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    config: ConfigLike | None = None,
    which: Which = "newest",
    max_pixels: int | None = None,
    memory: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    statistics: str | os.PathLike[str] = "image",
    save_statistics: str | os.PathLike[str] | None = None,
) -> Tensor | list[Tensor]:
    """Translate images into many styles. Each image is encoded once.

    An image that does not fit in the memory is translated layer by layer, in tiles, with maps on disk. The result is
    the same up to rounding.

    Safe in any thread, even while `model` is being trained: changes neither the model nor torch's random state.

    Args:
        model: A run folder, a gen_*.pt, a model folder, a folder that `fastmunit export` has written, the name of a
            packaged model or of one on the Hugging Face Hub (OWNER/NAME), a trained system such as `fastmunit.MUNIT`,
            or a translator from `load_translator`.
        images: An image of any size, or several: a tensor (C, H, W) or (N, C, H, W) in [-1, 1], a path, a PIL image, a
            NumPy array (H, W) or (H, W, C) of uint8 or uint16, or a list of any of these. All except tensors are mapped
            to [-1, 1] with the value range of the training; with one, arrays may have any real type.
        styles: The number S of random styles; style codes (S, style_dim, 1, 1), or the path of a .safetensors file
            with such a tensor named `styles`; or reference images of the target domain, one or a list of S, in the
            forms that `images` takes. A system without style codes gives one output per image.
        direction: "a2b" (the default) or "b2a". A translator and its folder have their own direction.
        seed: Seed of the random styles, which are the same for every image.
        precision: Precision of convolutions and matrix products. None uses a translator's own precision, and float32
            for other models.
        device: Device to load a model on; see `fastmunit.runs.resolve_device`. A system or translator stays on its own.
        batch_size: Number of styles decoded at once. None chooses it by the size of the image.
        config: Configuration of a gen_*.pt that has no config.yaml next to it: a `Config`, a YAML file or a shipped
            name.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).
        max_pixels: Refuse image files with more pixels. None uses the limit in the configuration of `model`; without
            one, and for translators, Pillow's limit.
        memory: What the call may take besides the memory that the process has already, results left out: a number of
            bytes, or a text such as "8GB". None is what is free.
        scratch: Folder for maps on disk. An interrupted call leaves them there, and the same call resumes from them.
            None is a temporary folder.
        statistics: The statistics that norms use. "image" is those of the image, as the model was trained.
            "local" translates tiles of 512 x 512 pixels with the statistics of each: another function, in which
            borders of tiles can be visible. A path is a file of `save_statistics`, for the same look of many images.
        save_statistics: File to write the statistics of the image to, for one image.

    Returns:
        A float32 tensor in [-1, 1] on the CPU: (S, C', H, W) for one image, (N, S, C', H, W) for a batch and for a list
        of images of equal size. A list of (S, C', H, W) for a list of images of several sizes.

    Raises:
        FastmunitError: If the model or an image cannot be used, or memory runs out.
        TypeError: If an argument has a type that is not listed here.
        ValueError: If an argument has a wrong value or shape, or contradicts `model`.

    Example:
        >>> drawing = torch.ones(3, 64, 64)  # white
        >>> fastmunit.translate("fruit", drawing, styles=2).shape
        torch.Size([2, 3, 64, 64])
    """
    if direction not in (None, "a2b", "b2a"):
        raise ValueError(f"direction is {direction!r}: use a2b or b2a")
    require_precision(precision)
    seed = _integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}: use a number from -2^63 to 2^64 - 1")
    if isinstance(styles, int | float | complex | np.generic):
        styles = _positive("styles", styles)
    batch_size = None if batch_size is None else _positive("batch_size", batch_size)
    max_pixels = None if max_pixels is None else _positive("max_pixels", max_pixels)
    resources = Resources(
        memory_of(memory),
        None if scratch is None else Path(scratch),
        statistics_of(statistics),
        save_statistics_of(save_statistics),
    )
    translator, configured = _translator_of(model, config, which, direction, device)
    limit = configured if max_pixels is None else max_pixels
    inputs = _images(images, translator.channels, limit, source_values(translator))
    codes = style_codes(translator, styles, seed, precision, limit, resources)
    if resources.save_statistics is not None and len(inputs) > 1:
        raise ValueError(f"save_statistics saves the statistics of one image, got {len(inputs)}: give one")
    outputs = [translate_image(translator, image, codes, batch_size, precision, resources) for image in inputs]
    if isinstance(images, list | tuple) or (isinstance(images, Tensor) and images.dim() == 4):
        return torch.stack(outputs) if len({output.shape for output in outputs}) == 1 else outputs
    return outputs[0]


def load_translator(
    checkpoint: str | os.PathLike[str],
    config: ConfigLike | None = None,
    *,
    direction: str | None = None,
    device: str | torch.device = "auto",
    which: Which = "newest",
) -> Translator:
    """Load a trained model for translating in one direction.

    Args:
        checkpoint: A run folder, a gen_*.pt or ema_*.pt, a model folder, a folder that `fastmunit export` has written,
            the name of a packaged model, or OWNER/NAME or OWNER/NAME@REVISION of a model on the Hugging Face Hub, which
            is downloaded.
        config: Configuration of a file that has no config.yaml next to it: a `Config`, a YAML file or a shipped name.
        direction: "a2b" or "b2a". None is "a2b", or the direction of a translator's folder or an export.
        device: Device to compute on; see `fastmunit.runs.resolve_device`. Exports run on a CPU, or on a GPU if
            onnxruntime can use it.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).

    Raises:
        CheckpointError: If the file is missing, truncated or of another kind, or does not fit the configuration, or the
            run has no best checkpoint.
        ConfigError: If the configuration cannot be used, or its system does not translate in that direction.
    """
    file, settings = find_checkpoint(checkpoint, config, exports=True, which=which)
    if file.name == DESCRIPTION_FILE:
        return _load_export(file.parent, direction, device)
    translator = registry.system_of(settings).load_translator(file, settings, direction, resolve_device(device))
    translator.about = about_file(file, settings)
    return translator


def load_generators(
    checkpoint: str | os.PathLike[str],
    config: ConfigLike | None = None,
    device: str | torch.device = "cpu",
    *,
    which: Which = "newest",
) -> tuple[torch.nn.Module, ...]:
    """Load the generators of a trained model in eval mode, for MUNIT and UNIT (gen_a, gen_b).

    The global random state is not changed.

    Args:
        checkpoint: A run folder, a gen_*.pt or ema_*.pt, or the folder or name of a model; see `load_translator`.
        config: Configuration of a file that has no config.yaml next to it: a `Config`, a YAML file or a shipped name.
        device: Device to load the networks on; see `fastmunit.runs.resolve_device`.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).

    Raises:
        CheckpointError: If the file is missing, truncated or of another kind, or does not fit the configuration, or the
            run has no best checkpoint.
        ConfigError: If the configuration cannot be used.
    """
    file, settings = find_checkpoint(checkpoint, config, which=which)
    return tuple(registry.system_of(settings).load_generators(file, settings, resolve_device(device)).values())


def find_checkpoint(
    checkpoint: str | os.PathLike[str],
    config: ConfigLike | None = None,
    *,
    exports: bool = False,
    which: Which = "newest",
) -> tuple[Path, Config]:
    """Return the gen_*.pt, ema_*.pt or model.safetensors of a checkpoint, and its configuration.

    Args:
        checkpoint: A run folder, its checkpoints folder, the file itself, or the folder or name of a model; see
            `load_translator`.
        config: The configuration. None looks for a config.yaml next to the file and in the folder above. A model folder
            has its own, which only a `Config` replaces.
        exports: Return the export.json of a folder that `fastmunit export` has written, too.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).

    Raises:
        CheckpointError: If there is no such file, or no configuration for it, or it cannot be downloaded, or the run
            has no best checkpoint.
        ConfigError: If `config` or `which` cannot be used.
    """
    if which not in get_args(Which):
        raise ConfigError(f"which is {which!r}: use {' or '.join(get_args(Which))}.")
    file = find(checkpoint)
    is_run = file.is_dir() and not is_model_folder(file) and not is_export(file)
    if which == "best" and not is_run:
        raise ConfigError(f"{file} is not a run folder, so it has no best checkpoint: leave `which` out.")
    if file.name == tensors.NAME or is_model_folder(file):
        folder = find_folder(file)
        if config is not None and not isinstance(config, Config):
            raise ConfigError(f"{folder.path} is a model folder, which has its own configuration: leave --config out.")
        return folder.weights, folder.config if config is None else config
    if file.name == DESCRIPTION_FILE or is_export(file):
        folder_of_export = file if file.is_dir() else file.parent
        if not exports:
            raise CheckpointError(f"{folder_of_export} is an export, without PyTorch networks: give its run folder.")
        if config is not None and not isinstance(config, Config):
            raise ConfigError(f"{folder_of_export} is an export, which has its own configuration: leave --config out.")
        description = read_description(folder_of_export)
        return folder_of_export / DESCRIPTION_FILE, description.settings() if config is None else config
    if file.is_dir():
        chosen = generators(RunFolder(file.parent if file.name == "checkpoints" else file), which)
        if chosen is None:
            raise CheckpointError(f"{file} holds no checkpoint: give a run folder or a gen_*.pt.")
        file = chosen
    if config is not None:
        return file, config if isinstance(config, Config) else Config.load(config)
    for candidate in (file.parent.parent / "config.yaml", file.parent / "config.yaml"):
        if candidate.exists():
            return file, Config.load(candidate)
    raise CheckpointError(
        f"there is no config.yaml next to {file}: give --config with the YAML file it was trained with, or a shipped "
        "name such as edges2shoes."
    )


def files_of_model(file: Path) -> list[Path]:
    """Return the files of the model of a file that `find_checkpoint` has returned, which no output may overwrite."""
    return [file.with_name(name) for name in FILES] if file.name == tensors.NAME else [file]


def own_direction(file: Path) -> str | None:
    """Return the only direction of a file that `find_checkpoint` has returned. None if it has those of its system."""
    if file.name == DESCRIPTION_FILE:
        return read_description(file.parent).direction
    return find_folder(file).header.direction if file.name == tensors.NAME else None


def directions_of(file: Path, config: Config) -> tuple[str, ...]:
    """Return the directions of a file that `find_checkpoint` has returned with its configuration."""
    direction = own_direction(file)
    return registry.system_of(config).directions if direction is None else (direction,)


def about_file(file: Path, config: Config) -> About:
    """Return the facts about a file that `find_checkpoint` has returned with its configuration."""
    return find_folder(file).about if file.name == tensors.NAME else about_checkpoint(file, config)


def _load_export(folder: Path, direction: str | None, device: str | torch.device) -> Translator:
    translator = ExportedTranslator(folder, str(device))
    if direction not in (None, translator.direction):
        raise ConfigError(f"{folder} translates {translator.direction} only, not {direction}: export that direction.")
    return translator


def _translator_of(
    model: object, config: ConfigLike | None, which: Which, direction: str | None, device: str
) -> tuple[Translator, int | None]:
    """Return a translator, and the pixel limit in the configuration of the model."""
    if isinstance(model, str | os.PathLike):
        file, settings = find_checkpoint(model, config, exports=True, which=which)
        return load_translator(file, settings, direction=direction, device=device), settings.max_pixels
    if isinstance(model, System):
        translator, max_pixels = model.evaluation_translator(direction or "a2b"), model.config.max_pixels
    elif isinstance(model, Translator):
        translator, max_pixels = model, None
    else:
        raise TypeError(
            "model: expected a run folder, a gen_*.pt, a model folder, an export or the name of a model, a system "
            f"such as fastmunit.MUNIT, or a translator from load_translator, got {type(model).__name__}"
        )
    if translator.direction is not None and direction not in (None, translator.direction):
        raise ValueError(
            f"direction is {direction!r}, but the translator is for {translator.direction}: leave direction out, or "
            "load another translator"
        )
    if which != "newest":
        raise ValueError(f"which is {which!r}, but the model is not a run folder: leave which out")
    if config is not None:
        raise ValueError("config is for a run folder or a gen_*.pt, but the model has its own: leave config out")
    if device != "auto" and not _is_on(translator.device, resolve_device(device)):
        raise ValueError(
            f"device is {device!r}, but the model is on {translator.device}: leave device out, or move the model"
        )
    return translator, max_pixels


def _is_on(actual: torch.device, requested: torch.device) -> bool:
    return actual.type == requested.type and requested.index in (None, actual.index)


def _images(images: object, channels: int, max_pixels: int | None, values: PixelValues) -> list[Tensor]:
    """Return the images to translate, each (C, H, W)."""
    if isinstance(images, Tensor):
        if images.dim() not in (3, 4):
            raise ValueError(f"expected images (C, H, W) or (N, C, H, W), got {tuple(images.shape)}")
        if images.numel() == 0 or not images.is_floating_point():
            raise ValueError(f"expected images with values in [-1, 1], got {tuple(images.shape)} in {images.dtype}")
        return [images] if images.dim() == 3 else list(images)
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("images is an empty list: give at least one image")
        return [image_tensor(image, channels, "images", max_pixels, values) for image in images]
    return [image_tensor(images, channels, "images", max_pixels, values)]


def require_precision(value: object) -> None:
    """Raise ConfigError for a precision that is neither None nor a `Precision`."""
    if value is not None and value not in get_args(Precision):
        raise ConfigError(f"precision is {value!r}: use one of {', '.join(get_args(Precision))}, or None")


def _integer(name: str, value: object) -> int:
    """Return a Python or NumPy integer as an int. A bool is not an integer."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None


def _positive(name: str, value: object) -> int:
    number = _integer(name, value)
    if number < 1:
        raise ValueError(f"{name} is {number}: use at least 1")
    return number
