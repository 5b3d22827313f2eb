"""The endless stream of training batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fastmunit.config import Config
from fastmunit.data.datasets import ImageDataset, differing_sizes, training_datasets
from fastmunit.data.images import decode_image
from fastmunit.data.seeding import named_generator
from fastmunit.data.transforms import resized_shape
from fastmunit.errors import DataError


class _Position(NamedTuple):
    """Which image of each domain makes a pair, and the epoch that fixes its flip and crop."""

    epoch: int
    index_a: int
    index_b: int


class TrainingPairs:
    """Training batches, as a pure function of their number.

    An epoch goes through both domains, each newly shuffled, until the shorter one has no full batch left; where they
    are pairs (`config.pairs`), in one order, with the same flip and crop for both images of a pair. Batch k
    depends on `config.seed` and k alone: not on `num_workers`, nor on where the stream was started. So a training
    resumed at iteration k sees what the uninterrupted one would have. The global random state is neither read nor
    changed.

    Args:
        config: data keys, sizes, batch_size, num_workers (at most the processors of this machine are used) and seed.

    Attributes:
        batches_per_epoch: batches until the shorter domain is used up.

    Raises:
        ConfigError, DataError: the data are missing, or fewer than batch_size.
    """

    def __init__(self, config: Config) -> None:
        self.datasets = training_datasets(config)
        self.batch_size = config.batch_size
        self.seed = config.seed
        self.paired = config.pairs != "unpaired"
        self.num_workers = min(config.num_workers, _usable_processors())
        self.batches_per_epoch = min(len(dataset) for dataset in self.datasets) // self.batch_size
        if self.batches_per_epoch == 0:
            counts = " and ".join(str(len(dataset)) for dataset in self.datasets)
            raise DataError(
                f"batch_size is {self.batch_size} but the domains have {counts} training images: "
                "add images or lower batch_size."
            )

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start` + 1, ... without end; skipped batches are not loaded.

        Each is (images of A, images of B), both (N, C, H, W) float32 in [-1, 1], in pinned memory where CUDA is there.
        Closing the iterator ends its worker processes.

        Raises:
            DataError: an image cannot be used, or a worker process was killed.
            ValueError: `start` is negative.
        """
        if start < 0:
            raise ValueError(f"start is {start}; batches are counted from 0")
        loader = DataLoader(
            _Pairs(*self.datasets, paired=self.paired),
            batch_sampler=_Positions(self, start),
            num_workers=self.num_workers,
            collate_fn=_stack,
            worker_init_fn=_ignore_interrupts,
            pin_memory=torch.cuda.is_available(),
            # The loader draws a number at its start: not from the global generator.
            generator=torch.Generator(),
        )
        loaded = iter(loader)
        try:
            for batch in loaded:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        except (RuntimeError, EOFError, OSError) as error:
            # A worker that dies shows as any of these, depending on what it was doing.
            if self.num_workers == 0 or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            # torch raises a second time, wherever the program is, when it hears of the death only now.
            with suppress(RuntimeError):
                cast(Any, loaded)._shutdown_workers()
            raise DataError(
                f"loading images in worker processes failed ({reason}): lower num_workers (0 uses none) "
                "or batch_size; there may be too little (shared) memory, or too few open files allowed."
            ) from error
        finally:
            del loaded  # ends its workers, also where a traceback holds this frame


class _Positions(Sampler[list[_Position]]):
    """Positions of the pairs of each batch, from batch `start` on, without end."""

    def __init__(self, pairs: TrainingPairs, start: int) -> None:
        self.pairs = pairs
        self.start = start

    def __iter__(self) -> Iterator[list[_Position]]:
        pairs = self.pairs
        epoch, first = divmod(self.start, pairs.batches_per_epoch)
        while True:
            order_a, order_b = (
                torch.randperm(len(dataset), generator=named_generator("shuffle", pairs.seed, dataset.stream, epoch))
                for dataset in pairs.datasets
            )
            for batch in range(first, pairs.batches_per_epoch):
                chosen = slice(batch * pairs.batch_size, (batch + 1) * pairs.batch_size)
                yield [
                    _Position(epoch, index_a, index_b)
                    for index_a, index_b in zip(order_a[chosen].tolist(), order_b[chosen].tolist(), strict=True)
                ]
            epoch, first = epoch + 1, 0


class _Pairs(Dataset[tuple[Tensor, Tensor] | DataError]):
    """One image of each domain.

    A DataError is handed on as a value: raised, it would reach the user inside a worker's traceback.
    """

    def __init__(self, a: ImageDataset, b: ImageDataset, paired: bool) -> None:
        self.a = a
        self.b = b
        self.paired = paired

    def __getitem__(self, position: _Position) -> tuple[Tensor, Tensor] | DataError:
        try:
            if self.paired:
                return self._pair(position.index_a, position.epoch)
            return self.a.sample(position.index_a, position.epoch), self.b.sample(position.index_b, position.epoch)
        except DataError as error:
            return DataError(str(error))

    def _pair(self, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        in_one_file = self.a.paths[index] == self.b.paths[index] and self.a.channels == self.b.channels
        if in_one_file:
            image = decode_image(self.a.paths[index], self.a.channels)
            a, b = self.a.take_half(image, index), self.b.take_half(image, index)
        else:
            a, b = self.a.decode(index), self.b.decode(index)
        shapes = [resized_shape(x.shape[1], x.shape[2], of.size) for x, of in ((a, self.a), (b, self.b))]
        if shapes[0] != shapes[1]:
            raise DataError(differing_sizes(self.a.paths[index], shapes[0], self.b.paths[index], shapes[1]))
        return self.a.transform(a, index, epoch), self.b.transform(b, index, epoch)


def _stack(items: list[tuple[Tensor, Tensor] | DataError]) -> tuple[Tensor, Tensor] | DataError:
    pairs = []
    for item in items:
        if isinstance(item, DataError):
            return item
        pairs.append(item)
    a, b = zip(*pairs, strict=True)
    return torch.stack(a), torch.stack(b)


def _ignore_interrupts(worker: int) -> None:
    """Leaves Ctrl-C to the main process, which saves first and then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
