"""Checkpoints in the format of the public trainers (gen_%08d.pt, dis_%08d.pt, optimizer.pt) with our additions."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from fastmunit.errors import CheckpointError
from fastmunit.files import digest, load_tensors, printable, require_sound, staged_tensors
from fastmunit.systems.parts.optimizer_state import as_public
from fastmunit.systems.parts.weights import describe

OPTIMIZER_FILE = "optimizer.pt"
ITERATIONS_KEY = "iterations"
"""Extra entry of our optimizer.pt: the iteration of its checkpoint. The public trainer ignores it."""
DIGESTS_KEY = "digests"
"""Entry of our state_%08d.pt: SHA-256 of the other files of the checkpoint, by kind."""

DIGITS = r"\d{8,}"
"""Regular expression for the result of `digits`."""


def digits(iterations: int) -> str:
    """Return an iteration count as in file names: with at least eight digits."""
    return f"{iterations:08d}"


def checkpoint_path(folder: str | os.PathLike[str], kind: str, iterations: int) -> Path:
    """Return the path of one file of the checkpoint written after `iterations` iterations.

    Args:
        folder: Folder of the checkpoint.
        kind: "gen", "dis", "ema" or "state".
        iterations: Number of finished iterations.
    """
    return Path(folder) / f"{kind}_{digits(iterations)}.pt"


def numbers(folder: str | os.PathLike[str], kind: str) -> list[int]:
    """Return the iteration counts of the `kind` files in `folder`, ascending."""
    pattern = re.compile(rf"{re.escape(kind)}_({DIGITS})\.pt", re.ASCII)
    matches = [pattern.fullmatch(entry.name) for entry in Path(folder).glob(f"{kind}_*.pt")]
    return sorted(int(match[1]) for match in matches if match and match[1] == digits(int(match[1])))


def list_checkpoints(folder: str | os.PathLike[str]) -> list[int]:
    """Return the iteration counts, ascending, for which `folder` has both a gen_ and a dis_ file."""
    return sorted(set(numbers(folder, "gen")) & set(numbers(folder, "dis")))


def latest(folder: str | os.PathLike[str]) -> int | None:
    """Return the iteration count of the newest complete checkpoint in `folder`, or None if there is none.

    A checkpoint is complete if gen_, dis_ and optimizer.pt belong together. optimizer.pt is written last and records
    its iteration, so after an interrupted save the previous checkpoint is still the newest complete one. A public
    optimizer.pt records no iteration. As in the public trainer, it is assumed to belong to the newest gen_ and dis_
    pair.

    Raises:
        CheckpointError: If optimizer.pt is missing or unreadable, or the files of its checkpoint are missing.
    """
    counts = list_checkpoints(folder)
    if not counts:
        return None
    path = Path(folder) / OPTIMIZER_FILE
    content = load_tensors(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{printable(path)} is {describe(content)}, not an optimizer.pt: use the one of the run.")
    if ITERATIONS_KEY not in content:
        return counts[-1]
    mark = content[ITERATIONS_KEY]
    if not isinstance(mark, int) or isinstance(mark, bool) or mark < 0:
        raise CheckpointError(
            f"{printable(path)} is damaged (its iteration count is a {type(mark).__name__}, expected an int of at "
            "least 0): use the optimizer.pt of the run."
        )
    if mark not in counts:
        gen, dis = (checkpoint_path(folder, kind, mark).name for kind in ("gen", "dis"))
        raise CheckpointError(
            f"{printable(path)} belongs to iteration {mark}, but {gen} or {dis} is missing: put them back, or remove "
            "optimizer.pt and start a new training."
        )
    return mark


def save_checkpoint(
    folder: str | os.PathLike[str],
    iterations: int,
    states: Mapping[str, Mapping[str, Any]],
    optimizers: Mapping[str, torch.optim.Optimizer],
    resume_state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint such that a crash at any moment leaves the previous one valid.

    All files are written under temporary names first. Then they are renamed, each whole or not at all: the exact-resume
    state with the digests of the others, the networks, and finally optimizer.pt, which completes the checkpoint.

    Args:
        folder: Folder of the checkpoint. It is created if it is missing.
        iterations: Number of finished iterations, for the file names.
        states: State dicts of the networks by name, for each kind of file.
        optimizers: Optimizers by name.
        resume_state: Content of state_%08d.pt. None writes no such file, and removes one of the same number, because it
            would belong to other weights.

    Raises:
        FastmunitError: If a file cannot be written. The previous checkpoint is unchanged then.
    """
    content: dict[str, Any] = {name: as_public(optimizer) for name, optimizer in optimizers.items()}
    content[ITERATIONS_KEY] = iterations
    digests: dict[str, str] = {}
    state_path = checkpoint_path(folder, "state", iterations)
    with ExitStack() as stack:  # the files are renamed in reverse order
        digests["optimizer"] = stack.enter_context(staged_tensors(content, Path(folder) / OPTIMIZER_FILE))
        for kind, networks in reversed(list(states.items())):
            path = checkpoint_path(folder, kind, iterations)
            digests[kind] = stack.enter_context(staged_tensors(dict(networks), path))
        if resume_state is None:
            stack.callback(state_path.unlink, missing_ok=True)
        else:
            stack.enter_context(staged_tensors({**resume_state, DIGESTS_KEY: digests}, state_path))


def verify(folder: str | os.PathLike[str], iterations: int, kinds: Collection[str]) -> None:
    """Check that the files of a checkpoint were saved together.

    Checkpoints without digests pass: those without an exact-resume state, and those of earlier versions.

    Args:
        folder: Folder of the checkpoint.
        iterations: Number of the checkpoint.
        kinds: Files to check: "gen", "dis", "ema", "optimizer". Files that the state does not list pass.

    Raises:
        CheckpointError: If a file was changed or belongs to another run, or the state cannot be read.
    """
    state_path = checkpoint_path(folder, "state", iterations)
    for kind, expected in _digests(state_path).items():
        if kind not in kinds:
            continue
        path = Path(folder) / OPTIMIZER_FILE if kind == "optimizer" else checkpoint_path(folder, kind, iterations)
        if not path.exists():
            raise CheckpointError(f"{printable(path)} is missing, and {state_path.name} belongs to it: put it back.")
        if digest(path) != expected:
            raise CheckpointError(
                f"{printable(path)} is not the file that was saved with {state_path.name}: it is damaged, was changed, "
                "or belongs to another run. Restore the original or use another checkpoint. If the change was "
                f"intended, remove {state_path.name} (the run then does not continue bit for bit)."
            )


def belongs(folder: str | os.PathLike[str], iterations: int, kind: str) -> bool:
    """Return True if a `kind` file was saved together with the exact-resume state of a checkpoint."""
    try:
        return kind in _digests(checkpoint_path(folder, "state", iterations))
    except CheckpointError:  # code that needs the state itself raises when it loads it
        return False


def verify_weights(path: str | os.PathLike[str]) -> None:
    """Check a file of networks against the exact-resume state next to it, if there is one.

    Raises:
        CheckpointError: If the file was changed or belongs to another run.
    """
    match = re.fullmatch(rf"(gen|dis|ema)_({DIGITS})\.pt", Path(path).name, re.ASCII)
    if match is None:
        return
    folder, iterations = Path(path).parent, int(match[2])
    try:
        _digests(checkpoint_path(folder, "state", iterations))
    except CheckpointError:  # weights are usable without the state, so a damaged state does not matter
        return
    verify(folder, iterations, [match[1]])


def is_public(path: str | os.PathLike[str]) -> bool:
    """Return True if another program than fastmunit, such as the public trainer, wrote a file of weights.

    torch names the top folder in its archive after a path, and "archive" in one that is written to an open file, as
    fastmunit does. Versions before 1.6 wrote no archive.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return not all(name.startswith("archive/") for name in file.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return True


def _digests(path: Path) -> dict[str, str]:
    """Return the digests in an exact-resume state. Without a state, or in one of an earlier version, there are none."""
    if not path.exists():
        return {}
    content = load_tensors(path)
    if not isinstance(content, Mapping) or DIGESTS_KEY not in content:
        return {}
    require_sound(path)
    digests = content[DIGESTS_KEY]
    if not isinstance(digests, Mapping) or not all(isinstance(part, str) for item in digests.items() for part in item):
        raise CheckpointError(f"{printable(path)} is damaged ({DIGESTS_KEY}): use another checkpoint.")
    return dict(digests)
