"""Everything about a configuration's data that can be known before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastmunit.config import Config
from fastmunit.data.crop_size import check_crop
from fastmunit.data.datasets import test_crop
from fastmunit.data.images import check_bands, read_header
from fastmunit.data.paths import Domain, DomainFiles, Part, domain_files
from fastmunit.data.transforms import resized_shape
from fastmunit.errors import DataError

# Offending files that a message lists.
_SHOWN = 3
# Headers are read concurrently: on network disks the waiting dominates.
_READERS = 8


def check(config: Config) -> None:
    """Checks the data of a configuration, reading no more than the headers of its images.

    Args:
        config: the configuration of a training.

    Raises:
        ConfigError: no data are named, or the crop does not fit the networks.
        DataError: a folder, list or listed file is missing or empty; there are fewer training images than batch_size,
            or fewer images than display_size; headers are damaged; images have other bands than input_dim, or are
            smaller than the crop after the resize. The first few files are named, with the number of them.
    """
    check_crop(config)
    parts: tuple[Part, ...] = ("train", "test")
    domains: tuple[Domain, ...] = ("a", "b")
    found = {(part, domain): domain_files(config, part, domain) for part in parts for domain in domains}
    for (part, _), files in found.items():
        _check_count(config, part, files)
    for (part, domain), files in found.items():
        _check_headers(config, part, domain, files)


def _check_count(config: Config, part: Part, files: DomainFiles) -> None:
    count = len(files.paths)
    if part == "train" and count < config.batch_size:
        raise DataError(
            f"{files.source} has {count} images, fewer than batch_size {config.batch_size}: "
            "add images or lower batch_size."
        )
    if count < config.display_size:
        raise DataError(
            f"{files.source} has {count} images, fewer than display_size {config.display_size}: "
            f"add images or set display_size to {count} or less."
        )


def _check_headers(config: Config, part: Part, domain: Domain, files: DomainFiles) -> None:
    size = config.size_a if domain == "a" else config.size_b
    channels = config.input_dim_a if domain == "a" else config.input_dim_b
    train_crop = (config.crop_image_height, config.crop_image_width)
    crop = train_crop if part == "train" else test_crop(config, domain)

    def examine(path: Path) -> tuple[str | None, str | None]:
        try:
            header = read_header(path)
            check_bands(path, header, channels)
        except DataError as error:
            return str(error), None
        height, width = resized_shape(header.height, header.width, size)
        if height < crop[0] or width < crop[1]:
            return None, f"{path} ({header.height}x{header.width}, {height}x{width} after the resize)"
        return None, None

    with ThreadPoolExecutor(_READERS) as readers:
        results = list(readers.map(examine, files.paths))
    unusable = [problem for problem, _ in results if problem is not None]
    small = [problem for _, problem in results if problem is not None]
    if unusable:
        raise DataError(
            f"{files.source}: {len(unusable)} of {len(results)} images cannot be used. {_first(unusable, ' ')}"
        )
    if small:
        rule = "with no new_size set" if size is None else f"with shortest side resized to {size}"
        raise DataError(
            f"{files.source}: {len(small)} of {len(results)} images are smaller than the crop {crop[0]}x{crop[1]} "
            f"(height x width) {rule}: {_first(small, ', ')}. Set new_size to at least {max(crop)}, lower "
            "crop_image_height and crop_image_width, or remove them."
        )


def _first(problems: Sequence[str], separator: str) -> str:
    more = len(problems) - _SHOWN
    return separator.join(problems[:_SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")
