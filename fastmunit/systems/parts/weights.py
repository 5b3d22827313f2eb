"""Reading of weights from files: {name: state_dict} as in gen_*.pt, also from wrapped networks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors, printable
from fastmunit.model_folder import tensors as model_tensors

# Running statistics of instance norms, which do not use them: pytorch 0.3 wrote them for encoders, and decoders have
# dummies.
_OLD_BUFFERS = re.compile(r"\w+\.(enc|enc_content|dec)\..*\.norm\.(running_mean|running_var|num_batches_tracked)")
_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel, DistributedDataParallel, AveragedModel and torch.compile add to names."""
_AVERAGED = "n_averaged"
"""The counter in the state of a `torch.optim.swa_utils.AveragedModel`."""


def load_networks(path: str | os.PathLike[str], networks: Mapping[str, nn.Module], kind: str) -> None:
    """Load the weights in a file into `networks`. If this raises, they are unchanged. See `read_networks`."""
    for name, state in read_networks(path, networks, kind).items():
        networks[name].load_state_dict(state)


def read_networks(
    path: str | os.PathLike[str], networks: Mapping[str, nn.Module], kind: str
) -> dict[str, dict[str, Tensor]]:
    """Read the weights of `networks` from a file, and check that they fit.

    Dummy running statistics may be absent (they stay 0 and 1), and those that pytorch 0.3 wrote for plain instance norm
    are dropped. Prefixes that wrappers add to all names are removed, and the state dict of a whole trainer
    ("gen_a.…", "dis_a.…") is split into networks.

    Args:
        path: A file of the public trainer or of fastmunit, another file with the same weights, or the
            model.safetensors of a model folder, which has a weight that networks share once.
        networks: Networks by their names in the file: "a" and "b" in public files.
        kind: Expected content: "gen", "dis" or "ema".

    Returns:
        A state dict per network, with the network's keys and shapes.

    Raises:
        CheckpointError: If the file is of another kind, has networks of another system or size, has something other
            than tensors, or has several values for a weight that `networks` share. The message says which.
    """
    content: Any
    if Path(path).suffix == model_tensors.SUFFIX:
        content = _with_shared(model_tensors.read(path, kind, networks), networks)
    else:
        content = _by_network(load_tensors(path), networks, kind)
    file_kind = "gen" if kind == "ema" else kind
    if not isinstance(content, Mapping) or not set(networks) <= set(content):
        raise CheckpointError(
            f"{printable(path)} is {describe(content)}, not a {file_kind}_*.pt: give the {file_kind}_*.pt of the run."
        )
    states = {name: _checked(path, kind, name, content[name], network) for name, network in networks.items()}
    _check_shared(path, networks, states)
    return states


def is_unused(network: str, key: str) -> bool:
    """Return True if a tensor in the state of a network has no effect: running statistics of instance norms."""
    return _OLD_BUFFERS.fullmatch(f"{network}.{key}") is not None


def describe(content: Any) -> str:
    """Describe the unexpected content of a file in a few words."""
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
    """Return {name: state_dict} from the state dict of a whole trainer, and anything else unchanged."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return content
    if set(networks) <= set(content):
        return content
    flat = unwrapped(content)
    by_network = {}
    for name in networks:
        part = "gen" if kind == "ema" else kind
        for attribute in (f"{part}_{name}.", f"{name}.", f"{part}."):  # the last two are BicycleGAN's
            weights = {key.removeprefix(attribute): value for key, value in flat.items() if key.startswith(attribute)}
            if weights:
                by_network[name] = weights
                break
    return by_network if by_network.keys() == networks.keys() else content


def _with_shared(
    content: dict[str, dict[str, Tensor]], networks: Mapping[str, nn.Module]
) -> dict[str, dict[str, Tensor]]:
    """Add the weights that networks share to the states of all that share them."""
    names = {
        (name, key): id(value)
        for name, network in networks.items()
        for key, value in network.state_dict(keep_vars=True).items()
    }
    found = {names[name, key]: content[name][key] for name, key in names if key in content[name]}
    for (name, key), owner in names.items():
        if owner in found:
            content[name].setdefault(key, found[owner])
    return content


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without the prefixes and the counter that wrappers add."""
    kept = {key: value for key, value in state.items() if key != _AVERAGED}
    for prefix in _WRAPPERS * 2:  # wrappers may be nested in any order
        if kept and all(key.startswith(prefix) for key in kept):
            kept = {key.removeprefix(prefix): value for key, value in kept.items()}
    return kept


def _without_wrappers(name: str) -> str:
    for prefix in _WRAPPERS * 2:
        name = name.removeprefix(prefix)
    return name


def _checked(path: str | os.PathLike[str], kind: str, name: str, state: Any, network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a network from the one in a file. Raise CheckpointError if it does not fit."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{printable(path)} has no weights under {name!r}: it is not a {kind}_*.pt of a trainer.")
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(
                f"{printable(path)}: a weight of {name!r} is named by a {type(key).__name__}, expected a string: it is "
                f"not a {kind}_*.pt of a trainer."
            )
        if not isinstance(value, Tensor) or not is_plain(value):
            what = f"a tensor in {value.dtype}, {value.layout}" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{printable(path)}: {key[:200]} of {name!r} is {what}, expected a dense real tensor: use another "
                "checkpoint."
            )
    bare = unwrapped(state)
    expected = network.state_dict()
    kept = {key: value for key, value in bare.items() if key in expected or not is_unused(name, key)}
    for key, value in expected.items():
        if key not in kept and is_unused(name, key):
            kept[key] = value
    fits = kept.keys() == expected.keys() and all(
        kept[key].shape == value.shape and kept[key].is_floating_point() == value.is_floating_point()
        for key, value in expected.items()
    )
    if not fits:
        raise CheckpointError(_mismatch(path, kind, name, bare, expected))
    return kept


def is_plain(value: Tensor) -> bool:
    """Return True if a tensor is dense, real and in memory: not sparse, nested, quantized, complex or on "meta"."""
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
    """Raise CheckpointError if the file has several values for a weight that networks share."""
    first: dict[int, Tensor] = {}
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            value = states[name][key]
            other = first.setdefault(id(parameter), value)
            if other is not value and not torch.equal(other, value):
                raise CheckpointError(
                    f"{printable(path)}: {key} of {name!r} has another value than in the network that shares it in "
                    "this configuration, so the file comes from a run without sharing. Give the run's own config.yaml."
                )


def _system_name(state: Mapping[str, Tensor]) -> str:
    """Return the system of a generator's weights, judging by their names, or "" if it is unknown."""
    prefixes = {"MUNIT": "enc_content.", "UNIT": "enc."}
    systems = [system for system, prefix in prefixes.items() if any(key.startswith(prefix) for key in state)]
    return systems[0] if systems else ""


def _mismatch(
    path: str | os.PathLike[str], kind: str, name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str:
    if kind != "dis" and any(key.startswith("cnns.") for key in state):
        return f"{printable(path)} holds discriminators (a dis_*.pt): give the gen_*.pt of the run."
    if kind == "dis" and _system_name(state):
        return f"{printable(path)} holds generators (a gen_*.pt): give the dis_*.pt of the run."
    theirs, ours = _system_name(state), _system_name(expected)
    if kind != "dis" and theirs and ours and theirs != ours:
        return f"{printable(path)} holds {theirs} generators, not {ours} ones: give a gen_*.pt of a {ours} run."
    reasons = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the configuration"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    reasons += [
        f"{key} is {state[key].dtype} in the file, expected {value.dtype}"
        for key, value in expected.items()
        if key in state and state[key].is_floating_point() != value.is_floating_point()
    ]
    reasons += [f"{key} is missing in the file" for key in expected if key not in state and not is_unused(name, key)]
    reasons += [f"{key[:200]} is not known" for key in state if key not in expected and not is_unused(name, key)]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    differences = f"{'; '.join(reasons[:3])}{more}"
    remedy = "Give the run's own config.yaml."
    if Path(path).suffix == model_tensors.SUFFIX:
        remedy = "Get the model folder again."
    return f"{printable(path)} does not fit the configuration: {differences}. {remedy}"
