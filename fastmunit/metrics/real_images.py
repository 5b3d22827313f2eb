"""Real images of the target domain, as measures see them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from fastmunit import data, distributed
from fastmunit.errors import DataError
from fastmunit.metrics.features import FeatureNet, features_of
from fastmunit.metrics.images import evenly_spaced, rgb
from fastmunit.metrics.sample import SET_SAMPLES
from fastmunit.metrics.task import Task

# Number of real images for features and for pairs; they are evenly spaced if there are more.
_MAX_FEATURES, _MAX_PAIRED = 1000, 400
_BATCH = 32


class RealImages:
    """Real images of the target domain, and computations that measures share. Every process must call each of them.

    Raises:
        DataError: If fewer than two test images can be read, or they differ in size.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._features: dict[FeatureNet, tuple[Tensor, Tensor | None]] = {}

    @cached_property
    def for_pairs(self) -> Tensor:
        """Test images (N, 3, H, W) for random pairs, on the device of the model."""
        indices = evenly_spaced(len(self.task.targets), _MAX_PAIRED)
        images = self._stack(self.task.readable.read_in_all(self.task.targets, indices))
        if images is None or len(images) < 2:
            raise self._too_few()
        return images

    def features(self, network: FeatureNet) -> tuple[Tensor, Tensor | None]:
        """Return features (N, d) of test images, and of as many training images as there are compared outputs.

        The second is None if fewer than two training images can be read.
        """
        if network not in self._features:
            test = self._compute_features(network, self.task.targets, _MAX_FEATURES)
            if test is None:
                raise self._too_few()
            training, count = self.task.training_images, len(self.task.inputs) * min(SET_SAMPLES, self.task.samples)
            known = None if training is None else self._compute_features(network, training, count)
            self._features[network] = test, known
        return self._features[network]

    def _compute_features(self, network: FeatureNet, images: data.ImageDataset, max_count: int) -> Tensor | None:
        indices = evenly_spaced(len(images), max_count)

        def features_of_part(part: Sequence[int]) -> Tensor | None:
            batch = self._stack(self.task.readable.read_all(images, part))
            return None if batch is None else features_of(network, batch)

        # The batches do not depend on the number of processes, so the features have the same bits.
        parts = [indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH)]
        features = [part for part in distributed.each(features_of_part, parts) if part is not None]
        self.task.readable.share()
        return torch.cat(features) if sum(map(len, features)) > 1 else None

    def _stack(self, images: Sequence[Tensor]) -> Tensor | None:
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise DataError(f"test images have several sizes ({sorted(shapes)[:3]}): set new_size, or crop them.")
        return rgb(torch.stack(list(images))).to(self.task.forward.device) if images else None

    def _too_few(self) -> DataError:
        reason = next(iter(self.task.readable.reasons.values()), "")
        return DataError(f"an evaluation needs at least 2 target test images that can be read: {reason}")
