"""Decoding every image of a configuration before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastmunit.config import Config
from fastmunit.data.images import verify_image
from fastmunit.data.paths import Domain, Part, domain_files
from fastmunit.data.sources import GivenImages, NamedSource
from fastmunit.errors import DataError

# Decoders release Python's lock, and on network disks the waiting dominates.
_READERS = 8


def verify(
    config: Config, progress: Callable[[int, int], None] | None = None, given: GivenImages | None = None
) -> None:
    """Check that every image of the training and test data decodes, each file once, in parallel threads.

    Args:
        config: The configuration of a training.
        progress: Is told the number of images that are done, and of all, after each one.
        given: Images of a program, in place of those of folders; they are asked for in the calling thread.

    Raises:
        ConfigError, DataError: As `domain_files`; or images cannot be used, and all of them are named.
    """
    parts: tuple[Part, ...] = ("train", "test")
    domains: tuple[Domain, ...] = ("a", "b")
    wanted: dict[tuple[Path | tuple[NamedSource, int], int], None] = {}  # a dict for its order
    for part in parts:
        for domain in domains:
            channels = config.input_dim_a if domain == "a" else config.input_dim_b
            images: Iterable[Path | tuple[NamedSource, int]]
            if given is None:
                images = domain_files(config, part, domain).paths
            else:
                source = given.source(part, domain)
                images = ((source, index) for index in range(source.count))
            wanted |= dict.fromkeys((image, channels) for image in images)

    def problem(item: tuple[Path | tuple[NamedSource, int], int]) -> str | None:
        image, channels = item
        try:
            if isinstance(image, tuple):
                source, index = image
                source.planes(index, channels, config.max_pixels)
            else:
                verify_image(image, channels, config.max_pixels)
        except DataError as error:
            return str(error)
        return None

    problems: dict[str, None] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        results = map(problem, wanted) if given is not None else readers.map(problem, wanted)
        for done, found in enumerate(results, start=1):
            if found is not None:
                problems[found] = None
            if progress is not None:
                progress(done, len(wanted))
    if problems:
        listed = "\n".join(f"- {text}" for text in problems)
        raise DataError(
            f"{len(problems):,} of {len({image for image, _ in wanted}):,} images cannot be used:\n{listed}"
        )
