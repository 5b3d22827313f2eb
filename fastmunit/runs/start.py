"""Starting and resuming a training."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext

import torch

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data.auto_range import resolved
from fastmunit.data.sources import ImageSources, given_images
from fastmunit.data.validate import check as check_data
from fastmunit.data.verification import verify as verify_data
from fastmunit.errors import CheckpointError, ConfigError, DataError, FastmunitError
from fastmunit.runs.callbacks import Callback, Callbacks
from fastmunit.runs.checkpoints import checkpoint
from fastmunit.runs.checkpoints.run_folder import RunFolder
from fastmunit.runs.device import resolve_device
from fastmunit.runs.evaluator import Evaluator
from fastmunit.runs.failures import explained
from fastmunit.runs.loop import Session
from fastmunit.runs.ranks import Ranks
from fastmunit.runs.result import TrainingResult
from fastmunit.systems import registry


@distributed.announces_failure
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
    timeout: float | None = None,
) -> TrainingResult:
    """Train the system of `config` and write checkpoints, logs, sample grids and a report into a run folder.

    Each iteration is a call of `System.step`. SIGINT, SIGTERM and the time limit end the training with a checkpoint,
    after the current iteration or while it waits for images that do not arrive. A resumed run computes the same weights
    as an uninterrupted one (bit for bit on the CPU with the same number of threads, and on a GPU with deterministic
    algorithms). With `eval_iter`, evaluations during the training change nothing in it; see docs/how_to/evaluation.md.

    If torchrun has started several processes, they train together: each computes its share of every batch, and only the
    first one writes files and calls callbacks. A process that torchrun has restarted resumes.

    Args:
        config: Configuration of the run. Its `max_iter` includes iterations before a resume.
        output: The run folder.
        data: Images that replace those named in `config`: a mapping of "trainA", "trainB" and, optionally, "testA" and
            "testB" to `fastmunit.data.ImageSource`s. With `pairs: folders` image k of A and image k of B are a pair;
            with `pairs: side_by_side` the names are "train" and "test". Without test images, the test sample grids show
            the first training images. Give the same images when you resume.
        callbacks: Callbacks that follow the run. See `Callback`.
        resume: If True, continue the run in `output`. A run without a checkpoint starts from the beginning.
        device: Device name; see `resolve_device`.
        time_limit: Seconds after which the run ends, counted from this call; None for no limit.
        keep: Number of checkpoints to keep besides the best one; None keeps all.
        allow_in_output: Names that may exist in a new run's folder.
        verify: If True, decode every image before the training. Otherwise only their headers are read.
        init: Trained generators for a new run: a gen_*.pt, ema_*.pt or model.safetensors file, or the state dict of
            a whole trainer. Optimizers and random states are those of any new run. A checkpoint of iteration 0 is
            written first.
        init_dis: Trained discriminators for a new run: a dis_*.pt file, or the state dict of a whole trainer.
        timeout: With several processes, seconds that one waits for another before it ends with an error; None for
            `distributed.DEFAULT_TIMEOUT`.

    Raises:
        FastmunitError: If data, configuration, device or output folder cannot be used; most such errors are raised
            before the training starts. Also if a loss or weight is NaN or infinite, or memory runs out; the last good
            checkpoint is kept.
        CheckpointError: If `init` or `init_dis` does not fit the configuration, or there is a checkpoint to resume
            instead; nothing is written.
        RankError: If another process has ended, hangs or has other weights.
    """
    started = time.monotonic()
    place = distributed.setup(timeout, device) if distributed.launched() else resolve_device(device)
    ranks = Ranks()
    hooks = Callbacks(callbacks if ranks.main else ())
    folder = RunFolder(output)
    # Each machine counts its restarts for itself.
    restarted = not distributed.all_agree(not _restarted(folder))
    resume = not distributed.all_agree(not (resume or restarted))
    if not resume:
        distributed.on_first(lambda: _require_unused(folder, allow_in_output))
    system = registry.system_of(config)
    system.check(config)
    system.check_training(config)
    distributed.require_divisible(config.batch_size, system.batch_parts(config))
    if config.cuda_graph is True and place.type != "cuda":
        raise ConfigError(f"cuda_graph: true needs a CUDA GPU, not device {place}: set cuda_graph to false.")
    if config.parallel_streams is True and place.type != "cuda":
        raise ConfigError(f"parallel_streams: true needs a CUDA GPU, not device {place}: set it to auto.")
    if config.eval_patience is not None and config.eval_iter is None:
        raise ConfigError("eval_patience counts evaluations, and there are none: set eval_iter, or unset it.")
    given = given_images(config, data)
    config, range_notes = resolved(config, _previous_config(folder, config) if resume else None, given, hooks.indexing)
    for note in range_notes:
        hooks.message(note)
    try:
        notes = check_data(config, given, system.any_size, hooks.indexing)
    except DataError:
        if verify:  # it names all damaged images, and the check only the first few of one folder
            verify_data(config, hooks.verifying, given)
        raise
    for note in notes:
        hooks.message(note)
    if verify:
        verify_data(config, hooks.verifying, given)
    with explained(place, lambda: "No iteration was trained."):
        torch.manual_seed(config.seed)
        trainer = system(config)
        checkpoint.load_initial_weights(trainer, init, init_dis)
        trainer = trainer.to(place)
        for note in _without_effect(config):
            hooks.message(note)
        evaluator = None if config.eval_iter is None else Evaluator(config, trainer, given, hooks.message)
        distributed.on_first(lambda: _create(folder))
        with folder.lock() if ranks.main else nullcontext():
            previous = _previous_config(folder, config) if resume else config
            resume_at = _checkpoint_to_resume(folder, hooks) if resume else None
            initialized = (init is not None or init_dis is not None) and not restarted
            if initialized and resume_at is not None:
                raise CheckpointError(
                    f"{folder.root} has a checkpoint of iteration {resume_at:,} to resume, and initial weights are for "
                    "a new run: leave out --init and --init-dis, or give another --output."
                )
            session = Session(config, folder, trainer, place, ranks, keep, hooks, started, time_limit, given, evaluator)
            session.prepare(previous, resume_at, initialized)
            return session.run()


def _without_effect(config: Config) -> list[str]:
    """Return a line about each key that is set and has no effect without another one."""
    defaults = {name: field.default for name, field in Config.model_fields.items()}
    missing = {
        ("eval_metrics", "eval_iter"): (config.eval_iter is None, "this run has no evaluations"),
        ("r1_iter", "r1_w"): (config.r1_w == 0, "this run has no R1 penalty"),
        ("dis_augment_ramp", "dis_augment_target"): (
            config.dis_augment_target is None,
            "the probability of dis_augment does not change",
        ),
    }
    return [
        f"{key} is set, but {needed} is not: {outcome}."
        for (key, needed), (absent, outcome) in missing.items()
        if absent and getattr(config, key) != defaults[key]
    ]


def _restarted(folder: RunFolder) -> bool:
    """Return True if torchrun has restarted this process after it had begun this run, which was not refused."""
    place = folder.root.absolute()
    if distributed.remembered(f"begun {place}"):
        return True
    return distributed.restarted() and not distributed.remembered(f"refused {place}")


def _require_unused(folder: RunFolder, allowed: Collection[str]) -> None:
    try:
        folder.require_unused(allowed)
    except FastmunitError:  # after which torchrun would restart the process, and the restart would resume
        distributed.remember(f"refused {folder.root.absolute()}")
        raise


def _create(folder: RunFolder) -> None:
    folder.create()
    distributed.remember(f"begun {folder.root.absolute()}")


def _previous_config(folder: RunFolder, config: Config) -> Config:
    return Config.load(folder.config) if folder.config.exists() else config


def _checkpoint_to_resume(folder: RunFolder, hooks: Callback) -> int | None:
    iterations = checkpoint.resumable(folder)
    if iterations is None:
        hooks.message(f"{folder.root} has no complete checkpoint yet: starting from the beginning.")
    return iterations
