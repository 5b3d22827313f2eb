"""Measuring the real images that outputs are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastmunit import data, distributed
from fastmunit.errors import DataError
from fastmunit.metrics.diversity import real_diversity
from fastmunit.metrics.features import FeatureName, features_of
from fastmunit.metrics.inputs import SET_SAMPLES
from fastmunit.metrics.intervals import Estimate
from fastmunit.metrics.readable import ReadableImages
from fastmunit.metrics.task import Task, rgb, spread

# Real images for features and for pairs, evenly spread where there are more.
_MOST_REAL, _MOST_PAIRED = 1000, 400
_BATCH = 32


@dataclass
class RealValues:
    """What was measured of real images.

    Attributes:
        pairs: Mean distance of pairs of test images, by the measure's name.
        features: Of test images, and of training images where there are some, by the network's name.
    """

    pairs: dict[str, Estimate] = field(default_factory=dict)
    features: dict[FeatureName, tuple[Tensor, Tensor | None]] = field(default_factory=dict)


def measure_real(task: Task, readable: ReadableImages, inputs: int, tell: Callable[[float, str], None]) -> RealValues:
    """Measure real images of the target domain; images that a measure cannot take are found here.

    Args:
        task: What is measured.
        readable: Reads the images.
        inputs: How many inputs there are: as many training images are taken as there are outputs.
        tell: Is called with the fraction of the evaluation that is done, and what is being done.

    Raises:
        DataError: There are fewer than two images, or of several sizes.
    """
    found = RealValues()
    images = None
    if task.measures.lpips:
        places = spread(len(task.targets), _MOST_PAIRED)
        images = _stacked(readable.all_in_each(task.targets, places), task)
    for measure in task.measures.lpips:
        if images is None or len(images) < 2:
            raise _too_few(readable)
        tell(0.0, f"{measure.name} of real pairs")
        found.pairs[measure.name] = real_diversity(measure, images, seed=task.seed, each=distributed.each)
    for name in task.measures.features:
        tell(0.1, f"{name} features of real images")
        seen = task.training_images()
        real = _features(task, readable, name, task.targets, _MOST_REAL)
        if real is None:
            raise _too_few(readable)
        count = inputs * min(SET_SAMPLES, task.samples)
        known = _features(task, readable, name, seen, count) if seen is not None else None
        found.features[name] = (real, known)
    return found


def _features(
    task: Task, readable: ReadableImages, name: FeatureName, images: data.ImageDataset, most: int
) -> Tensor | None:
    """Features of images; None where fewer than two can be read."""
    network = task.measures.features[name]
    indices = spread(len(images), most)

    def of_part(part: Sequence[int]) -> Tensor | None:
        batch = _stacked(readable.all(images, part), task)
        return features_of(network, batch) if batch is not None else None

    # The same parts for any number of processes, so that the features have the same bits.
    parts = [indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH)]
    found = [features for features in distributed.each(of_part, parts) if features is not None]
    readable.share()
    return torch.cat(found) if sum(map(len, found)) > 1 else None


def _stacked(images: Sequence[Tensor], task: Task) -> Tensor | None:
    """The images as one batch on the model's device; None where there are none."""
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise DataError(f"test images have several sizes ({sorted(shapes)[:3]}): set new_size, or crop them.")
    return rgb(torch.stack(list(images))).to(task.forward.device) if images else None


def _too_few(readable: ReadableImages) -> DataError:
    reason = next(iter(readable.reasons.values()), "")
    return DataError(f"an evaluation needs at least 2 target test images that can be read: {reason}")
