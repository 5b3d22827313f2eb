"""Snapshots in a folder: gen_%08d.pt, dis_%08d.pt, optimizer.pt of the public trainers, and what fastmunit adds."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from fastmunit.errors import CheckpointError
from fastmunit.files import digest, load_tensors, require_sound, shown, staged_tensors
from fastmunit.systems.parts.optimizer_state import as_public
from fastmunit.systems.parts.weights import describe

OPTIMIZER_FILE = "optimizer.pt"
ITERATIONS_KEY = "iterations"
"""Extra entry of our optimizer.pt: which snapshot it belongs to. The public trainer does not look at it."""
DIGESTS_KEY = "digests"
"""Entry of our state_%08d.pt: SHA-256 of the other files of the snapshot, by kind."""

DIGITS = r"\d{8,}"
"""Pattern of `digits`."""


def digits(iterations: int) -> str:
    """Return an iteration count as file names have it: eight digits, more where eight are too few."""
    return f"{iterations:08d}"


def snapshot_path(folder: str | os.PathLike[str], kind: str, iterations: int) -> Path:
    """Return the path of one file of the snapshot taken after `iterations` iterations.

    Args:
        folder: Where the snapshot is.
        kind: "gen", "dis", "ema" or "state".
        iterations: Iterations done.
    """
    return Path(folder) / f"{kind}_{digits(iterations)}.pt"


def numbers(folder: str | os.PathLike[str], kind: str) -> list[int]:
    """Return the iteration counts, ascending, of the `kind` files in `folder`."""
    pattern = re.compile(rf"{re.escape(kind)}_({DIGITS})\.pt", re.ASCII)
    matches = [pattern.fullmatch(entry.name) for entry in Path(folder).glob(f"{kind}_*.pt")]
    return sorted(int(match[1]) for match in matches if match and match[1] == digits(int(match[1])))


def snapshots(folder: str | os.PathLike[str]) -> list[int]:
    """Return the iteration counts, ascending, for which both a gen_ and a dis_ file are in `folder`."""
    return sorted(set(numbers(folder, "gen")) & set(numbers(folder, "dis")))


def latest(folder: str | os.PathLike[str]) -> int | None:
    """Return the iteration count of the newest complete snapshot in `folder`; None when there is none.

    Complete means that gen_, dis_ and optimizer.pt belong together. optimizer.pt is written last and marked with its
    iteration, so a save that was cut short leaves the snapshot before it as the newest complete one. A public
    optimizer.pt has no mark: it is taken to belong to the newest gen_ and dis_ pair, as the public trainer does.

    Raises:
        CheckpointError: optimizer.pt is missing or unreadable, or its snapshot's files are gone.
    """
    counts = snapshots(folder)
    if not counts:
        return None
    path = Path(folder) / OPTIMIZER_FILE
    content = load_tensors(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{shown(path)} is {describe(content)}, not an optimizer.pt: use that of the run.")
    if ITERATIONS_KEY not in content:
        return counts[-1]
    mark = content[ITERATIONS_KEY]
    if not isinstance(mark, int) or isinstance(mark, bool) or mark < 0:
        raise CheckpointError(
            f"{shown(path)} is damaged (its iteration count is a {type(mark).__name__}, expected an int of at least 0"
            "): use the optimizer.pt of the run."
        )
    if mark not in counts:
        gen, dis = (snapshot_path(folder, kind, mark).name for kind in ("gen", "dis"))
        raise CheckpointError(
            f"{shown(path)} belongs to iteration {mark}, but {gen} or {dis} is missing: put them back, or remove "
            "optimizer.pt and train anew."
        )
    return mark


def save_snapshot(
    folder: str | os.PathLike[str],
    iterations: int,
    states: Mapping[str, Mapping[str, Any]],
    optimizers: Mapping[str, torch.optim.Optimizer],
    resume_state: Mapping[str, Any] | None = None,
) -> None:
    """Write a snapshot so that a crash at any moment leaves the one before it in force.

    All files are written beside their places first. Then they are renamed, each whole or not at all: the exact-resume
    state with the digests of the others, the networks, and at last optimizer.pt, which puts the snapshot in force.

    Args:
        folder: Where to write; it is created when missing.
        iterations: Iterations done; the number in the file names.
        states: State dicts of the networks by name, for each kind of file.
        optimizers: Adam by name.
        resume_state: What state_%08d.pt is to hold. None writes no such file, and removes one of the same number: it
            would be of other weights.

    Raises:
        FastmunitError: A file cannot be written; the snapshot before is untouched.
    """
    content: dict[str, Any] = {name: as_public(optimizer) for name, optimizer in optimizers.items()}
    content[ITERATIONS_KEY] = iterations
    digests: dict[str, str] = {}
    state_path = snapshot_path(folder, "state", iterations)
    with ExitStack() as stack:  # renames what was entered last first
        digests["optimizer"] = stack.enter_context(staged_tensors(content, Path(folder) / OPTIMIZER_FILE))
        for kind, networks in reversed(list(states.items())):
            path = snapshot_path(folder, kind, iterations)
            digests[kind] = stack.enter_context(staged_tensors(dict(networks), path))
        if resume_state is None:
            stack.callback(state_path.unlink, missing_ok=True)
        else:
            stack.enter_context(staged_tensors({**resume_state, DIGESTS_KEY: digests}, state_path))


def verify(folder: str | os.PathLike[str], iterations: int, kinds: Collection[str]) -> None:
    """Check that files of a snapshot are those that were saved together.

    Snapshots without an exact-resume state have no digests, and those of earlier versions have none in it: they pass.

    Args:
        folder: Where the snapshot is.
        iterations: Its number.
        kinds: Which files to check: "gen", "dis", "ema", "optimizer". Those that the state does not list pass.

    Raises:
        CheckpointError: A file was changed, or is of another run; or the state cannot be read.
    """
    state_path = snapshot_path(folder, "state", iterations)
    for kind, expected in _digests(state_path).items():
        if kind not in kinds:
            continue
        path = Path(folder) / OPTIMIZER_FILE if kind == "optimizer" else snapshot_path(folder, kind, iterations)
        if not path.exists():
            raise CheckpointError(f"{shown(path)} is missing, and {state_path.name} belongs to it: put it back.")
        if digest(path) != expected:
            raise CheckpointError(
                f"{shown(path)} is not the file that was saved with {state_path.name}: it is damaged, was changed, or "
                "is of another run. Put the right one back or use another snapshot; where the change was on purpose, "
                f"remove {state_path.name} (the run then does not continue bit for bit)."
            )


def belongs(folder: str | os.PathLike[str], iterations: int, kind: str) -> bool:
    """Return whether the exact-resume state of a snapshot says that a `kind` file was saved with it."""
    try:
        return kind in _digests(snapshot_path(folder, "state", iterations))
    except CheckpointError:  # who needs the state itself is told when it is loaded
        return False


def verify_weights(path: str | os.PathLike[str]) -> None:
    """Check a file of networks against the exact-resume state next to it, if there is one.

    Raises:
        CheckpointError: The file was changed, or is of another run.
    """
    match = re.fullmatch(rf"(gen|dis|ema)_({DIGITS})\.pt", Path(path).name, re.ASCII)
    if match is None:
        return
    folder, iterations = Path(path).parent, int(match[2])
    try:
        _digests(snapshot_path(folder, "state", iterations))
    except CheckpointError:  # weights can be used without the state, so damage to it is no reason to refuse them
        return
    verify(folder, iterations, [match[1]])


def _digests(path: Path) -> dict[str, str]:
    """Return the digests in an exact-resume state; none where there is no state, or one of an earlier version."""
    if not path.exists():
        return {}
    content = load_tensors(path)
    if not isinstance(content, Mapping) or DIGESTS_KEY not in content:
        return {}
    require_sound(path)
    found = content[DIGESTS_KEY]
    if not isinstance(found, Mapping) or not all(isinstance(part, str) for item in found.items() for part in item):
        raise CheckpointError(f"{shown(path)} is damaged ({DIGESTS_KEY}): use another snapshot.")
    return dict(found)
