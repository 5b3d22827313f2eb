"""Checkpoint files of the public trainers: gen_%08d.pt, dis_%08d.pt, optimizer.pt."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors, save_tensors

OPTIMIZER_FILE = "optimizer.pt"
ITERATIONS_KEY = "iterations"
"""Extra entry of our optimizer.pt: which snapshot it belongs to. The public trainer does not look at it."""

# Statistics of instance norms, which use none: pytorch 0.3 wrote them in encoders, and decoders have dummies.
_OLD_BUFFERS = re.compile(r"^(enc|enc_content|dec)\..*\.norm\.(running_mean|running_var|num_batches_tracked)$")


def snapshot_path(folder: str | os.PathLike[str], kind: str, iterations: int) -> Path:
    """Path of the `kind` ("gen", "dis") file of the snapshot taken after `iterations` iterations."""
    return Path(folder) / f"{kind}_{iterations:08d}.pt"


def snapshots(folder: str | os.PathLike[str]) -> list[int]:
    """Iteration counts, ascending, for which both a gen_ and a dis_ file are in `folder`."""
    found = [set(_numbers(Path(folder), kind)) for kind in ("gen", "dis")]
    return sorted(found[0] & found[1])


def latest(folder: str | os.PathLike[str]) -> int | None:
    """Iteration count of the newest complete snapshot in `folder`; None when there is none.

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
        raise CheckpointError(f"{path} is {_describe(content)}, not an optimizer.pt: give the run's optimizer.pt.")
    mark = content.get(ITERATIONS_KEY)
    if not isinstance(mark, int):
        return counts[-1]
    if mark not in counts:
        raise CheckpointError(
            f"{path} belongs to iteration {mark}, but gen_{mark:08d}.pt or dis_{mark:08d}.pt "
            "is missing: put them back, or remove optimizer.pt and train anew."
        )
    return int(mark)


def save_snapshot(
    folder: str | os.PathLike[str],
    iterations: int,
    states: Mapping[str, Mapping[str, Any]],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Write KIND_%08d.pt for each kind of `states` ({name: state_dict}), then optimizer.pt ({name: Adam state}).

    Every file is written whole or not at all. Raises FastmunitError when one cannot be written.
    """
    for kind, networks in states.items():
        save_tensors(dict(networks), snapshot_path(folder, kind, iterations))
    content: dict[str, Any] = {name: _as_public(optimizer) for name, optimizer in optimizers.items()}
    content[ITERATIONS_KEY] = iterations
    save_tensors(content, Path(folder) / OPTIMIZER_FILE)


def load_networks(path: str | os.PathLike[str], networks: Mapping[str, nn.Module], kind: str) -> None:
    """Load {name: state_dict} from `path` into `networks`.

    Dummy running statistics may be absent (they stay 0 and 1), and those that pytorch 0.3 wrote for plain instance norm
    are dropped.

    Args:
        path: a file of the public trainer or of ours.
        networks: by their names in the file; "a" and "b" in the public ones.
        kind: "gen" or "dis": what the file should hold, for the error message.

    Raises:
        CheckpointError: another kind of file, networks of another system or of other sizes, or several values for a
            weight that `networks` share; the message says which.
    """
    content = load_tensors(path)
    if not isinstance(content, Mapping) or not set(networks) <= set(content):
        raise CheckpointError(f"{path} is {_describe(content)}, not a {kind}_*.pt: give the {kind}_*.pt of the run.")
    for name, network in networks.items():
        if not isinstance(content[name], Mapping):
            raise CheckpointError(f"{path} has no weights under {name!r}: it is not a {kind}_*.pt of a trainer.")
        state = _tolerate_old_keys(content[name], network)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(_mismatch(path, kind, content[name], network)) from error
    _check_shared(path, networks, content)


def load_optimizers(path: str | os.PathLike[str], optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Load {"gen": Adam state, "dis": Adam state} into `optimizers`. Raises CheckpointError when it does not fit.

    How an optimizer runs (fused, or as torch's loop) is its own, not the file's.
    """
    content = load_tensors(path)
    if not isinstance(content, Mapping) or not set(optimizers) <= set(content):
        raise CheckpointError(f"{path} is {_describe(content)}, not an optimizer.pt: give the run's optimizer.pt.")
    for name, optimizer in optimizers.items():
        try:
            optimizer.load_state_dict(_run_as(optimizer, content[name]))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} does not fit the {name} optimizer ({error}): it was written with another configuration."
            ) from error


def _run_as(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state to be run as `optimizer` is."""
    own = {key: optimizer.param_groups[0][key] for key in ("fused", "foreach", "capturable")}
    rate = optimizer.param_groups[0]["lr"]
    groups = [{**group, **own} for group in state["param_groups"]]
    if isinstance(rate, Tensor):
        groups = [{**group, "lr": torch.full_like(rate, float(group["lr"]))} for group in groups]
    return {**state, "param_groups": groups}


def _as_public(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state as one that knows nothing of CUDA graphs has it: with plain learning rates."""
    state = optimizer.state_dict()
    groups = [
        {key: float(value) if isinstance(value, Tensor) and value.dim() == 0 else value for key, value in group.items()}
        for group in state["param_groups"]
    ]
    return {**state, "param_groups": [{**group, "capturable": False} for group in groups]}


def _numbers(folder: Path, kind: str) -> list[int]:
    pattern = re.compile(rf"{kind}_(\d{{8}})\.pt")
    return [int(match[1]) for entry in folder.glob(f"{kind}_*.pt") if (match := pattern.fullmatch(entry.name))]


def _tolerate_old_keys(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    expected = network.state_dict()
    kept = {key: value for key, value in state.items() if key in expected or not _OLD_BUFFERS.search(key)}
    for key, value in expected.items():
        if key not in kept and _OLD_BUFFERS.search(key):
            kept[key] = value
    return kept


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a file of a {type(content).__name__}"
    keys = set(content)
    if {"gen", "dis"} <= keys:
        return "an optimizer file"
    if "param_groups" in keys:
        return "the state of a single optimizer"
    return f"a file with the keys {', '.join(sorted(map(str, keys))[:5])}"


def _check_shared(
    path: str | os.PathLike[str], networks: Mapping[str, nn.Module], content: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise CheckpointError where the file has several values for a weight that networks share."""
    first: dict[int, Tensor] = {}
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            value = content[name][key]
            if not torch.equal(first.setdefault(id(parameter), value), value):
                raise CheckpointError(
                    f"{path}: {key} of {name!r} differs from that of another network, and the configuration shares it: "
                    "the file comes from a run without sharing. Give the run's own config.yaml."
                )


def _system_of(state: Mapping[str, Tensor]) -> str:
    """Which system a generator's weights are of, by their names; "" for one that has no names of its own."""
    prefixes = {"MUNIT": "enc_content.", "UNIT": "enc."}
    found = [system for system, prefix in prefixes.items() if any(key.startswith(prefix) for key in state)]
    return found[0] if found else ""


def _mismatch(path: str | os.PathLike[str], kind: str, state: Mapping[str, Tensor], network: nn.Module) -> str:
    if kind == "gen" and any(key.startswith("cnns.") for key in state):
        return f"{path} holds discriminators (a dis_*.pt): give the gen_*.pt of the run."
    if kind == "dis" and not any(key.startswith("cnns.") for key in state):
        return f"{path} holds generators (a gen_*.pt): give the dis_*.pt of the run."
    expected = network.state_dict()
    theirs, ours = _system_of(state), _system_of(expected)
    if kind != "dis" and theirs and ours and theirs != ours:
        return f"{path} holds {theirs} generators, not {ours} ones: give a gen_*.pt of a {ours} run."
    reasons = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} by the configuration"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    reasons += [
        f"{key} is missing in the file" for key in expected if key not in state and not _OLD_BUFFERS.search(key)
    ]
    reasons += [f"{key} is not known" for key in state if key not in expected and not _OLD_BUFFERS.search(key)]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    return f"{path} does not fit the configuration: {'; '.join(reasons[:3])}{more}. Give the run's own config.yaml."
