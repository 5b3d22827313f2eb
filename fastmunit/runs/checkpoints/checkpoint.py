"""Checkpoints of a run: writing them safely, choosing one, and resuming exactly.

A checkpoint consists of the public trainer's files (`systems.parts.public_checkpoint`, which decides when they are
complete) and of the state for exact resume (`resume_state`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, TrainingError
from fastmunit.files import load_tensors, printable
from fastmunit.runs.checkpoints import resume_state
from fastmunit.runs.checkpoints.best import read_best
from fastmunit.runs.checkpoints.config_changes import differences, require_same_networks
from fastmunit.runs.checkpoints.run_folder import RunFolder, remove
from fastmunit.systems.base import System
from fastmunit.systems.parts import public_checkpoint, weights
from fastmunit.systems.parts.lr_schedule import warmup_factor

Which = Literal["newest", "best"]
"""The choices of a checkpoint of a run."""

_OPTIMIZER_KEYS = frozenset(
    {"lr", "lr_dis", "lr_policy", "lr_warmup", "step_size", "gamma", "beta1", "beta2", "weight_decay"}
)


def save(
    trainer: System,
    folder: RunFolder,
    iterations: int,
    seconds: float,
    images: Mapping[str, Mapping[str, Any]],
    keep: int | None = None,
) -> None:
    """Write a checkpoint: exact-resume state, generators, discriminators and, last, optimizers as the commit mark.

    The state contains digests of the other files, so that loading detects damaged or mixed-up files.

    Args:
        trainer: The system after `iterations` iterations.
        folder: The run folder.
        iterations: Iterations done; the number in the file names.
        seconds: Training time so far.
        images: `resume_state.fingerprint` of the training images.
        keep: Number of checkpoints to keep besides the best one; None keeps all, as the public trainer does.

    Raises:
        TrainingError: If a weight is NaN or infinite; nothing is written.
        FastmunitError: If a file cannot be written; earlier checkpoints are untouched.
    """
    for name, parameter in trainer.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingError(f"iteration {iterations}: weight {name} is NaN or infinite.")
    trainer.save(folder.checkpoints, iterations - 1, resume_state.capture(trainer, iterations, seconds, images))
    if keep is not None:
        prune(folder, iterations, keep)


def prune(folder: RunFolder, committed: int, keep: int) -> None:
    """Remove all but the best and the newest `keep` checkpoints up to `committed`, which optimizer.pt belongs to."""
    best = read_best(folder)
    for number in [n for n in public_checkpoint.numbers(folder.checkpoints, "gen") if n <= committed][:-keep]:
        if best is None or number != best.iteration:
            _remove(folder, number)


def discard_uncommitted(folder: RunFolder, committed: int) -> None:
    """Remove incomplete checkpoints after `committed`, from a killed save: the public trainer would resume from them.

    Files without an exact-resume state, which a save writes first, belong to another program and stay.
    """
    for number in public_checkpoint.numbers(folder.checkpoints, "state"):
        if number > committed:
            _remove(folder, number)


def resume(
    trainer: System, folder: RunFolder, config: Config, previous: Config, images: Mapping[str, Mapping[str, Any]]
) -> tuple[int, float, list[str]]:
    """Restore the newest complete checkpoint, including the random states. Call it last before training.

    Args:
        trainer: The system, newly built from `config`, on its device.
        folder: The run folder.
        config: Configuration to train with from now on.
        previous: Configuration of the checkpoint.
        images: `resume_state.fingerprint` of the training images from now on.

    Returns:
        Iterations done, training time so far in seconds, and sentences for the user about inexact parts.

    Raises:
        CheckpointError: If there is no complete checkpoint, or it does not fit `config`.
    """
    require_same_networks(config, previous)
    iterations = trainer.resume(folder.checkpoints)
    changed = {change.key for change in differences(config, previous)}
    _apply_optimizer_changes(trainer, config, previous, changed, iterations)
    path = folder.state(iterations)
    if not path.is_file():
        note = (
            f"{path.name} is missing (the public trainer writes none): weights, optimizers and schedule continue, but "
            "random styles start anew, so the run is not bit for bit the uninterrupted one."
        )
        return iterations, 0.0, [note]
    schedule = not changed & _OPTIMIZER_KEYS
    seconds, notes = resume_state.restore(trainer, load_tensors(path), iterations, images, schedule=schedule)
    return iterations, seconds, notes


def load_initial_weights(
    trainer: System, gen: str | os.PathLike[str] | None, dis: str | os.PathLike[str] | None
) -> None:
    """Load trained networks for a new run, from gen_*.pt or ema_*.pt and dis_*.pt, or from a whole trainer.

    Optimizers, schedules and random states stay those of a new run. Weight averages start at the loaded weights.

    Args:
        trainer: The system, newly built.
        gen: File with generators; None keeps the random ones.
        dis: File with discriminators; None keeps the random ones.

    Raises:
        CheckpointError: If a file does not fit `trainer`, is damaged, or has weights that are NaN or infinite.
    """
    for path, networks, kind in ((gen, trainer.generators(), "gen"), (dis, trainer.discriminators(), "dis")):
        if path is None:
            continue
        public_checkpoint.verify_weights(path)
        weights.load_networks(path, networks, kind)
        for name, network in networks.items():
            for key, parameter in network.named_parameters():
                if not torch.isfinite(parameter).all():
                    raise CheckpointError(
                        f"{printable(path)}: {key} of {name!r} is NaN or infinite: its run had failed; use an earlier "
                        "checkpoint."
                    )
    if gen is not None or dis is not None:  # a resume from the checkpoint of iteration 0 has the same averages
        trainer.update_averages()


def resumable(folder: RunFolder) -> int | None:
    """Return the iterations of the checkpoint that a run resumes from; None if it has none yet.

    A run has none yet also after its first save was cut short.

    Raises:
        CheckpointError: If the folder has checkpoint files that training cannot continue from. A run that starts from
            the beginning would in time overwrite them.
    """
    has_optimizer = (folder.checkpoints / public_checkpoint.OPTIMIZER_FILE).exists()
    if has_optimizer or len(public_checkpoint.list_checkpoints(folder.checkpoints)) > 1:
        newest = public_checkpoint.latest(folder.checkpoints)
        if newest is not None:
            return newest
    foreign = _foreign(folder)
    if foreign:
        names = ", ".join(printable(path.relative_to(folder.root)) for path in foreign[:3])
        more = ", …" if len(foreign) > 3 else ""
        raise CheckpointError(
            f"{printable(folder.root)} has {names}{more}, but not all of the gen_*.pt, dis_*.pt and optimizer.pt of "
            "one checkpoint, so there is nothing to resume: put the missing files back, or start a new run from "
            "trained weights with --init FILE and another --output."
        )
    return None


def training_seconds(folder: RunFolder, iterations: int) -> float:
    """Return the training time of a checkpoint in seconds.

    Raises:
        CheckpointError: If it has no exact-resume state, or a damaged one.
    """
    path = folder.state(iterations)
    content = load_tensors(path)
    seconds = content.get("seconds") if isinstance(content, Mapping) else None
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise CheckpointError(f"{printable(path)} has no training time: use another checkpoint.")
    return float(seconds)


def generators(folder: RunFolder, which: Which = "newest") -> Path | None:
    """Return the file to translate with: ema_*.pt, else gen_*.pt, of a checkpoint; None if there is no checkpoint.

    Args:
        folder: The run folder.
        which: "newest" is the newest checkpoint, preferably a complete one, and "best" that which best.json names.

    Raises:
        CheckpointError: If the checkpoint has averages and their file is missing, or there is no best checkpoint.
    """
    number = _newest(folder) if which == "newest" else _best(folder)
    if number is None:
        return None
    averaged = public_checkpoint.checkpoint_path(folder.checkpoints, "ema", number)
    if averaged.is_file():
        return averaged
    last = public_checkpoint.checkpoint_path(folder.checkpoints, "gen", number)
    if public_checkpoint.belongs(folder.checkpoints, number, "ema"):
        raise CheckpointError(
            f"{printable(averaged)} is missing, but this run translates with averaged weights: put it back, or give "
            f"{last.name} itself as the checkpoint."
        )
    return last


def _newest(folder: RunFolder) -> int | None:
    try:
        newest = resumable(folder)
    except CheckpointError:  # translation needs no optimizer.pt and no dis_*.pt
        newest = None
    if newest is None:
        newest = max(public_checkpoint.numbers(folder.checkpoints, "gen"), default=None)
    return newest


def _best(folder: RunFolder) -> int:
    best = read_best(folder)
    if best is None:
        raise CheckpointError(
            f"{printable(folder.best)} does not exist: a run has a best checkpoint if it evaluates its translations "
            "(eval_iter). Use the newest one."
        )
    if best.iteration not in public_checkpoint.numbers(folder.checkpoints, "gen"):
        missing = public_checkpoint.checkpoint_path(folder.checkpoints, "gen", best.iteration)
        raise CheckpointError(
            f"{printable(missing)} is missing, and {folder.best.name} names it as the best: put it back, or use the "
            "newest checkpoint."
        )
    return best.iteration


def _remove(folder: RunFolder, number: int) -> None:
    for kind in ("dis", "gen", "ema", "state"):  # the state last: it marks the others as ours
        remove(public_checkpoint.checkpoint_path(folder.checkpoints, kind, number))


def _foreign(folder: RunFolder) -> list[Path]:
    """Return the checkpoint files that a first save which was cut short cannot have left.

    A save stages all its files, then renames them: the state first, optimizer.pt last. If it was cut short, the staged
    optimizer.pt is still there. Without it, weights next to a state belong to a checkpoint that lost its optimizer.pt.
    """
    numbers = public_checkpoint.numbers(folder.checkpoints, "state")
    cut_short = len(numbers) == 1 and any(folder.checkpoints.glob(f".{public_checkpoint.OPTIMIZER_FILE}.*.partial"))
    kinds = ("state", "ema", "gen", "dis") if cut_short else ("state",)
    ours = {public_checkpoint.checkpoint_path(folder.checkpoints, kind, number) for number in numbers for kind in kinds}
    files = sorted([*folder.checkpoints.glob("*.pt"), *folder.root.glob("*.pt")])
    return [path for path in files if path not in ours and not path.name.startswith(".")]


def _apply_optimizer_changes(
    trainer: System, config: Config, previous: Config, changed: set[str], iterations: int
) -> None:
    """Apply settings that the user changed: the optimizers' saved state has restored the old ones."""
    for name, optimizer in trainer.optimizers().items():
        lr, before = config.learning_rate(name), previous.learning_rate(name)
        for group in optimizer.param_groups:
            if lr != before:
                group["lr"] *= lr / before
                group["initial_lr"] = lr
            if previous.lr_warmup and not config.lr_warmup and config.lr_policy != "linear":
                group["lr"] /= warmup_factor(iterations, previous.lr_warmup)
            if changed & {"beta1", "beta2"}:
                group["betas"] = (config.beta1, config.beta2)
            if "weight_decay" in changed:
                group["weight_decay"] = config.weight_decay
        scheduler = trainer.schedulers()[name]
        if scheduler is not None and lr != before:
            scheduler.base_lrs = [lr for _ in scheduler.base_lrs]
