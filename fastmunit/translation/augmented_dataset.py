"""`fastmunit.AugmentedDataset`: a dataset whose images are translated, reproducibly."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

from fastmunit.translation.augment import Augment


class AugmentedDataset(Dataset[Any]):
    """A map-style dataset with `augment` applied to its samples.

    Sample k of an epoch is a function of (seed, k, epoch): the same for any number of workers, any order of indices and
    after a restart. Call `set_epoch` before each epoch, as for torch's DistributedSampler, or every epoch has the same
    styles.

    Args:
        dataset: Dataset with `__len__` and samples that `augment` takes: images of uint8, or floats in [0, 1].
        augment: The transform.
        transform: Applied to each sample afterwards, for example to crop and normalize it.
    """

    def __init__(self, dataset: Dataset[Any], augment: Augment, transform: Callable[[Any], Any] | None = None) -> None:
        self.dataset, self.augment, self.transform = dataset, augment, transform
        # In shared memory, so that workers which outlive an epoch (persistent_workers=True) see it.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, in worker processes, too."""
        self._epoch.fill_(operator.index(epoch))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        place = index if index >= 0 else index + len(self)
        augmented = self.augment.at(place, int(self._epoch))(sample)
        return augmented if self.transform is None else self.transform(augmented)
