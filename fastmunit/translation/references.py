"""Style codes of reference images: of whole images, or out of core if they do not fit in the memory."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor

from fastmunit.data.readers import DomainReader, has_reader
from fastmunit.data.values import ImageLike, image_tensor
from fastmunit.errors import FastmunitError
from fastmunit.out_of_core.engine import Settings, encode_style, whole_image_bytes
from fastmunit.out_of_core.pixels import PixelSource, TensorSource
from fastmunit.planning.available import free_memory
from fastmunit.systems.translators import Translator
from fastmunit.translation.domains import target_values
from fastmunit.translation.large_images import Resources
from fastmunit.translation.region_files import FileSource

# Below this, a whole image takes less than any machine has, so that nothing is estimated.
_SMALL = 1 << 20


def encode_reference(
    translator: Translator,
    reference: ImageLike,
    resources: Resources | None = None,
    precision: str | None = None,
    max_pixels: int | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the style code of an image of the target domain.

    Args:
        translator: The model.
        reference: The image.
        resources: Memory and scratch folder. None is what is free, and a temporary folder.
        precision: Precision of convolutions. None is the translator's own.
        max_pixels: Maximum number of pixels of a file that Pillow reads. None is Pillow's limit.
        prepare: Function that changes the image (C', H, W) before it is encoded, which then is read as a whole.

    Returns:
        The code (1, style_dim, 1, 1), and the image (C', H, W) in [-1, 1], or a small copy of an image that was read by
        region.

    Raises:
        TypeError, ValueError: If the image has a wrong type or shape; see `image_tensor`.
        FastmunitError: If the image cannot be used, the model takes no references, or memory or disk are too small.
    """
    values, channels = target_values(translator), translator.target_channels
    resources = resources or Resources()
    if prepare is None and isinstance(reference, str | os.PathLike) and has_reader(reference, channels, values):
        file = DomainReader(reference, channels, values)
        if file.reader.planes == 1:
            source = FileSource(file, channels, values, 0)
            code = _encoded_by_region(translator, source, resources, precision, 8 * channels)
            if code is not None:
                return code, source.preview()
    image = image_tensor(reference, channels, "styles", max_pixels, values)
    image = image if prepare is None else prepare(image)
    if len(image) == channels:
        code = _encoded_by_region(translator, TensorSource(image), resources, precision, 0)
        if code is not None:
            return code, image
    return translator.style_of(image, precision=precision), image


def _encoded_by_region(
    translator: Translator, source: PixelSource, resources: Resources, precision: str | None, pixel_bytes: int
) -> Tensor | None:
    """Return the style code of an image that does not fit in the memory as a whole, or None if it does."""
    size, memory = source.height * source.width, resources.memory
    if not translator.takes_references or (memory is None and size < _SMALL):
        return None
    try:
        # The estimate of a whole translation, in which the style encoder takes less than the other networks.
        needed = whole_image_bytes(translator, source.height, source.width, precision) + pixel_bytes * size
        memory = free_memory(translator.device) if memory is None else memory
    except FastmunitError:
        if memory is None:
            return None  # such a model encodes whole images only
        raise
    if needed <= memory:
        return None
    if resources.say is not None:
        resources.say(f"reference of {source.width}x{source.height}: style out of core.")
    settings = Settings(memory, resources.scratch, precision)
    return encode_style(translator, source, settings, lambda done: resources.progress(done.fraction))
