"""The choice between translating an image as a whole and out of core, by the memory that may be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fastmunit.errors import FastmunitError
from fastmunit.out_of_core.engine import OutOfCoreTranslation, Settings, whole_image_bytes
from fastmunit.out_of_core.local import translate_locally
from fastmunit.out_of_core.pixels import PixelSink, PixelSource, TensorSink, TensorSource
from fastmunit.out_of_core.statistics_file import read_statistics, require_replaceable
from fastmunit.planning.available import bytes_of, free_memory
from fastmunit.systems.translators import Translator

Statistics = Literal["image", "local"] | Path
"""The statistics that norms use: those of the image, of each tile, or of another image, from a file."""

# Below this, a whole image takes less than any machine has, so that nothing is estimated.
_SMALL = 1 << 20


@dataclass(frozen=True)
class Resources:
    """The memory, disk space and statistics that a translation may use.

    Attributes:
        memory: Bytes that it may take besides those that the process has, results left out. None is what is free.
        scratch: Folder for maps of images that do not fit in the memory. None is a temporary folder.
        statistics: The statistics that norms use.
        save_statistics: File to write the statistics of an image to.
        say: Called with a line that describes how an image is translated.
        progress: Called with the part of an image that is done, and how it is translated.
    """

    memory: int | None = None
    scratch: Path | None = None
    statistics: Statistics = "image"
    save_statistics: Path | None = None
    say: Callable[[str], object] | None = None
    progress: Callable[[float], object] = lambda _: None

    def __post_init__(self) -> None:
        if self.save_statistics is not None and self.statistics != "image":
            raise ValueError("save_statistics is for statistics of the image: leave statistics out")


def memory_of(value: int | str | None) -> int | None:
    """Return the bytes of an argument `memory`: a number of bytes, a text such as "8GB", or None.

    Raises:
        ValueError: If it is not a positive size.
        TypeError: If it has another type.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    if isinstance(value, str):
        try:
            return bytes_of(value)
        except ValueError as error:
            raise ValueError(f"memory is {value[:50]!r}: {error}") from None
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"memory is {value}: expected a positive number of bytes, or a size such as 8GB")
    raise TypeError(f"memory: expected a number of bytes or a size such as 8GB, got {type(value).__name__}")


def statistics_of(value: str | os.PathLike[str]) -> Statistics:
    """Return an argument `statistics`: "image", "local", or the path of a statistics file, which is checked.

    Raises:
        DataError: If the file cannot be used.
    """
    if value == "image":
        return "image"
    if value == "local":
        return "local"
    read_statistics(value)
    return Path(value)


def save_statistics_of(value: str | os.PathLike[str] | None) -> Path | None:
    """Return an argument `save_statistics`: a path, or None.

    Raises:
        FastmunitError: If there is a file that is not a statistics file.
    """
    if value is None:
        return None
    require_replaceable(value)
    return Path(value)


def translate_image(
    translator: Translator,
    image: Tensor,
    styles: Tensor,
    batch_size: int | None = None,
    precision: str | None = None,
    resources: Resources = Resources(),
) -> Tensor:
    """Translate an image: as a whole if it fits in the memory, else out of core.

    Args:
        translator: The model.
        image: Image (C, H, W) of the source domain in [-1, 1].
        styles: Style codes (S, style_dim, 1, 1).
        batch_size: Number of styles per batch, if the image is translated as a whole.
        precision: Precision of convolutions. None is the translator's own.
        resources: Memory and scratch folder, and the statistics of norms.

    Returns:
        Images (S, C', H, W) in [-1, 1] in float32 on the CPU.

    Raises:
        FastmunitError: If the image cannot be translated, or memory or disk are too small.
    """
    sinks = [TensorSink(translator.target_channels, *image.shape[1:]) for _ in styles]
    if translate_by_region(translator, TensorSource(image), styles, sinks, precision, resources):
        return torch.stack([sink.image for sink in sinks])
    return translator.translate(image, styles, batch_size, precision=precision)


def translate_by_region(
    translator: Translator,
    source: PixelSource,
    styles: Tensor,
    sinks: Sequence[PixelSink],
    precision: str | None,
    resources: Resources,
    *,
    pixel_bytes: int = 0,
) -> bool:
    """Translate an image in tiles if it does not fit in the memory as a whole, or if its statistics are not its own.

    Args:
        translator: The model.
        source: The image.
        styles: Style codes (S, style_dim, 1, 1).
        sinks: Where the result of each style is written.
        precision: Precision of convolutions. None is the translator's own.
        resources: Memory and scratch folder, and the statistics of norms.
        pixel_bytes: Bytes per pixel that the translation as a whole would take besides that of the networks.

    Returns:
        False if nothing was done, because the image must be translated as a whole.

    Raises:
        FastmunitError: If the image cannot be translated, or memory or disk are too small.
    """
    size = f"{source.width}x{source.height}"
    if resources.statistics == "local":
        if resources.say is not None:
            resources.say(f"{size}: in tiles with statistics of their own.")
        translate_locally(translator, source, styles, sinks, precision, resources.progress)
        return True
    memory = _fitting(translator, source, precision, resources, pixel_bytes)
    if memory is None:
        return False
    statistics = resources.statistics if isinstance(resources.statistics, Path) else None
    settings = Settings(memory, resources.scratch, precision, statistics, resources.save_statistics)
    work = OutOfCoreTranslation(translator, source, styles, settings)
    if resources.say is not None:
        resources.say(f"{size}: out of core, {work.describe()}.")
    work.run(sinks, lambda done: resources.progress(done.fraction))
    return True


def _fitting(
    translator: Translator, source: PixelSource, precision: str | None, resources: Resources, pixel_bytes: int
) -> int | None:
    """Return the bytes of memory for a translation out of core, or None if the image is translated as a whole."""
    must = isinstance(resources.statistics, Path) or resources.save_statistics is not None
    height, width = source.height, source.width
    if resources.memory is None and not must and height * width < _SMALL:
        return None
    memory = resources.memory
    if memory is None:
        try:
            memory = free_memory(translator.device)
        except FastmunitError:  # the system does not tell
            memory = 1 << 62
    if must:
        return memory
    try:
        needed = whole_image_bytes(translator, height, width, precision) + pixel_bytes * height * width
    except FastmunitError:
        if resources.memory is None:
            return None  # such a model translates whole images only
        raise
    if needed > memory:
        return memory
    if resources.memory is not None and resources.say is not None:
        resources.say(f"{width}x{height}: as a whole, in about {needed / 1e6:,.1f} MB of memory.")
    return None
