"""The endless stream of training batches."""

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
from fastmunit.data.datasets import FileSource, ImageDataset, differing_sizes, training_datasets
from fastmunit.data.seeding import named_generator
from fastmunit.data.transforms import resized_shape
from fastmunit.errors import DataError
from fastmunit.files import shown
from fastmunit.memory import first_line, is_out_of_memory

Batch = tuple[Tensor, Tensor]


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
        config: data keys, sizes, batch_size, num_workers and seed.
        datasets: what `training_datasets` gives, its default. Files are loaded by as many processes as this machine has
            processors at most; images of a program by `num_workers`, as they may wait rather than compute.

    Attributes:
        batches_per_epoch: batches until the shorter domain is used up.

    Raises:
        ConfigError, DataError: the data are missing, or fewer than batch_size.
    """

    def __init__(self, config: Config, datasets: tuple[ImageDataset, ImageDataset] | None = None) -> None:
        self.datasets = datasets or training_datasets(config)
        self.batch_size = config.batch_size
        self.seed = config.seed
        self.paired = config.pairs != "unpaired"
        of_files = all(isinstance(dataset.source, FileSource) for dataset in self.datasets)
        self.num_workers = min(config.num_workers, workers.usable_processors()) if of_files else config.num_workers
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
        tell: Callable[[str], None] | None = None,
        positions: Sequence[int] | None = None,
    ) -> Background[Batch]:
        """Return batches `start`, `start` + 1, ... without end; skipped batches are not loaded.

        Each is (images of A, images of B), both (N, C, H, W) float32 in [-1, 1], in pinned memory where CUDA is there.
        They are loaded in a thread or, with workers, in processes: `ready` of the result waits for the next one for a
        limited time. Closing it ends its thread and processes, also those that hang.

        Args:
            start: Number of the first batch.
            tell: Called once with a sentence for the user when there is too little shared memory.
            positions: Which pairs of each batch to load; None for all.

        Raises:
            DataError: By `next`: an image cannot be used, or a worker process was killed.
            ValueError: `start` is negative.
        """
        if start < 0:
            raise ValueError(f"start is {start}; batches are counted from 0")
        processes: list[BaseProcess] = []
        gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
        return Background(self._load(start, gpu, tell, processes, positions), lambda: workers.end(processes))

    def _load(
        self,
        start: int,
        gpu: int | None,
        tell: Callable[[str], None] | None,
        processes: list[BaseProcess],
        positions: Sequence[int] | None,
    ) -> Generator[Batch, None, None]:
        """Load batches in the calling thread, which is not the main one.

        torch's handler of SIGCHLD, which raises an error wherever the main thread is, is set in the main thread only.

        Args:
            start: Number of the first batch.
            gpu: GPU to pin memory for, which is otherwise the first one in each new thread.
            tell: See `batches`.
            processes: Worker processes are added to it.
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
            # The loader draws a number at its start: not from the global generator.
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
                    if tell is not None:
                        tell(batch.explanation())
                        tell = None
                    batch = batch.tensors(pin=gpu is not None)
                yield batch
        except (RuntimeError, EOFError, OSError) as error:
            explained = workers.explain_failure(error, processes) if self.num_workers else None
            if explained is None:
                raise
            raise explained from error
        finally:
            if processes:
                # A traceback may hold the loader, so it is ended here. torch raises a second time, wherever the program
                # is, when it hears of a death only now.
                with suppress(RuntimeError):
                    cast(Any, loaded)._shutdown_workers()


class _Positions(Sampler[list[_Position]]):
    """Positions of the pairs of each batch, or of some of them, from batch `start` on, without end."""

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
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return DataError(
                f"there is too little memory to load {shown(self.a.label(position.index_a))} and "
                f"{shown(self.b.label(position.index_b))} ({first_line(error)}): lower new_size, the crop size, "
                "batch_size or num_workers."
            )

    def _pair(self, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        in_one = self.a.label(index) == self.b.label(index) and self.a.channels == self.b.channels
        if in_one:
            image = self.a.decode_whole(index)
            a, b = self.a.take_half(image, index), self.b.take_half(image, index)
        else:
            a, b = self.a.decode(index), self.b.decode(index)
        shapes = [resized_shape(x.shape[1], x.shape[2], of.size) for x, of in ((a, self.a), (b, self.b))]
        if shapes[0] != shapes[1]:
            raise DataError(differing_sizes(self.a.label(index), shapes[0], self.b.label(index), shapes[1]))
        return self.a.transform(a, index, epoch), self.b.transform(b, index, epoch)


class _Unshared(NamedTuple):
    """A batch that goes through a pipe, as shared memory does not take it for this reason."""

    a: np.ndarray
    b: np.ndarray
    reason: str

    def tensors(self, pin: bool) -> Batch:
        a, b = torch.from_numpy(self.a), torch.from_numpy(self.b)
        return (a.pin_memory(), b.pin_memory()) if pin else (a, b)

    def explanation(self) -> str:
        size = (self.a.nbytes + self.b.nbytes) / 1e6
        return (
            f"Note: shared memory (/dev/shm) does not take another batch of {size:.3g} MB ({self.reason}), so worker "
            "processes send batches through pipes, which is slower. Give it more room (docker run --shm-size=1g), or "
            "lower num_workers or batch_size."
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
        # Straight into shared memory, and here: torch would move it there in another thread, where errors are lost.
        return default_collate(a), default_collate(b)
    except RuntimeError as error:  # no room, or no more files may be open
        return _Unshared(torch.stack(a).numpy(), torch.stack(b).numpy(), first_line(error))


class _Loader(DataLoader[Any]):
    """A DataLoader that warns of no number of workers: `TrainingPairs` says when they may be more than processors."""

    def check_worker_number_rationality(self) -> None:
        """Say nothing."""
