"""Decoding every image of a configuration before training starts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastmunit.config import Config
from fastmunit.data.images import verify_image
from fastmunit.data.paths import Domain, Part, domain_files
from fastmunit.errors import DataError

# Decoders release Python's lock, and on network disks the waiting dominates.
_READERS = 8


def verify(config: Config, progress: Callable[[int, int], None] | None = None) -> None:
    """Check that every image of the training and test data decodes, each file once, in parallel threads.

    Args:
        config: The configuration of a training.
        progress: Is told the number of images that are done, and of all, after each one.

    Raises:
        ConfigError, DataError: As `domain_files`; or images cannot be used, and all of them are named.
    """
    parts: tuple[Part, ...] = ("train", "test")
    domains: tuple[Domain, ...] = ("a", "b")
    wanted: dict[tuple[Path, int], None] = {}  # a dict for its order
    for part in parts:
        for domain in domains:
            channels = config.input_dim_a if domain == "a" else config.input_dim_b
            wanted |= dict.fromkeys((path, channels) for path in domain_files(config, part, domain).paths)

    def problem(item: tuple[Path, int]) -> str | None:
        try:
            verify_image(*item, config.max_pixels)
        except DataError as error:
            return str(error)
        return None

    problems: dict[str, None] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        for done, found in enumerate(readers.map(problem, wanted), start=1):
            if found is not None:
                problems[found] = None
            if progress is not None:
                progress(done, len(wanted))
    if problems:
        listed = "\n".join(f"- {text}" for text in problems)
        raise DataError(f"{len(problems):,} of {len({path for path, _ in wanted}):,} images cannot be used:\n{listed}")
