"""The state that exact resume needs in addition to the public checkpoint files."""

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
from fastmunit.systems.parts.public_checkpoint import checkpoint_path

_FORMAT = 2
_MAX_COUNT = 2**53  # limit of a schedule's iteration count: integers up to it are exact as floats


class _Images(BaseModel):
    model_config = ConfigDict(strict=True)

    count: int = Field(ge=0)
    names: str


class _State(BaseModel):
    """The parts of a state that `System.load_resume_state` does not check. Entries of earlier versions are ignored."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    seconds: FiniteFloat = Field(ge=0)
    images: dict[str, _Images]
    torch_rng: Tensor
    cuda_rng: list[Tensor]
    system: dict[str, Any]
    schedulers: dict[str, dict[str, Any] | None]


def fingerprint(datasets: Sequence[ImageDataset]) -> dict[str, dict[str, Any]]:
    """Return facts that identify the training images of A and B. See `ImageDataset.identity`."""
    return {domain: dataset.identity() for domain, dataset in zip(("A", "B"), datasets, strict=True)}


def capture(
    trainer: System, iterations: int, seconds: float, images: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Collect the state after `iterations` iterations. `images` is the `fingerprint` of the training images.

    Returns:
        A dict of tensors and plain types, which loads with `weights_only=True`: RNG states, the system's own state
        (`System.resume_state`), scheduler states, training time in seconds and the images' fingerprint. The position in
        the data is the iteration count itself, and the learning rates are in optimizer.pt.
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
    """Restore a captured state.

    Args:
        trainer: The system, already resumed from the public files of the same checkpoint.
        state: Result of `capture`.
        iterations: Iterations of the checkpoint.
        images: `fingerprint` of the training images from now on.
        schedule: If True, also restore the schedulers; False if the configuration has changed them.

    Returns:
        Training time so far in seconds, and sentences about parts that could not be restored exactly.

    Raises:
        CheckpointError: If the state has another format or belongs to another checkpoint, or a part of it is missing or
            wrong.
    """
    name = checkpoint_path("", "state", iterations).name
    marks = (state.get("format"), state.get("iterations")) if isinstance(state, dict) else ()
    if any(type(mark) is not int for mark in marks) or marks != (_FORMAT, iterations):
        raise CheckpointError(
            f"{name} does not belong to this checkpoint or was written by another fastmunit version: remove it to "
            "resume without it (the run then continues, but not bit for bit)."
        )
    try:
        return _restore(trainer, state, images, schedule)
    except (CheckpointError, ValidationError, RuntimeError, TypeError) as error:  # the last two: torch, for RNG states
        reason = resume_checks.explain(error) if isinstance(error, ValidationError) else str(error).rstrip(".")
        raise CheckpointError(
            f"{name} cannot be used ({reason}): remove it to resume without it (the run then continues, but not bit "
            "for bit), or use another checkpoint."
        ) from error


def _restore(
    trainer: System, state: Mapping[str, Any], images: Mapping[str, Mapping[str, Any]], schedule: bool
) -> tuple[float, list[str]]:
    saved = _State.model_validate(dict(state))
    for domain in images:
        resume_checks.part(saved.images, domain, _Images)
    torch.Generator().set_state(saved.torch_rng)  # raises the errors of set_rng_state, before anything is changed
    schedulers = {
        name: _scheduler_values(saved.schedulers, name, scheduler)
        for name, scheduler in trainer.schedulers().items()
        if schedule and scheduler is not None
    }
    notes = _differing_images({domain: facts.model_dump() for domain, facts in saved.images.items()}, images)
    notes += trainer.load_resume_state(saved.system)
    if saved.cuda_rng and trainer.device.type == "cuda":
        # Earlier versions saved the states of all GPUs.
        of_device = 0 if len(saved.cuda_rng) == 1 else trainer.device.index or 0
        if of_device < len(saved.cuda_rng):
            torch.cuda.set_rng_state(saved.cuda_rng[of_device], trainer.device)
        else:
            notes.append("the number of GPUs changed, so the random state of the GPU is new.")
    for name, values in schedulers.items():
        vars(trainer.schedulers()[name]).update(values)
    torch.set_rng_state(saved.torch_rng)
    return saved.seconds, notes


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
            f"the training images have changed: {', '.join(changes)}; batches differ, so the run is not bit for bit "
            "the uninterrupted one."
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
    """Return the saved attributes of a scheduler that are numbers or lists of numbers.

    Attributes that only the saving version of torch has are left out. Those that it lacks keep their initial values.

    Raises:
        CheckpointError: If a value has another type than the scheduler's own.
    """
    values = resume_checks.part(saved, name, object)
    restored = {}
    for key, attribute in (_scheduler_state(scheduler) or {}).items() if values is not None else ():
        own = _numeric(attribute)
        if own is None or key not in values:
            continue
        value = _numeric(values[key])
        if value is None or _shape(value) != _shape(own):
            raise CheckpointError(f"{key} of the schedule of {name} is not {_shape(own)}")
        if type(value) is int and not (key == "step_size") <= value <= _MAX_COUNT:
            raise CheckpointError(f"{key} of the schedule of {name} is {value:.3g}, which is out of range")
        restored[key] = value
    return restored


def _numeric(value: Any) -> Any:
    """Return a finite number or a list of finite numbers, with one-element tensors as numbers; None otherwise."""
    if isinstance(value, list):
        items = [None if isinstance(item, list) else _numeric(item) for item in value]
        return None if None in items else items
    if isinstance(value, Tensor) and value.numel() == 1:  # a learning rate on the device
        value = value.item()
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return None


def _shape(value: Any) -> str:
    """Describe the type of a number or list, for comparison and messages."""
    if isinstance(value, list):
        return f"a list of {len(value)} numbers"
    kinds = {bool: "true or false", int: "an integer", float: "a number"}
    return kinds[type(value)]
