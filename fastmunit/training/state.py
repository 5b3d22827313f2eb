"""Exact-resume state: what a run needs, beside the public checkpoint files, to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastmunit.data import ImageDataset
from fastmunit.errors import CheckpointError
from fastmunit.models.system import System

_FORMAT = 2


def fingerprint(datasets: Sequence[ImageDataset]) -> dict[str, dict[str, Any]]:
    """What identifies the training images of A and B: their count, and a SHA-256 of their names in order.

    Names are relative to the folder that holds them all, so that moved data are the same data.
    """
    found = {}
    for domain, dataset in zip(("A", "B"), datasets, strict=True):
        paths = [os.fspath(path) for path in dataset.paths]
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
        names = "\0".join(os.path.relpath(path, folder) for path in paths)
        found[domain] = {"count": len(paths), "names": hashlib.sha256(os.fsencode(names)).hexdigest()}
    return found


def capture(
    trainer: System, iterations: int, seconds: float, images: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Collect the state after `iterations` iterations; `images` is their `fingerprint`.

    Returns:
        A dict of tensors and plain types, so that it loads with `weights_only=True`: RNG states, what the system adds
        (`System.resume_state`), scheduler states, training time in seconds, what the training images were. The data
        position is the iteration count itself, and the learning rates are in optimizer.pt.
    """
    return {
        "format": _FORMAT,
        "iterations": iterations,
        "seconds": seconds,
        "images": {domain: dict(facts) for domain, facts in images.items()},
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "system": trainer.resume_state(),
        "schedulers": {name: _scheduler_state(scheduler) for name, scheduler in trainer.schedulers().items()},
    }


def restore(
    trainer: System,
    state: dict[str, Any],
    iterations: int,
    images: Mapping[str, Mapping[str, Any]],
    *,
    schedule: bool = True,
) -> list[str]:
    """Put a captured state back.

    Args:
        trainer: already resumed from the public files of the same snapshot.
        state: what `capture` returned.
        iterations: the snapshot's iteration count.
        images: `fingerprint` of the training images from now on.
        schedule: also restore the schedulers; False where the configuration changed them.

    Returns:
        Sentences about what could not be restored exactly.

    Raises:
        CheckpointError: the state is of another format or another snapshot.
    """
    if not isinstance(state, dict) or state.get("format") != _FORMAT or state.get("iterations") != iterations:
        raise CheckpointError(
            f"state_{iterations:08d}.pt does not belong to this snapshot or is of another fastmunit version: remove it "
            "to resume without it (the run then continues, but not bit for bit)."
        )
    notes = _differing_images(state["images"], images)
    notes += trainer.load_resume_state(state["system"])
    if schedule:
        for name, scheduler in trainer.schedulers().items():
            if scheduler is not None and state["schedulers"][name] is not None:
                scheduler.load_state_dict(state["schedulers"][name])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        if len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        else:
            notes.append("the number of GPUs changed, so the GPU random streams are new.")
    return notes


def _differing_images(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[str]:
    changes = []
    for domain, facts in after.items():
        if facts != before[domain]:
            counts = f"{before[domain]['count']:,} → {facts['count']:,}"
            same = facts["count"] == before[domain]["count"]
            changes.append(f"{domain} ({'other names or another order' if same else counts})")
    if not changes:
        return []
    return [
        f"the training images have changed: {', '.join(changes)}; batches are new ones, so the run is not bit for bit "
        "the uninterrupted one."
    ]


def _scheduler_state(scheduler: Any) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    plain = (int, float, bool, str, list, type(None))
    return {key: value for key, value in scheduler.state_dict().items() if isinstance(value, plain)}
