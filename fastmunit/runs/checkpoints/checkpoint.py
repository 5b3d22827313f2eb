"""Snapshots: written so that a crash at any moment leaves a complete one, read back to go on exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, TrainingError
from fastmunit.files import load_tensors, shown
from fastmunit.runs.checkpoints import resume_state
from fastmunit.runs.checkpoints.run_folder import RunFolder, remove
from fastmunit.systems import registry
from fastmunit.systems.base import System
from fastmunit.systems.parts import public_checkpoint, weights

# Keys of gen and dis that do not decide which weights there are or what they mean.
_FREE_NETWORK_KEYS = frozenset({"dis.gan_type"})
_OPTIMIZER_KEYS = frozenset({"lr", "lr_policy", "step_size", "gamma", "beta1", "beta2", "weight_decay"})
_PLACE_KEYS = frozenset({"num_workers", "max_iter", "log_iter", "image_save_iter", "image_display_iter"})
_PLACE_KEYS |= {"snapshot_save_iter", "max_pixels"}


def save(
    trainer: System,
    folder: RunFolder,
    iterations: int,
    seconds: float,
    images: Mapping[str, Mapping[str, Any]],
    keep: int | None = None,
) -> None:
    """Write a snapshot: exact-resume state, generators, discriminators and, last, the optimizers as the commit mark.

    The state has the digests of the other files, so that damage and mix-ups are found when they are loaded.

    Args:
        trainer: the system after `iterations` iterations.
        folder: where to write.
        iterations: iterations done; the number in the file names.
        seconds: training time so far.
        images: `resume_state.fingerprint` of the training images.
        keep: how many snapshots to keep; None keeps all, as the public trainer does.

    Raises:
        TrainingError: a weight is NaN or infinite; nothing is written.
        FastmunitError: a file cannot be written; earlier snapshots are untouched.
    """
    _require_finite_weights(trainer, iterations)
    trainer.save(folder.checkpoints, iterations - 1, resume_state.capture(trainer, iterations, seconds, images))
    if keep is not None:
        prune(folder, iterations, keep)


def prune(folder: RunFolder, committed: int, keep: int) -> None:
    """Remove all but the newest `keep` snapshots up to `committed`, the one that optimizer.pt belongs to."""
    for number in [n for n in public_checkpoint.numbers(folder.checkpoints, "gen") if n <= committed][:-keep]:
        _remove(folder, number)


def discard_uncommitted(folder: RunFolder, committed: int) -> None:
    """Remove what a killed save left of snapshots later than `committed`: the public trainer would resume from it.

    Those without our exact-resume state, which a save writes first, are another program's and stay.
    """
    for number in public_checkpoint.numbers(folder.checkpoints, "state"):
        if number > committed:
            _remove(folder, number)


def resume(
    trainer: System, folder: RunFolder, config: Config, previous: Config, images: Mapping[str, Mapping[str, Any]]
) -> tuple[int, float, list[str]]:
    """Put the newest complete snapshot back, random streams included: call it last before training.

    Args:
        trainer: freshly built from `config`, on its device.
        folder: the run to continue.
        config: what to train with from now on.
        previous: what the snapshot was trained with.
        images: `resume_state.fingerprint` of the training images from now on.

    Returns:
        Iterations done, training seconds so far, and sentences for the user about what is not exact.

    Raises:
        CheckpointError: there is no complete snapshot, or it does not fit `config`.
    """
    require_same_networks(config, previous)
    iterations = trainer.resume(folder.checkpoints)
    changed = {change.key for change in differences(config, previous)}
    _apply_optimizer_changes(trainer, config, previous, changed)
    path = folder.state(iterations)
    if not path.is_file():
        note = (
            f"{path.name} is missing (a run of the public trainer has none): weights, optimizers and schedule "
            "continue, random styles start anew, so the run is not bit for bit the uninterrupted one."
        )
        return iterations, 0.0, [note]
    schedule = not changed & _OPTIMIZER_KEYS
    seconds, notes = resume_state.restore(trainer, load_tensors(path), iterations, images, schedule=schedule)
    return iterations, seconds, notes


def load_initial_weights(
    trainer: System, gen: str | os.PathLike[str] | None, dis: str | os.PathLike[str] | None
) -> None:
    """Start from trained networks: load those of a gen_*.pt (or ema_*.pt) and of a dis_*.pt, or of a whole trainer.

    Optimizers, schedules and random streams stay those of a new run. Averages start at the weights that are loaded.

    Args:
        trainer: freshly built.
        gen: file with generators; None keeps the random ones.
        dis: file with discriminators; None keeps the random ones.

    Raises:
        CheckpointError: a file does not fit `trainer`, is damaged, or has weights that are NaN or infinite.
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
                        f"{shown(path)}: {key} of {name!r} is NaN or infinite: its run had failed; use an earlier "
                        "snapshot."
                    )
    if gen is not None or dis is not None:  # so that resuming the snapshot of iteration 0 has the same averages
        trainer.update_averages()


class Change:
    """One configuration key whose value differs between two runs.

    Attributes:
        key: "gen.dim" for nested ones.
        alters_training: whether the run computes something else than it would have without the change.
    """

    def __init__(self, key: str, before: object, after: object, alters_training: bool) -> None:
        self.key, self.before, self.after, self.alters_training = key, before, after, alters_training

    def __str__(self) -> str:
        return f"{self.key} {self.before} → {self.after}"


def differences(config: Config, previous: Config) -> list[Change]:
    """Keys whose values differ, "gen.dim" for nested ones; options that are not set count with their defaults."""
    before, after = _flat(previous), _flat(config)
    keys = [*after, *(key for key in before if key not in after)]
    place = _PLACE_KEYS - {"max_iter"} if config.lr_policy == "linear" else _PLACE_KEYS  # that schedule ends there
    changed = [key for key in keys if before.get(key) != after.get(key)]
    return [Change(key, before.get(key), after.get(key), key not in place) for key in changed]


def require_same_networks(config: Config, previous: Config) -> None:
    """Check that weights trained with `previous` fit `config`.

    Raises:
        CheckpointError: a key that shapes the networks differs.
    """
    free = _FREE_NETWORK_KEYS | {f"options.{name}" for name in registry.system_of(config).free_options}
    fatal = [
        str(change)
        for change in differences(config, previous)
        if change.key.startswith(("system", "options", "gen.", "dis.", "input_dim_")) and change.key not in free
    ]
    if fatal:
        raise CheckpointError(
            f"the run cannot continue with other networks ({'; '.join(fatal)}): undo that change, or start a new run "
            "in another --output folder."
        )


def _remove(folder: RunFolder, number: int) -> None:
    for kind in ("dis", "gen", "ema", "state"):  # the state last: it marks the others as ours
        remove(public_checkpoint.snapshot_path(folder.checkpoints, kind, number))


def _flat(config: Config) -> dict[str, object]:
    flat: dict[str, object] = {}
    options = registry.system_of(config).check(config).model_dump()
    for key, value in {**config.to_dict(), "options": options}.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


def _apply_optimizer_changes(trainer: System, config: Config, previous: Config, changed: set[str]) -> None:
    """Adam's state file brings back the old settings; the ones that the user changed win."""
    for optimizer in trainer.optimizers().values():
        for group in optimizer.param_groups:
            if "lr" in changed:
                group["lr"] *= config.lr / previous.lr
                group["initial_lr"] = config.lr
            if changed & {"beta1", "beta2"}:
                group["betas"] = (config.beta1, config.beta2)
            if "weight_decay" in changed:
                group["weight_decay"] = config.weight_decay
    if "lr" in changed:
        for scheduler in trainer.schedulers().values():
            if scheduler is not None:
                scheduler.base_lrs = [config.lr for _ in scheduler.base_lrs]


def _require_finite_weights(trainer: System, iterations: int) -> None:
    for name, parameter in trainer.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingError(f"iteration {iterations}: weight {name} is NaN or infinite.")


def seconds(folder: RunFolder, iterations: int) -> float:
    """Training time of a snapshot, in seconds.

    Raises:
        CheckpointError: it has no exact-resume state, or a damaged one.
    """
    path = folder.state(iterations)
    content = load_tensors(path)
    found = content.get("seconds") if isinstance(content, Mapping) else None
    if not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise CheckpointError(f"{shown(path)} has no training time: use another snapshot.")
    return float(found)


def generators(folder: RunFolder) -> Path | None:
    """The gen_*.pt to translate with, or the ema_*.pt beside it: of the newest complete snapshot, else the newest.

    Raises:
        CheckpointError: the run has averages, and their file is gone.
    """
    try:
        newest = latest(folder)
    except CheckpointError:  # translating needs no optimizer.pt and no dis_*.pt
        newest = None
    if newest is None:
        newest = max(public_checkpoint.numbers(folder.checkpoints, "gen"), default=None)
    if newest is None:
        return None
    averaged = public_checkpoint.snapshot_path(folder.checkpoints, "ema", newest)
    if averaged.is_file():
        return averaged
    last = public_checkpoint.snapshot_path(folder.checkpoints, "gen", newest)
    if public_checkpoint.belongs(folder.checkpoints, newest, "ema"):
        raise CheckpointError(
            f"{shown(averaged)} is missing, whose averaged weights this run translates with: put it back, or give "
            f"{last.name} itself as the checkpoint."
        )
    return last


def latest(folder: RunFolder) -> int | None:
    """Iterations of the newest complete snapshot in `folder`; None for a run that has none yet.

    Its first save may have been cut short.

    Raises:
        CheckpointError: checkpoint files are there but training cannot go on from them; a run that starts from the
            beginning would in time overwrite them.
    """
    if (folder.checkpoints / public_checkpoint.OPTIMIZER_FILE).exists() or len(
        public_checkpoint.snapshots(folder.checkpoints)
    ) > 1:
        newest = public_checkpoint.latest(folder.checkpoints)
        if newest is not None:
            return newest
    foreign = _foreign(folder)
    if foreign:
        names = ", ".join(shown(path.relative_to(folder.root)) for path in foreign[:3])
        more = ", …" if len(foreign) > 3 else ""
        raise CheckpointError(
            f"{shown(folder.root)} has {names}{more}, but not all of the gen_*.pt, dis_*.pt and optimizer.pt of one "
            "snapshot, so there is nothing to resume: put the missing files back, or start a new run from trained "
            "weights with --init FILE and another --output."
        )
    return None


def _foreign(folder: RunFolder) -> list[Path]:
    """Return the checkpoint files other than what a first save leaves when it is cut short.

    A save stages all its files, then renames them: the state first, optimizer.pt last. Where it was cut short, the
    staged optimizer.pt is still there. Without it, weights beside a state belong to a snapshot that lost its
    optimizer.pt.
    """
    numbers = public_checkpoint.numbers(folder.checkpoints, "state")
    cut_short = len(numbers) == 1 and any(folder.checkpoints.glob(f".{public_checkpoint.OPTIMIZER_FILE}.*.partial"))
    kinds = ("state", "ema", "gen", "dis") if cut_short else ("state",)
    ours = {public_checkpoint.snapshot_path(folder.checkpoints, kind, number) for number in numbers for kind in kinds}
    found = sorted([*folder.checkpoints.glob("*.pt"), *folder.root.glob("*.pt")])
    return [path for path in found if path not in ours and not path.name.startswith(".")]
