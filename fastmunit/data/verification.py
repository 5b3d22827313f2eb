"""Decoding of every image of a configuration before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from fastmunit.config import Config
from fastmunit.data.paths import DOMAINS, PARTS, domain_files
from fastmunit.data.pixels import verify_image
from fastmunit.data.sources import GivenImages, NamedSource
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError

# Decoders release Python's lock, and on network disks most of the time is spent waiting.
_READERS = 8

_Item: TypeAlias = tuple[Path | tuple[NamedSource, int], int, PixelValues]


def verify(
    config: Config, progress: Callable[[int, int], None] | None = None, given: GivenImages | None = None
) -> None:
    """Decode every image of the training and test data once, in parallel threads, and report those that fail.

    Args:
        config: Configuration of a training run.
        progress: Function that is called after each image with the number of images done and the total.
        given: Image sources to use instead of folders. Their images are requested in the calling thread.

    Raises:
        ConfigError, DataError: If `domain_files` raises, or images cannot be used. The message names all of them.
    """
    items: dict[_Item, None] = {}  # a set that keeps its order
    for part in PARTS:
        for domain in DOMAINS:
            channels = config.input_dim_a if domain == "a" else config.input_dim_b
            values = PixelValues.of(config, domain)
            images: Iterable[Path | tuple[NamedSource, int]]
            if given is None:
                images = domain_files(config, part, domain).paths
            else:
                source = given.source(part, domain)
                images = ((source, index) for index in range(source.count))
            items |= dict.fromkeys((image, channels, values) for image in images)

    def problem(item: _Item) -> str | None:
        image, channels, values = item
        try:
            if isinstance(image, tuple):
                source, index = image
                source.planes(index, channels, config.max_pixels, values)
            else:
                verify_image(image, channels, config.max_pixels, values)
        except DataError as error:
            return str(error)
        return None

    problems: dict[str, None] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        results = map(problem, items) if given is not None else readers.map(problem, items)
        for done, message in enumerate(results, start=1):
            if message is not None:
                problems[message] = None
            if progress is not None:
                progress(done, len(items))
    if problems:
        listed = "\n".join(f"- {text}" for text in problems)
        count = len({image for image, _, _ in items})
        raise DataError(f"{len(problems):,} of {count:,} images cannot be used:\n{listed}")
