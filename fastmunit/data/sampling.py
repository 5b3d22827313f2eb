"""The infinite stream of training batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from fastmunit.config import Config
from fastmunit.data import workers
from fastmunit.data.background import Background
from fastmunit.data.datasets import ImageDataset, differing_sizes, training_datasets
from fastmunit.data.seeding import named_generator
from fastmunit.data.slides import FileSource
from fastmunit.data.transforms import resized_shape
from fastmunit.errors import DataError
from fastmunit.files import printable
from fastmunit.memory import first_line, is_out_of_memory

Batch = tuple[Tensor, Tensor]


class _Position(NamedTuple):
    """The indices of the images of a pair, and the epoch that determines their flips and crops."""

    epoch: int
    index_a: int
    index_b: int


class TrainingPairs:
    """The training batches as a pure function of their number.

    Each epoch shuffles both domains and ends when the shorter one has no full batch left. If the domains are pairs
    (`config.pairs`), both have the same order, and both images of a pair have the same flip and crop. Batch k depends
    only on `config.seed` and k, not on `num_workers` or on the start of the stream: training that is resumed at
    iteration k gets the same batches as without interruption. The global random state is neither read nor changed.

    Args:
        config: Configuration with the data keys, sizes, batch_size, num_workers and seed.
        datasets: Datasets of domains A and B. The default is `training_datasets(config)`. Image files are loaded by at
            most as many worker processes as there are processors. Other sources may wait rather than compute, so they
            always get `num_workers`.

    Attributes:
        batches_per_epoch: Number of full batches in the shorter domain.

    Raises:
        ConfigError, DataError: If the data are missing, or there are fewer than batch_size.
    """

    def __init__(self, config: Config, datasets: tuple[ImageDataset, ImageDataset] | None = None) -> None:
        self.datasets = datasets or training_datasets(config)
        self.batch_size = config.batch_size
        self.seed = config.seed
        self.paired = config.pairs != "unpaired"
        only_files = all(isinstance(dataset.source, FileSource) for dataset in self.datasets)
        self.num_workers = min(config.num_workers, workers.usable_processors()) if only_files else config.num_workers
        self.batches_per_epoch = min(len(dataset) for dataset in self.datasets) // self.batch_size
        if self.batches_per_epoch == 0:
            counts = " and ".join(str(len(dataset)) for dataset in self.datasets)
            raise DataError(
                f"batch_size is {self.batch_size} but the domains have {counts} training images: "
                "add images or lower batch_size."
            )

    def batches(
        self,
        start: int = 0,
        notify: Callable[[str], None] | None = None,
        positions: Sequence[int] | None = None,
    ) -> Background[Batch]:
        """Return an infinite iterator over batches `start`, `start` + 1, ... Earlier batches are not loaded.

        A batch is (images of A, images of B), both (N, C, H, W) float32 in [-1, 1], in pinned memory if CUDA is
        available. Batches are loaded in a thread, or by worker processes if there are any. The method `ready` of the
        iterator waits for the next batch with a timeout, and `close` ends its thread and processes, even if they hang.

        Args:
            start: Number of the first batch.
            notify: Function that is called once with a message for the user if there is too little shared memory.
            positions: Positions in each batch of the pairs to load, or None for all.

        Raises:
            DataError: By `next`, if an image cannot be used or a worker process was killed.
            ValueError: If `start` is negative.
        """
        if start < 0:
            raise ValueError(f"expected start >= 0, got {start}")
        processes: list[BaseProcess] = []
        gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
        return Background(self._load(start, gpu, notify, processes, positions), lambda: workers.end(processes))

    def _load(
        self,
        start: int,
        gpu: int | None,
        notify: Callable[[str], None] | None,
        processes: list[BaseProcess],
        positions: Sequence[int] | None,
    ) -> Generator[Batch, None, None]:
        """Load batches in the calling thread, which must not be the main thread.

        In the main thread, torch would install a handler of SIGCHLD, which raises in the middle of any code.

        Args:
            start: Number of the first batch.
            gpu: GPU to pin memory for. New threads would otherwise use the first GPU.
            notify: See `batches`.
            processes: List that the worker processes are appended to.
            positions: See `batches`.
        """
        if gpu is not None:
            torch.cuda.set_device(gpu)
        loader = _Loader(
            _Pairs(*self.datasets, paired=self.paired),
            batch_sampler=_Positions(self, start, positions),
            num_workers=self.num_workers,
            collate_fn=_stack,
            worker_init_fn=workers.start,
            pin_memory=gpu is not None,
            # The loader draws a random number when it starts, which must not come from the global generator.
            generator=torch.Generator(),
        )
        loaded: Iterator[Any] | None = None
        try:
            loaded = iter(loader)
            processes += getattr(loaded, "_workers", ())
            for batch in loaded:
                if isinstance(batch, DataError):
                    raise batch
                if isinstance(batch, _Unshared):
                    if notify is not None:
                        notify(batch.explanation())
                        notify = None
                    batch = batch.tensors(pin=gpu is not None)
                yield batch
        except (RuntimeError, EOFError, OSError) as error:
            explained = workers.explain_failure(error, processes) if self.num_workers else None
            if explained is None:
                raise
            raise explained from error
        finally:
            if processes:
                # A traceback may keep the loader alive, so its workers are ended here. torch raises again if it notices
                # the death of a worker only now.
                with suppress(RuntimeError):
                    cast(Any, loaded)._shutdown_workers()


class _Positions(Sampler[list[_Position]]):
    """An infinite sampler of the pairs of each batch, or of some of them, from batch `start`."""

    def __init__(self, pairs: TrainingPairs, start: int, chosen: Sequence[int] | None = None) -> None:
        self.pairs = pairs
        self.start = start
        self.chosen = range(pairs.batch_size) if chosen is None else chosen

    def __iter__(self) -> Iterator[list[_Position]]:
        pairs = self.pairs
        epoch, first = divmod(self.start, pairs.batches_per_epoch)
        while True:
            order_a, order_b = (
                torch.randperm(len(dataset), generator=named_generator("shuffle", pairs.seed, dataset.stream, epoch))
                for dataset in pairs.datasets
            )
            for batch in range(first, pairs.batches_per_epoch):
                numbers = [batch * pairs.batch_size + k for k in self.chosen]
                yield [_Position(epoch, int(order_a[number]), int(order_b[number])) for number in numbers]
            epoch, first = epoch + 1, 0


class _Pairs(Dataset[tuple[Tensor, Tensor] | DataError]):
    """A dataset of pairs of images, one of each domain.

    A DataError is returned as a value: if raised, it would reach the user inside the traceback of a worker.
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
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return DataError(
                f"not enough memory to load {printable(self.a.label(position.index_a))} and "
                f"{printable(self.b.label(position.index_b))} ({first_line(error)}): lower new_size, the crop size, "
                "batch_size or num_workers."
            )

    def _pair(self, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        a, b = ((x.label(index), x.channels, x.values) for x in (self.a, self.b))
        if a == b:  # halves of one file
            whole = self.a.decode_whole(index, epoch)
            image_a, image_b = self.a.take_half(whole, index), self.b.take_half(whole, index)
        else:
            image_a, image_b = self.a.decode(index, epoch), self.b.decode(index, epoch)
        pairs = ((image_a, self.a), (image_b, self.b))
        shapes = [resized_shape(x.shape[1], x.shape[2], dataset.size) for x, dataset in pairs]
        if shapes[0] != shapes[1]:
            raise DataError(differing_sizes(self.a.label(index), shapes[0], self.b.label(index), shapes[1]))
        return self.a.transform(image_a, index, epoch), self.b.transform(image_b, index, epoch)


class _Unshared(NamedTuple):
    """A batch that is sent through a pipe, and the reason why shared memory did not accept it."""

    a: np.ndarray
    b: np.ndarray
    reason: str

    def tensors(self, pin: bool) -> Batch:
        a, b = torch.from_numpy(self.a), torch.from_numpy(self.b)
        return (a.pin_memory(), b.pin_memory()) if pin else (a, b)

    def explanation(self) -> str:
        size = (self.a.nbytes + self.b.nbytes) / 1e6
        return (
            f"Note: shared memory (/dev/shm) has no space for another batch of {size:.3g} MB ({self.reason}), so "
            "worker processes send batches through pipes, which is slower. Increase its size (docker run "
            "--shm-size=1g), or lower num_workers or batch_size."
        )


def _stack(items: list[tuple[Tensor, Tensor] | DataError]) -> Batch | _Unshared | DataError:
    pairs = []
    for item in items:
        if isinstance(item, DataError):
            return item
        pairs.append(item)
    a, b = (list(images) for images in zip(*pairs, strict=True))
    if get_worker_info() is None:
        return torch.stack(a), torch.stack(b)
    try:
        # Copies directly into shared memory. torch would do it later in another thread, where errors are lost.
        return default_collate(a), default_collate(b)
    except RuntimeError as error:  # no space, or too many open files
        return _Unshared(torch.stack(a).numpy(), torch.stack(b).numpy(), first_line(error))


class _Loader(DataLoader[Any]):
    """A DataLoader without a warning about the number of workers, which `TrainingPairs` limits."""

    def check_worker_number_rationality(self) -> None:
        """Skip the check."""
