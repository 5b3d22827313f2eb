"""Value ranges from percentiles of the training images, for `value_range_a: auto`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastmunit.config import Config
from fastmunit.data.datasets import ImageDataset, index_regions, training_datasets
from fastmunit.data.paths import DOMAINS
from fastmunit.data.sources import GivenImages
from fastmunit.data.value_range import ValueRange
from fastmunit.errors import DataError

PERCENTILES = (0.1, 99.9)
_IMAGES = 64
_VALUES = 1 << 16
# Gray and RGB images have one range, so that colors keep their balance. Other channels have one each.
_ONE_RANGE = (1, 3)


def resolved(
    config: Config,
    previous: Config | None = None,
    given: GivenImages | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Config, list[str]]:
    """Replace `auto` in value ranges by numbers: percentiles 0.1 and 99.9 of the training images.

    They are computed from at most 64 evenly spaced images and 65,536 random pixels of each, and are always the same for
    the same images. Pixels without data do not count. Images that cannot be read are left out.

    Args:
        config: Configuration of a training run.
        previous: Configuration of the run that is resumed, whose numbers are used.
        given: Image sources to use instead of folders.
        progress: Called while regions of slides and volumes are looked at; see `index_regions`.

    Returns:
        The configuration with numbers, and one line per range that was computed.

    Raises:
        ConfigError, DataError: If the images are missing, none of them can be read, or all values are equal.
    """
    keys = [key for key in (f"value_range_{domain}" for domain in DOMAINS) if getattr(config, key) == "auto"]
    known = {} if previous is None else {key: getattr(previous, key) for key in keys}
    found = {key: known[key] for key in keys if known.get(key) not in (None, "auto")}
    notes: list[str] = []
    if len(found) < len(keys):
        # Without ranges, background is not defined yet.
        whole: dict[str, object] = {f"background_{domain}": "none" for domain in DOMAINS}
        without = config.model_copy(update=whole | dict.fromkeys(keys))
        if given is None:
            index_regions(without, progress, ("train",))
        datasets = training_datasets(without, given)
        for domain, dataset in zip(DOMAINS, datasets, strict=True):
            key = f"value_range_{domain}"
            if key not in keys or key in found:
                continue
            found[key] = _percentiles(dataset, config.slices, getattr(config, f"nodata_{domain}"), key)
            percentiles = " and ".join(map(str, PERCENTILES))
            notes.append(f"{key}: auto is {found[key]} (percentiles {percentiles} of the training images).")
    return (config.model_copy(update=found) if found else config), notes


def _percentiles(dataset: ImageDataset, slices: int, nodata: float | None, key: str) -> list[float] | list[list[float]]:
    """Return [low, high], or one pair per channel unless there are 1 or 3."""
    channels = dataset.channels // slices
    samples: list[list[np.ndarray]] = [[] for _ in range(1 if channels in _ONE_RANGE else channels)]
    first_error: DataError | None = None
    count = min(len(dataset), _IMAGES)
    for number in range(count):
        index = number * len(dataset) // count
        try:
            pixels, own = dataset.stored(index)
        except DataError as error:
            first_error = first_error or error
            continue
        own = own if nodata is None else nodata
        # The slice itself is in the middle, and its neighbors are images of their own.
        center = pixels[slices // 2 * channels :][:channels].reshape(channels, -1)
        places = np.random.default_rng(index).integers(0, center.shape[1], _VALUES)
        chosen = center if center.shape[1] <= _VALUES else center[:, places]
        for sample, plane in zip(samples, chosen if len(samples) > 1 else [chosen], strict=True):
            sample.append(plane[~ValueRange(0.0, 1.0, nodata=own).missing(plane)].ravel())
    if first_error is not None and not any(samples):
        raise first_error
    pairs = [_pair(np.concatenate(sample), channel, key) for channel, sample in enumerate(samples)]
    return pairs if len(pairs) > 1 else pairs[0]


def _pair(values: np.ndarray, channel: int, key: str) -> list[float]:
    low, high = (0.0, 0.0) if values.size == 0 else np.percentile(values.astype(np.float64), PERCENTILES).tolist()
    whole = values.dtype.kind in "iu"
    low, high = (float(np.floor(low)), float(np.ceil(high))) if whole else (float(f"{low:.6g}"), float(f"{high:.6g}"))
    if not low < high:
        what = "no data" if values.size == 0 else f"only values near {low:g}"
        raise DataError(f"{key}: auto: channel {channel} of the training images has {what}: give [low, high].")
    return [low, high]
