"""Weights in files: {name: state_dict} as in gen_*.pt, also with what wrappers of networks add to the names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors, shown

# Statistics of instance norms, which use none: pytorch 0.3 wrote them in encoders, and decoders have dummies.
_OLD_BUFFERS = re.compile(r"^(enc|enc_content|dec)\..*\.norm\.(running_mean|running_var|num_batches_tracked)$")
_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of DataParallel, DistributedDataParallel and AveragedModel, and of torch.compile."""
_AVERAGED = "n_averaged"
"""The counter beside the weights of a `torch.optim.swa_utils.AveragedModel`."""
_KINDS = {"gen": "generators", "ema": "generators", "dis": "discriminators"}


def load_networks(path: str | os.PathLike[str], networks: Mapping[str, nn.Module], kind: str) -> None:
    """Load what `read_networks` reads into `networks`. When it raises, they are as they were."""
    for name, state in read_networks(path, networks, kind).items():
        networks[name].load_state_dict(state)


def read_networks(
    path: str | os.PathLike[str], networks: Mapping[str, nn.Module], kind: str
) -> dict[str, dict[str, Tensor]]:
    """Read the weights of `networks` from a file, and check that they fit.

    Dummy running statistics may be absent (they stay 0 and 1), and those that pytorch 0.3 wrote for plain instance norm
    are dropped. Prefixes that wrappers put before all names are taken off, and the state dict of a whole trainer
    ("gen_a.…", "dis_a.…") is taken apart.

    Args:
        path: A file of the public trainer, of ours, or with the same weights.
        networks: By their names in the file; "a" and "b" in the public ones.
        kind: "gen", "dis" or "ema": what the file should hold.

    Returns:
        A state dict for each network, with the keys and shapes of its own.

    Raises:
        CheckpointError: Another kind of file, networks of another system or of other sizes, something other than
            tensors, or several values for a weight that `networks` share; the message says which.
    """
    content = _by_network(load_tensors(path), networks, kind)
    file_kind = "gen" if kind == "ema" else kind
    if not isinstance(content, Mapping) or not set(networks) <= set(content):
        raise CheckpointError(
            f"{shown(path)} is {describe(content)}, not a {file_kind}_*.pt: give the {file_kind}_*.pt of the run."
        )
    states = {name: _checked(path, kind, name, content[name], network) for name, network in networks.items()}
    _check_shared(path, networks, states)
    return states


def describe(content: Any) -> str:
    """Return in a few words what a file holds that holds something else than expected."""
    if not isinstance(content, Mapping):
        return f"a file of a {type(content).__name__}"
    keys = set(content)
    if {"gen", "dis"} <= keys:
        return "an optimizer file"
    if "param_groups" in keys:
        return "the state of a single optimizer"
    if {"format", "torch_rng"} <= keys:
        return "an exact-resume state (a state_*.pt)"
    shortened = [key if len(key) <= 60 else f"{key[:60]}…" for key in sorted(map(str, keys))[:5]]
    names = [_without_wrappers(key) for key in keys if isinstance(key, str)]
    if any(name.startswith(("gen_", "dis_")) for name in names):
        return f"the state of a whole trainer of another system (its keys are {', '.join(shortened)})"
    if keys and all(isinstance(value, Tensor) for value in content.values()):
        return f"the weights of a single network (its keys are {', '.join(shortened)})"
    return f"a file with the keys {', '.join(shortened)}"


def _by_network(content: Any, networks: Mapping[str, nn.Module], kind: str) -> Any:
    """Return the {name: state_dict} in the state dict of a whole trainer; anything else as it is."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return content
    if set(networks) <= set(content):
        return content
    flat = _unwrapped(content)
    found = {}
    for name in networks:
        part = "gen" if kind == "ema" else kind
        for attribute in (f"{part}_{name}.", f"{name}.", f"{part}."):  # the last two: BicycleGAN's
            weights = {key.removeprefix(attribute): value for key, value in flat.items() if key.startswith(attribute)}
            if weights:
                found[name] = weights
                break
    return found if found.keys() == networks.keys() else content


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without what wrappers added to it: a prefix of all keys, a counter."""
    kept = {key: value for key, value in state.items() if key != _AVERAGED}
    for prefix in _WRAPPERS * 2:  # one in another, in any order
        if kept and all(key.startswith(prefix) for key in kept):
            kept = {key.removeprefix(prefix): value for key, value in kept.items()}
    return kept


def _without_wrappers(name: str) -> str:
    for prefix in _WRAPPERS * 2:
        name = name.removeprefix(prefix)
    return name


def _checked(path: str | os.PathLike[str], kind: str, name: str, state: Any, network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict from the one in a file. Raises CheckpointError when it does not fit."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{shown(path)} has no weights under {name!r}: it is not a {kind}_*.pt of a trainer.")
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(
                f"{shown(path)}: a weight of {name!r} is named by a {type(key).__name__}, expected a string: it is "
                f"not a {kind}_*.pt of a trainer."
            )
        if not isinstance(value, Tensor) or not is_plain(value):
            what = f"a tensor in {value.dtype}, {value.layout}" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{shown(path)}: {key[:200]} of {name!r} is {what}, expected a dense real tensor: use another snapshot."
            )
    unwrapped = _unwrapped(state)
    expected = network.state_dict()
    kept = {key: value for key, value in unwrapped.items() if key in expected or not _OLD_BUFFERS.search(key)}
    for key, value in expected.items():
        if key not in kept and _OLD_BUFFERS.search(key):
            kept[key] = value
    fits = kept.keys() == expected.keys() and all(
        kept[key].shape == value.shape and kept[key].is_floating_point() == value.is_floating_point()
        for key, value in expected.items()
    )
    if not fits:
        raise CheckpointError(_mismatch(path, kind, unwrapped, expected))
    return kept


def is_plain(value: Tensor) -> bool:
    """Return whether a tensor has real numbers in memory: is not sparse, nested, quantized, complex or on "meta"."""
    return (
        value.layout is torch.strided
        and not value.is_nested
        and not value.is_quantized
        and not value.is_complex()
        and value.device.type != "meta"
    )


def _check_shared(
    path: str | os.PathLike[str], networks: Mapping[str, nn.Module], states: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise CheckpointError where the file has several values for a weight that networks share."""
    first: dict[int, Tensor] = {}
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            value = states[name][key]
            other = first.setdefault(id(parameter), value)
            if other is not value and not torch.equal(other, value):
                raise CheckpointError(
                    f"{shown(path)}: {key} of {name!r} differs from that of another network, and the configuration "
                    "shares it: the file comes from a run without sharing. Give the run's own config.yaml."
                )


def _system_of(state: Mapping[str, Tensor]) -> str:
    """Return which system a generator's weights are of, by their names; "" for one that has no names of its own."""
    prefixes = {"MUNIT": "enc_content.", "UNIT": "enc."}
    found = [system for system, prefix in prefixes.items() if any(key.startswith(prefix) for key in state)]
    return found[0] if found else ""


def _mismatch(
    path: str | os.PathLike[str], kind: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str:
    if kind != "dis" and any(key.startswith("cnns.") for key in state):
        return f"{shown(path)} holds discriminators (a dis_*.pt): give the gen_*.pt of the run."
    if kind == "dis" and _system_of(state):
        return f"{shown(path)} holds generators (a gen_*.pt): give the dis_*.pt of the run."
    theirs, ours = _system_of(state), _system_of(expected)
    if kind != "dis" and theirs and ours and theirs != ours:
        return f"{shown(path)} holds {theirs} generators, not {ours} ones: give a gen_*.pt of a {ours} run."
    reasons = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} by the configuration"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    reasons += [
        f"{key} is {state[key].dtype} in the file, expected {value.dtype}"
        for key, value in expected.items()
        if key in state and state[key].is_floating_point() != value.is_floating_point()
    ]
    reasons += [
        f"{key} is missing in the file" for key in expected if key not in state and not _OLD_BUFFERS.search(key)
    ]
    reasons += [f"{key[:200]} is not known" for key in state if key not in expected and not _OLD_BUFFERS.search(key)]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    return (
        f"{shown(path)} does not fit the configuration: {'; '.join(reasons[:3])}{more}. Give the run's own config.yaml."
    )
