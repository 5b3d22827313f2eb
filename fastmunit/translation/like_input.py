"""Translation of slides and volumes into files like them: format, type, metadata, one style for all slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from torch import Tensor

from fastmunit.data.images import normalize
from fastmunit.data.pixels import Stored
from fastmunit.data.readers import DomainReader
from fastmunit.data.value_range import PixelValues, ValueRange, fits, full_range
from fastmunit.errors import DataError
from fastmunit.files import printable
from fastmunit.image_files.open import open_image, output_suffix, writer_like
from fastmunit.region import Region
from fastmunit.systems.translators import Translator
from fastmunit.translation.domains import source_values, target_values
from fastmunit.translation.region_files import FileSink, FileSource, MissingPixels, center

# Types of outputs whose range the input's type cannot hold.
_TYPES = (np.uint8, np.uint16, np.int16, np.int32, np.float32)

Translate = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""Translates an image (C, H, W) in [-1, 1] with style codes into one image (C', H, W) per code."""
ByRegion = Callable[[FileSource, Tensor, Sequence[FileSink]], bool]
"""Translates a source with style codes into one sink per code, or returns False and does nothing."""


def suffix_like(path: Path) -> str:
    """Return the suffix of a file that is written like an image."""
    with open_image(path) as reader:
        return output_suffix(reader)


def translate_like(
    path: Path,
    codes: Tensor,
    targets: Sequence[Path],
    translator: Translator,
    translate: Translate,
    by_region: ByRegion | None = None,
    progress: Callable[[float], object] = lambda _: None,
) -> tuple[Tensor, list[Tensor]]:
    """Translate every slice of an image file with the same styles, into files with its format and metadata.

    Values are those of the target domain: its value range, or that of the type. The type is the input's if it holds
    that range, otherwise the smallest that does. Pixels without data in all channels have none in the outputs either.

    Args:
        path: The image file.
        codes: Style codes (S, style_dim, 1, 1).
        targets: S files to write.
        translator: The model.
        translate: Function that translates one slice.
        by_region: Function that translates one slice by region if it should be, or None.
        progress: Called with the part of the slices that is done, after each of them.

    Returns:
        The middle slice (C, H, W) and its outputs (C', H, W), in [-1, 1].

    Raises:
        DataError: If the file cannot be read, or the format cannot store the outputs.
        FastmunitError: If an output cannot be written. Nothing incomplete is left behind.
    """
    given, wanted = source_values(translator), target_values(translator)
    source = DomainReader(path, translator.channels, given)
    reader = source.reader
    channels = translator.target_channels // wanted.slices
    mapping, dtype = output_range(wanted, reader.dtype)
    nodata = source.nodata if source.nodata is not None or dtype.kind != "f" else float("nan")
    preview: tuple[Tensor, list[Tensor]] | None = None
    with ExitStack() as stack:
        writers = [
            stack.enter_context(writer_like(reader, target, channels, dtype, wanted.channel_names or None))
            for target in targets
        ]
        for plane in range(reader.planes):
            missing = MissingPixels(source, given, plane)
            fill = nodata if nodata is not None and fits(nodata, dtype) else None
            region_source = FileSource(source, translator.channels, given, plane)
            sinks = [FileSink(writer, plane, mapping, missing, fill, wanted.slices) for writer in writers]
            if by_region is not None and by_region(region_source, codes, sinks):
                if plane == reader.planes // 2:
                    preview = center(region_source.preview(), given.slices), [sink.preview for sink in sinks]
                progress((plane + 1) / reader.planes)
                continue
            pixels = Stored(source.read_whole(plane), source.nodata)
            image = normalize(pixels.to_unit(given, printable(path)))
            outputs = translate(image, codes)
            middle = [center(output, wanted.slices) for output in outputs]
            for sink, output in zip(sinks, outputs, strict=True):
                if output.shape[1:] != image.shape[1:]:
                    raise DataError(
                        f"{printable(path)}: outputs of {output.shape[1]}x{output.shape[2]} pixels do not fit its "
                        "metadata: leave --size out, or give --no-like-input."
                    )
                sink.write(output[None], Region(0, 0, reader.height, reader.width))
            if plane == reader.planes // 2:
                preview = center(image, given.slices), middle
            progress((plane + 1) / reader.planes)
    assert preview is not None
    return preview


def output_range(values: PixelValues, dtype: np.dtype) -> tuple[ValueRange, np.dtype]:
    """Return the range and the type of outputs: the input's type if it holds the range of the target domain."""
    if values.range is None:
        chosen = np.dtype(dtype) if dtype.kind == "f" or dtype.name in ("uint8", "uint16") else np.dtype(np.uint8)
        return full_range(chosen), chosen
    low, high = float(np.min(values.range.low)), float(np.max(values.range.high))
    # A range such as [0, 1] is one of fractions.
    whole = low.is_integer() and high.is_integer() and high - low > 1
    kinds = (np.dtype(kind) for kind in (dtype, *_TYPES))
    return values.range, next(
        kind for kind in kinds if kind.kind == "f" or (whole and {fits(low, kind), fits(high, kind)} == {True})
    )
