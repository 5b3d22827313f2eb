"""Translation of tiles by themselves, each with its own statistics: another function than that of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from fastmunit.out_of_core.pixels import PixelSink, PixelSource
from fastmunit.out_of_core.tiling import tiles_of
from fastmunit.region import Region
from fastmunit.systems.translators import Translator

TILE = 512
"""Height and width of a tile whose pixels are kept."""

OVERLAP = 64
"""Pixels around a tile that are translated with it and then cropped."""


def translate_locally(
    translator: Translator,
    source: PixelSource,
    styles: Tensor,
    sinks: Sequence[PixelSink],
    precision: str | None = None,
    progress: Callable[[float], object] = lambda _: None,
) -> None:
    """Translate an image in tiles of `TILE` x `TILE` pixels with `OVERLAP` pixels around each.

    Norms use the statistics of a tile with its overlap. Contrast and color then follow what is near, and neighboring
    tiles differ: borders between them can be visible. That is not what the model computes for the whole image.

    Args:
        translator: The model.
        source: The image.
        styles: Style codes (S, style_dim, 1, 1).
        sinks: Where the result of each style is written.
        precision: Precision of convolutions. None is the translator's own.
        progress: Called with the part that is done, after each tile.

    Raises:
        FastmunitError: If the image does not have the model's channels, or memory runs out.
    """
    tiles = list(tiles_of(Region(0, 0, source.height, source.width), TILE, TILE))
    for number, tile in enumerate(tiles):
        top, left = max(0, tile.top - OVERLAP), max(0, tile.left - OVERLAP)
        bottom, right = min(source.height, tile.bottom + OVERLAP), min(source.width, tile.right + OVERLAP)
        image = source.read(Region(top, left, bottom - top, right - left))[0]
        rows, columns = slice(tile.top - top, tile.bottom - top), slice(tile.left - left, tile.right - left)
        for sink, output in zip(sinks, translator.translate(image, styles, precision=precision), strict=True):
            sink.write(output[None, :, rows, columns], tile)
        progress((number + 1) / len(tiles))
