"""The rules for reading and writing the pixels of a translator's two domains: the value ranges of its training."""

from __future__ import annotations

from fastmunit.data.value_range import PixelValues
from fastmunit.systems.translators import Translator


def source_values(translator: Translator) -> PixelValues:
    """Return how images to translate are read. Without a configuration, there is no value range."""
    return _values(translator, 0)


def target_values(translator: Translator) -> PixelValues:
    """Return how images of the target domain are read and written: references and outputs."""
    return _values(translator, -1)


def _values(translator: Translator, place: int) -> PixelValues:
    if translator.config is None:
        return PixelValues()
    return PixelValues.of(translator.config, (translator.direction or "a2b")[place])
