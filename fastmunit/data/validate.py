"""Checks of the data of a configuration before training starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fastmunit.config import Config
from fastmunit.data.datasets import (
    ImageDataset,
    differing_sizes,
    index_regions,
    odd_width,
    test_crop,
    test_datasets,
    training_datasets,
)
from fastmunit.data.images import ImageHeader, check_bands, read_header
from fastmunit.data.memory_limit import memory_excess
from fastmunit.data.paths import DOMAINS, PARTS, Domain, DomainFiles, Part, domain_files
from fastmunit.data.range_check import range_note
from fastmunit.data.readers import DomainReader, has_reader
from fastmunit.data.slides import SlideSource
from fastmunit.data.sources import GivenImages
from fastmunit.data.transforms import resize_excess, resized_shape
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import ConfigError, DataError
from fastmunit.files import printable

# Number of files listed in a message.
_MAX_LISTED = 3
# Headers are read in threads: on network disks most of the time is spent waiting.
_READERS = 8
_FLOAT_BYTES = 4


class _Checked(NamedTuple):
    """The (height, width) of each image after the resize, its pages, and the indices of those with more than 8 bits."""

    shapes: list[tuple[int, int]]
    pages: list[int]
    deep: list[int]


def check(
    config: Config,
    given: GivenImages | None = None,
    any_size: bool = True,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[str]:
    """Check the data of a configuration. Only the headers of image files are read, and a few with more than 8 bits.

    Args:
        config: Configuration of a training run.
        given: Image sources to use instead of folders. Only the first image of each is read.
        any_size: See `test_crop`.
        progress: Called while regions of slides and volumes are looked at; see `index_regions`.

    Returns:
        One line per folder with files that are left out (see `find_images`), and per domain whose values use only a
        part of their range (see `range_note`).

    Raises:
        ConfigError: If the configuration names no data, pairs are resized to different sizes, or batches or sample
            grids do not fit in memory.
        DataError: If a folder, list or listed file is missing or empty; there are fewer training images than batch_size
            or fewer images than display_size; headers are damaged; images have another number of bands than input_dim,
            or after the resize are smaller than the crop or too large for memory; or images of pairs have no partner,
            a partner of another size or number of slices, or an odd width if they contain both. The message contains
            the number of such files and the names of the first few.
    """
    if config.pairs != "unpaired" and config.size_a != config.size_b:
        raise ConfigError(
            f"new_size_a {config.size_a} and new_size_b {config.size_b} would crop the images of a pair differently: "
            "set new_size alone, or pairs to unpaired."
        )
    _check_memory(config, any_size)
    if given is not None:
        return _check_given(config, given, any_size)
    by_domain = {(part, domain): domain_files(config, part, domain) for part in PARTS for domain in DOMAINS}
    scientific = {key for key, files in by_domain.items() if _scientific(config, key[1], files)}
    for (part, domain), files in by_domain.items():
        if (part, domain) not in scientific:
            _check_count(config, part, printable(files.source), len(files.paths))
    checked = {
        (part, domain): _check_headers(config, part, domain, files, any_size)
        for (part, domain), files in by_domain.items()
    }
    if config.pairs == "folders":
        for part in PARTS:
            a, b = (by_domain[part, domain].paths for domain in DOMAINS)
            _check_sizes(a, checked[part, "a"].shapes, b, checked[part, "b"].shapes)
            _check_slices(config, a, checked[part, "a"].pages, b, checked[part, "b"].pages)
    notes = _notes(by_domain.values()) + _values_notes(config, by_domain, checked, progress)
    if not scientific:
        return notes
    try:
        index_regions(config, progress, any_size=any_size)
        datasets = {"train": training_datasets(config), "test": test_datasets(config, any_size=any_size)}
    except DataError as error:  # values that use a small part of their range look like background
        raise DataError(" ".join([str(error), *notes])) from error
    for (part, domain), files in by_domain.items():
        notes += _region_notes(config, part, files, datasets[part]["ab".index(domain)])
    return list(dict.fromkeys(notes))  # training and test data may be in one folder


def check_image(
    path: str | os.PathLike[str],
    channels: int,
    size: int | None,
    pixel_bytes: int,
    max_pixels: int | None,
    values: PixelValues,
) -> None:
    """Check an image before it is passed to a network. Only its header is read.

    Args:
        path: File to check.
        channels: Number of input channels of the network.
        size: Shorter side after the resize, in pixels, or None to keep the size.
        pixel_bytes: Bytes per pixel, after the resize, of the largest tensor. Two such tensors exist at the same time.
        max_pixels: Maximum number of pixels. None is Pillow's limit.
        values: How pixels are read.

    Raises:
        DataError: If the header is damaged, or the image has another number of bands, too many pixels, or does not fit
            in memory.
    """
    header = image_header(path, channels, values, max_pixels)
    excess = resize_excess(path, header.height, header.width, pixel_bytes, size)
    if excess is not None:
        raise DataError(excess)


def image_header(
    path: str | os.PathLike[str], channels: int, values: PixelValues, max_pixels: int | None
) -> ImageHeader:
    """Read the header of an image file or of a slice. Raises DataError if it does not have the channels."""
    if has_reader(path, channels, values, max_pixels):
        return DomainReader(path, channels, values).header
    header = read_header(path, max_pixels)
    check_bands(path, header, channels // values.slices)
    return header


def left_out(config: Config, parts: Sequence[Part] = PARTS) -> list[str]:
    """Return one line per folder of the data with files that are left out; see `find_images`.

    The list is empty if the configuration has a `data_module`.

    Raises:
        ConfigError, DataError: If `domain_files` raises.
    """
    if config.data_module is not None:
        return []
    return _notes(domain_files(config, part, domain) for part in parts for domain in DOMAINS)


def _scientific(config: Config, domain: Domain, files: DomainFiles) -> bool:
    channels = config.input_dim_a if domain == "a" else config.input_dim_b
    values = PixelValues.of(config, domain)
    return any(has_reader(path, channels, values, config.max_pixels) for path in files.paths)


def _region_notes(config: Config, part: Part, files: DomainFiles, dataset: ImageDataset) -> list[str]:
    """Check the number of usable regions of slides and volumes, and return a line about those that are left out."""
    source = dataset.source
    if not isinstance(source, SlideSource):
        return []
    name = printable(files.source)
    _check_count(config, part, name, source.count)
    if source.count == source.total:
        return []
    return [
        f"{name}: {source.count:,} of {source.total:,} regions are used; the others have less than "
        f"{config.min_foreground:.0%} foreground (background{dataset.values.keys}, min_foreground)."
    ]


def _values_notes(
    config: Config,
    by_domain: Mapping[tuple[Part, Domain], DomainFiles],
    checked: Mapping[tuple[Part, Domain], _Checked],
    progress: Callable[[int, int], object],
) -> list[str]:
    """Return notes about training images that use a part of their range, whether they are background or not."""
    if not any(checked["train", domain].deep for domain in DOMAINS):
        return []
    anywhere = config.model_copy(update={f"background_{domain}": "none" for domain in DOMAINS})
    index_regions(anywhere, progress, ("train",))
    notes: list[str] = []
    for domain, dataset in zip(DOMAINS, training_datasets(anywhere), strict=True):
        files = by_domain["train", domain]
        indices = _images_of(dataset, files, checked["train", domain].deep)
        notes += _range_notes(dataset, indices, printable(files.source))
    return notes


def _images_of(dataset: ImageDataset, files: DomainFiles, numbers: Sequence[int]) -> list[int]:
    """Return the indices of images that come from some of the files."""
    if not isinstance(dataset.source, SlideSource):
        return list(numbers)
    chosen = {files.paths[number] for number in numbers}
    return [index for index, item in enumerate(dataset.source.items) if item.path in chosen]


def _range_notes(dataset: ImageDataset, indices: Sequence[int], source: str) -> list[str]:
    note = range_note(dataset, indices, source)
    return [] if note is None else [note]


def _notes(domains: Iterable[DomainFiles]) -> list[str]:
    return list(dict.fromkeys(files.note for files in domains if files.note is not None))


def _check_memory(config: Config, any_size: bool) -> None:
    """Check that a batch and the images of the sample grids fit in memory."""
    channels = (config.input_dim_a, config.input_dim_b)
    train_crop = (config.crop_image_height, config.crop_image_width)
    crops = [(train_crop, test_crop(config, domain, any_size)) for domain in DOMAINS]
    grids = sum(c * h * w for c, pair in zip(channels, crops, strict=True) for h, w in pair) * config.display_size
    batch = sum(channels) * math.prod(train_crop) * config.batch_size
    for key, count, (height, width), values in (
        ("display_size", config.display_size, max(crop for pair in crops for crop in pair), grids),
        ("batch_size", config.batch_size, train_crop, batch),
    ):
        excess = memory_excess(values * _FLOAT_BYTES)
        if excess is not None:
            raise ConfigError(
                f"{key} {count} with images of {height}x{width} (height x width) would take {excess}: lower {key}, "
                "new_size, or crop_image_height and crop_image_width."
            )


def _check_given(config: Config, given: GivenImages, any_size: bool) -> list[str]:
    """Read the first image of each source, and return notes about their values."""
    notes: list[str] = []
    datasets = {"train": training_datasets(config, given), "test": test_datasets(config, given, any_size)}
    for part in PARTS:
        for domain, dataset in zip(DOMAINS, datasets[part], strict=True):
            source = given.source(part, domain)
            _check_count(config, part, source.name, len(dataset))
            if part == "train" and source.has_stored_values:
                notes += _range_notes(dataset, [0], source.name)
            dataset[0]
    return notes


def _check_count(config: Config, part: Part, source: str, count: int) -> None:
    if part == "train" and count < config.batch_size:
        raise DataError(
            f"{source} has {count} images, fewer than batch_size {config.batch_size}: add images or lower batch_size."
        )
    if count < config.display_size:
        raise DataError(
            f"{source} has {count} images, fewer than display_size {config.display_size}: "
            f"add images or set display_size to {count} or less."
        )


def _check_headers(config: Config, part: Part, domain: Domain, files: DomainFiles, any_size: bool) -> _Checked:
    """Check the headers of all images."""
    size = config.size_a if domain == "a" else config.size_b
    channels = config.input_dim_a if domain == "a" else config.input_dim_b
    values = PixelValues.of(config, domain)
    train_crop = (config.crop_image_height, config.crop_image_width)
    crop = train_crop if part == "train" else test_crop(config, domain, any_size)

    pages = [1] * len(files.paths)
    deep: list[int] = []

    def examine(numbered: tuple[int, Path]) -> tuple[str | None, str | None, tuple[int, int]]:
        index, path = numbered
        try:
            header = image_header(path, channels, values, config.max_pixels)
            pages[index] = header.pages
            if header.deep:
                deep.append(index)
            if files.half is not None and header.width % 2:
                raise DataError(odd_width(path, header.width))
        except DataError as error:
            return str(error), None, (0, 0)
        wide = header.width if files.half is None else header.width // 2
        excess = resize_excess(path, header.height, wide, channels, size)
        if excess is not None:
            return excess, None, (0, 0)
        height, width = resized_shape(header.height, wide, size)
        if height < crop[0] or width < crop[1]:
            half = "" if files.half is None else f"the {files.half} half "
            problem = f"{printable(path)} ({half}{header.height}x{wide}, {height}x{width} after the resize)"
            return None, problem, (height, width)
        return None, None, (height, width)

    with ThreadPoolExecutor(_READERS) as readers:
        results = list(readers.map(examine, enumerate(files.paths)))
    source = printable(files.source)
    unusable = [problem for problem, _, _ in results if problem is not None]
    small = [problem for _, problem, _ in results if problem is not None]
    if unusable:
        raise DataError(f"{source}: {len(unusable)} of {len(results)} images cannot be used. {_first(unusable, ' ')}")
    if small:
        rule = "without new_size" if size is None else f"with the shorter side resized to {size}"
        raise DataError(
            f"{source}: {len(small)} of {len(results)} images are smaller than the crop {crop[0]}x{crop[1]} "
            f"(height x width) {rule}: {_first(small, ', ')}. Set new_size to at least {max(crop)}, lower "
            "crop_image_height and crop_image_width, or remove them."
        )
    return _Checked([shape for _, _, shape in results], pages, sorted(deep))


def _check_sizes(
    a: Sequence[Path], shapes_a: Sequence[tuple[int, int]], b: Sequence[Path], shapes_b: Sequence[tuple[int, int]]
) -> None:
    pairs = zip(a, shapes_a, b, shapes_b, strict=True)
    problems = [differing_sizes(*pair) for pair in pairs if pair[1] != pair[3]]
    if problems:
        raise DataError(f"{len(problems)} of {len(a)} pairs differ in size. {_first(problems, ' ')}")


def _check_slices(config: Config, a: Sequence[Path], pages_a: list[int], b: Sequence[Path], pages_b: list[int]) -> None:
    problems = []
    for path_a, count_a, path_b, count_b in zip(a, pages_a, b, pages_b, strict=True):
        # The pages of files that Pillow reads are channels.
        if count_a != count_b and all(
            has_reader(path, channels, PixelValues.of(config, domain), config.max_pixels)
            for path, channels, domain in ((path_a, config.input_dim_a, "a"), (path_b, config.input_dim_b, "b"))
        ):
            problems.append(
                f"{printable(path_a)} has {count_a} slices and {printable(path_b)} has {count_b}: a pair needs the "
                "same slices in both, so remove or add some."
            )
    if problems:
        raise DataError(f"{len(problems)} of {len(a)} pairs differ in slices. {_first(problems, ' ')}")


def _first(problems: Sequence[str], separator: str) -> str:
    more = len(problems) - _MAX_LISTED
    return separator.join(problems[:_MAX_LISTED]) + (f"{separator}and {more} more" if more > 0 else "")
