"""Start or resume a training."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext

import torch

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data.sources import ImageSources, given_images
from fastmunit.data.validate import check as check_data
from fastmunit.data.verification import verify as verify_data
from fastmunit.errors import CheckpointError, ConfigError, DataError, FastmunitError
from fastmunit.runs.callbacks import Callback, Callbacks
from fastmunit.runs.checkpoints import checkpoint
from fastmunit.runs.checkpoints.run_folder import RunFolder
from fastmunit.runs.device import resolve_device
from fastmunit.runs.failures import explained
from fastmunit.runs.loop import Session, TrainingResult
from fastmunit.runs.ranks import Ranks, told_to_others
from fastmunit.systems import registry


@told_to_others
def train(
    config: Config,
    output: str | os.PathLike[str],
    *,
    data: ImageSources | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    device: str = "auto",
    time_limit: float | None = None,
    keep: int | None = None,
    allow_in_output: Collection[str] = (),
    verify: bool = False,
    init: str | os.PathLike[str] | None = None,
    init_dis: str | os.PathLike[str] | None = None,
    timeout: float = distributed.DEFAULT_TIMEOUT,
) -> TrainingResult:
    """Train the system of `config` and write snapshots, logs, sample grids and a report into one folder.

    Each iteration is `System.step`. SIGINT, SIGTERM and the time limit end training after the iteration in hand, or
    while it waits for images that do not come, with a snapshot. A resumed run computes the same weights as one that
    never stopped (bit for bit on the CPU with the same number of threads).

    Started by torchrun, the processes train together: each computes its share of every batch, and the first one alone
    writes and tells. A process that torchrun has started again resumes.

    Args:
        config: what to train; its `max_iter` counts resumed iterations too.
        output: the run folder.
        data: images in place of those that `config` names: a mapping of "trainA", "trainB" and, where there are some,
            "testA" and "testB" to `fastmunit.data.ImageSource`s. With `pairs: folders` image k of A and image k of B
            are a pair; with `pairs: side_by_side` the names are "train" and "test". Without test images the sample
            grids called test show the first training images. Give the same images when you resume.
        callbacks: are told how it goes; see `Callback`.
        resume: continue the run in `output`; one that has no snapshot yet starts from the beginning.
        device: see `resolve_device`.
        time_limit: seconds after which to end, counted from this call; None for no limit.
        keep: how many snapshots to keep; None keeps all.
        allow_in_output: names that may lie in a new run's folder already.
        verify: decode every image before starting; without it, no more than their headers are read.
        init: trained generators to start a new run from: a gen_*.pt or ema_*.pt, or the state dict of a whole trainer.
            Optimizers and random streams are those of any new run. A snapshot of iteration 0 is written first.
        init_dis: trained discriminators to start a new run from: a dis_*.pt, or the state dict of a whole trainer.
        timeout: with several processes, seconds that one waits for another before it ends with an error.

    Raises:
        FastmunitError: data, configuration, device or output folder cannot be used, found before training starts
            where it can be known; or a loss or weight is NaN or infinite, or memory runs out, with the last good
            snapshot kept.
        CheckpointError: `init` or `init_dis` does not fit the configuration, or there is a snapshot to resume instead;
            nothing is written.
        RankError: another process has ended, hangs or has other weights.
    """
    started = time.monotonic()
    place = distributed.setup(timeout, device) if distributed.launched() else resolve_device(device)
    ranks = Ranks()
    progress = Callbacks(callbacks if ranks.main else ())
    folder = RunFolder(output)
    # Each machine counts its restarts for itself.
    restarted = not distributed.all_agree(not _restarted(folder))
    resume = not distributed.all_agree(not (resume or restarted))
    if not resume:
        ranks.by_main(lambda: _require_unused(folder, allow_in_output))
    system = registry.system_of(config)
    system.check(config)
    distributed.require_divisible(config.batch_size, system.batch_parts(config))
    if config.cuda_graph is True and place.type != "cuda":
        raise ConfigError(f"cuda_graph: true needs a CUDA GPU, not device {place}: set cuda_graph to false.")
    given = given_images(config, data)
    try:
        notes = check_data(config, given)
    except DataError:
        if verify:  # which names all damaged images, where the check names the first few of one folder
            verify_data(config, progress.verifying, given)
        raise
    for note in notes:
        progress.message(note)
    if verify:
        verify_data(config, progress.verifying, given)
    with explained(place, lambda: "No iteration was trained."):
        torch.manual_seed(config.seed)
        trainer = system(config)
        checkpoint.load_initial_weights(trainer, init, init_dis)
        trainer = trainer.to(place)
        ranks.by_main(lambda: _create(folder))
        with folder.lock() if ranks.main else nullcontext():
            previous = _previous_config(folder, config) if resume else config
            resume_at = _snapshot_to_resume(folder, progress) if resume else None
            initialized = (init is not None or init_dis is not None) and not restarted
            if initialized and resume_at is not None:
                raise CheckpointError(
                    f"{folder.root} has a snapshot of iteration {resume_at:,} to resume, and initial weights are for "
                    "a new run: leave out --init and --init-dis, or give another --output."
                )
            session = Session(config, folder, trainer, place, ranks, keep, progress, started, time_limit, given)
            session.prepare(previous, resume_at, initialized)
            return session.run()


def _restarted(folder: RunFolder) -> bool:
    """Whether torchrun has started this process again after it had begun this run: not where it was refused."""
    place = folder.root.absolute()
    if distributed.remembered(f"begun {place}"):
        return True
    return distributed.restarted() and not distributed.remembered(f"refused {place}")


def _require_unused(folder: RunFolder, allowed: Collection[str]) -> None:
    try:
        folder.require_unused(allowed)
    except FastmunitError:  # which torchrun would try again, with what `--resume` allows
        distributed.remember(f"refused {folder.root.absolute()}")
        raise


def _create(folder: RunFolder) -> None:
    folder.create()
    distributed.remember(f"begun {folder.root.absolute()}")


def _previous_config(folder: RunFolder, config: Config) -> Config:
    return Config.load(folder.config) if folder.config.exists() else config


def _snapshot_to_resume(folder: RunFolder, progress: Callback) -> int | None:
    found = checkpoint.latest(folder)
    if found is None:
        progress.message(f"{folder.root} holds no complete snapshot yet: starting from the beginning.")
    return found
