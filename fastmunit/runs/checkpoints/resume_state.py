"""Exact-resume state: what a run needs, beside the public checkpoint files, to go on as if it had never stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor

from fastmunit.data import ImageDataset
from fastmunit.errors import CheckpointError
from fastmunit.systems.base import System
from fastmunit.systems.parts import resume_checks
from fastmunit.systems.parts.public_checkpoint import snapshot_path

_FORMAT = 2
_MAX_COUNT = 2**53  # of the iterations that a schedule counts: all of them are exact as floats


class _Images(BaseModel):
    model_config = ConfigDict(strict=True)

    count: int = Field(ge=0)
    names: str


class _State(BaseModel):
    """The parts of a state that `System.load_resume_state` does not check; what earlier versions added is ignored."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    seconds: FiniteFloat = Field(ge=0)
    images: dict[str, _Images]
    torch_rng: Tensor
    cuda_rng: list[Tensor]
    system: dict[str, Any]
    schedulers: dict[str, dict[str, Any] | None]


def fingerprint(datasets: Sequence[ImageDataset]) -> dict[str, dict[str, Any]]:
    """What identifies the training images of A and B; see `ImageDataset.identity`."""
    return {domain: dataset.identity() for domain, dataset in zip(("A", "B"), datasets, strict=True)}


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
        "cuda_rng": [torch.cuda.get_rng_state(trainer.device)] if trainer.device.type == "cuda" else [],
        "system": trainer.resume_state(),
        "schedulers": {name: _scheduler_state(scheduler) for name, scheduler in trainer.schedulers().items()},
    }


def restore(
    trainer: System,
    state: Any,
    iterations: int,
    images: Mapping[str, Mapping[str, Any]],
    *,
    schedule: bool = True,
) -> tuple[float, list[str]]:
    """Put a captured state back.

    Args:
        trainer: already resumed from the public files of the same snapshot.
        state: what `capture` returned.
        iterations: the snapshot's iteration count.
        images: `fingerprint` of the training images from now on.
        schedule: also restore the schedulers; False where the configuration changed them.

    Returns:
        Training time so far in seconds, and sentences about what could not be restored exactly.

    Raises:
        CheckpointError: the state is of another format or another snapshot, or a part of it is missing or wrong.
    """
    name = snapshot_path("", "state", iterations).name
    marks = (state.get("format"), state.get("iterations")) if isinstance(state, dict) else ()
    if any(type(mark) is not int for mark in marks) or marks != (_FORMAT, iterations):
        raise CheckpointError(
            f"{name} does not belong to this snapshot or is of another fastmunit version: remove it "
            "to resume without it (the run then continues, but not bit for bit)."
        )
    try:
        return _restore(trainer, state, images, schedule)
    except (CheckpointError, ValidationError, RuntimeError, TypeError) as error:  # the last two: torch, of RNG states
        reason = resume_checks.explain(error) if isinstance(error, ValidationError) else str(error).rstrip(".")
        raise CheckpointError(
            f"{name} cannot be used ({reason}): remove it to resume without it (the run then continues, but not bit "
            "for bit), or use another snapshot."
        ) from error


def _restore(
    trainer: System, state: Mapping[str, Any], images: Mapping[str, Mapping[str, Any]], schedule: bool
) -> tuple[float, list[str]]:
    found = _State.model_validate(dict(state))
    for domain in images:
        resume_checks.part(found.images, domain, _Images)
    torch.Generator().set_state(found.torch_rng)  # raises where set_rng_state would, and changes nothing
    schedulers = {
        name: _scheduler_values(found.schedulers, name, scheduler)
        for name, scheduler in trainer.schedulers().items()
        if schedule and scheduler is not None
    }
    notes = _differing_images({domain: facts.model_dump() for domain, facts in found.images.items()}, images)
    notes += trainer.load_resume_state(found.system)
    if found.cuda_rng and trainer.device.type == "cuda":
        # Earlier versions kept those of all GPUs.
        of_device = 0 if len(found.cuda_rng) == 1 else trainer.device.index or 0
        if of_device < len(found.cuda_rng):
            torch.cuda.set_rng_state(found.cuda_rng[of_device], trainer.device)
        else:
            notes.append("the number of GPUs changed, so the GPU random stream is new.")
    for name, values in schedulers.items():
        vars(trainer.schedulers()[name]).update(values)
    torch.set_rng_state(found.torch_rng)
    return found.seconds, notes


def _differing_images(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[str]:
    changes = []
    for domain, facts in after.items():
        if facts != before[domain]:
            counts = f"{before[domain]['count']:,} → {facts['count']:,}"
            same = facts["count"] == before[domain]["count"]
            changes.append(f"{domain} ({'other names or another order' if same else counts})")
    notes = []
    if changes:
        notes.append(
            f"the training images have changed: {', '.join(changes)}; batches are new ones, so the run is not bit for "
            "bit the uninterrupted one."
        )
    nameless = [domain for domain in after if not (after[domain]["names"] or before[domain]["names"])]
    if nameless:
        notes.append(
            f"the training images of {' and '.join(nameless)} have no fingerprint: only their number was compared with "
            "the earlier one."
        )
    return notes


def _scheduler_state(scheduler: Any) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    plain = (int, float, bool, str, list, type(None))
    return {key: value for key, value in scheduler.state_dict().items() if isinstance(value, plain)}


def _scheduler_values(saved: Mapping[str, Mapping[str, Any] | None], name: str, scheduler: Any) -> dict[str, Any]:
    """Return the attributes of a scheduler that a saved state has: those that are numbers, and lists of numbers.

    What another version of torch keeps beside them is left out, and what it does not keep stays as it was built.

    Raises:
        CheckpointError: a value is not of the type that the scheduler has.
    """
    values = resume_checks.part(saved, name, object)
    found = {}
    for key, attribute in (_scheduler_state(scheduler) or {}).items() if values is not None else ():
        own = _numeric(attribute)
        if own is None or key not in values:
            continue
        value = _numeric(values[key])
        if value is None or _shape(value) != _shape(own):
            raise CheckpointError(f"{key} of the schedule of {name} is not {_shape(own)}")
        if type(value) is int and not (key == "step_size") <= value <= _MAX_COUNT:
            raise CheckpointError(f"{key} of the schedule of {name} is {value:.3g}, which is out of range")
        found[key] = value
    return found


def _numeric(value: Any) -> Any:
    """Return a finite number, or a list of such, with tensors of one number as that; None for anything else."""
    if isinstance(value, list):
        items = [None if isinstance(item, list) else _numeric(item) for item in value]
        return None if None in items else items
    if isinstance(value, Tensor) and value.numel() == 1:  # a learning rate that lives on the device
        value = value.item()
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return None


def _shape(value: Any) -> str:
    """Return what kind of number or list a value is, for comparison and messages."""
    if isinstance(value, list):
        return f"a list of {len(value)} numbers"
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    return kinds[type(value)]
