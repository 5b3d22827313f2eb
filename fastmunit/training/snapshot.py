"""Snapshots: written so that a crash at any moment leaves a complete one, read back to go on exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, TrainingError
from fastmunit.files import load_tensors, save_tensors
from fastmunit.models import checkpoint, registry
from fastmunit.models.system import System
from fastmunit.training import state
from fastmunit.training.run_folder import RunFolder, remove

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

    Args:
        trainer: the system after `iterations` iterations.
        folder: where to write.
        iterations: iterations done; the number in the file names.
        seconds: training time so far.
        images: `state.fingerprint` of the training images.
        keep: how many snapshots to keep; None keeps all, as the public trainer does.

    Raises:
        TrainingError: a weight is NaN or infinite; nothing is written.
        FastmunitError: a file cannot be written; earlier snapshots are untouched.
    """
    _require_finite_weights(trainer, iterations)
    save_tensors(state.capture(trainer, iterations, seconds, images), folder.state(iterations))
    trainer.save(folder.checkpoints, iterations - 1)
    if keep is not None:
        prune(folder, iterations, keep)


def prune(folder: RunFolder, committed: int, keep: int) -> None:
    """Remove all but the newest `keep` snapshots up to `committed`, the one that optimizer.pt belongs to."""
    for number in [n for n in _numbers(folder, "gen") if n <= committed][:-keep]:
        _remove(folder, number)


def discard_uncommitted(folder: RunFolder, committed: int) -> None:
    """Remove what a killed save left of snapshots later than `committed`: the public trainer would resume from it.

    Those without our exact-resume state, which a save writes first, are another program's and stay.
    """
    for number in _numbers(folder, "state"):
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
        images: `state.fingerprint` of the training images from now on.

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
    loaded = load_tensors(path)
    notes = state.restore(trainer, loaded, iterations, images, schedule=not changed & _OPTIMIZER_KEYS)
    return iterations, float(loaded["seconds"]), notes


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


def _numbers(folder: RunFolder, kind: str) -> list[int]:
    """Iteration counts, ascending, of the `kind` ("gen", "dis", "state") files."""
    names = (path.name for path in folder.checkpoints.glob(f"{kind}_*.pt"))
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(rf"{kind}_(\d{{8,}})\.pt", name)))


def _remove(folder: RunFolder, number: int) -> None:
    for kind in ("dis", "gen", "ema", "state"):  # the state last: it marks the others as ours
        remove(folder.checkpoints / f"{kind}_{number:08d}.pt")


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


def generators(folder: RunFolder) -> Path | None:
    """The gen_*.pt to translate with, or the ema_*.pt beside it: of the newest complete snapshot, else the newest."""
    try:
        newest = latest(folder)
    except CheckpointError:  # translating needs no optimizer.pt and no dis_*.pt
        newest = None
    if newest is None:
        newest = max(_numbers(folder, "gen"), default=None)
    if newest is None:
        return None
    averaged = checkpoint.snapshot_path(folder.checkpoints, "ema", newest)
    return averaged if averaged.is_file() else checkpoint.snapshot_path(folder.checkpoints, "gen", newest)


def latest(folder: RunFolder) -> int | None:
    """Iterations of the newest complete snapshot in `folder`; None when there is none.

    Raises:
        CheckpointError: snapshot files are there but cannot be used.
    """
    found = checkpoint.snapshots(folder.checkpoints)
    committed = (folder.checkpoints / checkpoint.OPTIMIZER_FILE).exists()
    if not committed and len(found) == 1 and folder.state(found[0]).exists():
        return None  # the process was killed during its very first save
    return checkpoint.latest(folder.checkpoints)
