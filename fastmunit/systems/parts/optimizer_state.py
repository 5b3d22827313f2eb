"""Reading of Adam's state from files. Everything is checked first, because fused Adam works on raw memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors, printable
from fastmunit.systems.parts.weights import describe, is_plain

_AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_FLAGS = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
_CHOICES = ("foreach", "fused")


def read_optimizers(
    path: str | os.PathLike[str],
    optimizers: Mapping[str, torch.optim.Optimizer],
    names: Mapping[int, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Read {"gen": Adam state, "dis": Adam state} from a file, and check that it fits `optimizers`.

    Settings of the implementation (fused, foreach, capturable) are those of `optimizers`, not those of the file.

    Args:
        path: An optimizer.pt of the public trainer or of fastmunit.
        optimizers: Optimizers by their names in the file.
        names: Names of parameters for messages, by their id(). None uses their numbers.

    Raises:
        CheckpointError: If the file is of another kind or something in it does not fit. The message names it.
    """
    content = load_tensors(path)
    if not isinstance(content, Mapping) or not set(optimizers) <= set(content):
        raise CheckpointError(
            f"{printable(path)} is {describe(content)}, not an optimizer.pt: use the optimizer.pt of the run."
        )
    states = {}
    for name, optimizer in optimizers.items():
        try:
            state = checked(optimizer, content[name], names, same_dtype=True)
        except ValueError as error:
            raise CheckpointError(
                f"{printable(path)} does not fit the {name} optimizer: {error}. It was written with another "
                "configuration, or is damaged: give the optimizer.pt of the run."
            ) from error
        states[name] = run_as(optimizer, state)
    return states


def as_public(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state without settings for CUDA graphs: learning rates are floats."""
    state = optimizer.state_dict()
    groups = [
        {key: float(value) if isinstance(value, Tensor) and value.dim() == 0 else value for key, value in group.items()}
        for group in state["param_groups"]
    ]
    return {**state, "param_groups": [{**group, "capturable": False} for group in groups]}


def checked(
    optimizer: torch.optim.Optimizer, state: Any, names: Mapping[int, str] | None = None, *, same_dtype: bool = False
) -> dict[str, Any]:
    """Return a copy of an Adam state that `optimizer` may load.

    Args:
        optimizer: Adam optimizer.
        state: Object to check.
        names: As in `read_optimizers`.
        same_dtype: Require averages to have the dtype of their parameters. Otherwise torch casts them.

    Raises:
        ValueError: If a part is missing, has the wrong type, or does not fit its parameter.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"its state is a {type(state).__name__}, expected a mapping")
    groups, entries = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list | tuple) or not isinstance(entries, Mapping):
        raise ValueError("it has no 'param_groups' with a 'state'")
    own = optimizer.param_groups
    if len(groups) != len(own):
        raise ValueError(f"it has {len(groups)} parameter groups, expected {len(own)}")
    parameters: dict[int, Tensor] = {}
    amsgrad: dict[int, bool] = {}
    for group, expected in zip(groups, own, strict=True):
        _check_group(group)
        keys = group["params"]
        if len(keys) != len(expected["params"]):
            raise ValueError(f"it has {len(keys)} parameters, expected {len(expected['params'])}")
        parameters.update(zip(keys, expected["params"], strict=True))
        amsgrad.update(dict.fromkeys(keys, group.get("amsgrad", False)))
    if len(parameters) != sum(len(group["params"]) for group in own):
        raise ValueError("it has several parameters with the same number")
    copies: dict[int, dict[str, Tensor]] = {}
    for key, values in entries.items():
        if key not in parameters:
            raise ValueError(f"it has a state for parameter {str(key)[:60]}, which is in no group")
        parameter = parameters[key]
        label = (names or {}).get(id(parameter), f"parameter {key}")
        copies[key] = _copied(label, values, parameter, amsgrad[key], same_dtype)
    return {"state": copies, "param_groups": [dict(group) for group in groups]}


def _check_group(group: Any) -> None:
    """Raise ValueError if a setting of a parameter group has the wrong type or range."""
    if not isinstance(group, Mapping) or not isinstance(group.get("params"), list | tuple):
        raise ValueError("a parameter group has no list 'params'")
    if not all(type(key) is int for key in group["params"]):
        raise ValueError("'params' of a group are not numbers")
    for key in ("lr", "eps", "weight_decay", "initial_lr"):
        if (key in group or key != "initial_lr") and not _is_number(group.get(key)):
            raise ValueError(f"{key} is {_text(group.get(key))}, expected a finite number of at least 0")
    betas = group.get("betas")
    if not isinstance(betas, list | tuple) or len(betas) != 2 or not all(_is_number(b) and b < 1 for b in betas):
        raise ValueError(f"betas is {_text(betas)}, expected two numbers in [0, 1)")
    for key in (*_FLAGS, *_CHOICES):
        value = group.get(key, False)
        if not isinstance(value, bool) and not (key in _CHOICES and value is None):
            raise ValueError(f"{key} is {_text(value)}, expected true or false")


def _copied(label: str, values: Any, parameter: Tensor, amsgrad: bool, same_dtype: bool) -> dict[str, Tensor]:
    """Return a copy of a parameter's state. Raise ValueError if it does not fit."""
    if not isinstance(values, Mapping):
        raise ValueError(f"the state of {label} is a {type(values).__name__}, expected a mapping")
    if not values:  # the parameter has not had a gradient yet
        return {}
    step: Any = values.get("step")
    if not _is_number(step):
        raise ValueError(f"step of {label} is {_text(step)}, expected a scalar of at least 0")
    copied = {"step": torch.tensor(float(step), dtype=torch.float32)}
    for key in _AVERAGES:
        value: Any = values.get(key)
        if value is None and key == "max_exp_avg_sq" and not amsgrad:
            continue
        reason = _unfit(value, parameter, same_dtype)
        if reason:
            raise ValueError(f"{key} of {label} {reason}")
        copied[key] = torch.empty_like(value, requires_grad=False).copy_(value.detach())
    return copied


def _unfit(value: Any, parameter: Tensor, same_dtype: bool) -> str:
    """Return why a value cannot be an average of a parameter's gradients, or "" if it can."""
    if value is None:
        return "is missing"
    if not isinstance(value, Tensor):
        return f"is {_text(value)}, expected a tensor"
    if not is_plain(value) or not value.is_floating_point():
        return f"is a tensor in {value.dtype}, {value.layout}, expected dense floating-point numbers"
    if value.shape != parameter.shape:
        return f"is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
    if same_dtype and value.dtype != parameter.dtype:
        return f"is in {value.dtype}, expected {parameter.dtype}"
    if not _is_dense(value):
        return f"has gaps or overlaps in memory (strides {value.stride()} of {tuple(value.shape)})"
    return ""


def _is_dense(value: Tensor) -> bool:
    """Return True if a tensor's elements fill a contiguous range of memory without overlap, in any order."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(value.stride(), value.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _is_number(value: Any) -> bool:
    """Return True if a value is a finite real number of at least 0, or a 0-d tensor of one."""
    if isinstance(value, Tensor):
        if not is_plain(value) or value.dim() != 0 or value.dtype is torch.bool:
            return False
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:  # an int too large for a float
        return False


def _text(value: Any) -> str:
    """Return a short text for a value of any type and size."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} in {value.dtype}" if is_plain(value) else "a tensor"
    if value is None:
        return "missing"
    if isinstance(value, int) and value.bit_length() > 64:  # Python refuses to print very large ints
        return "a number of more than 64 bits"
    return repr(value)[:60] if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


def run_as(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with the implementation settings of `optimizer`."""
    own = {key: optimizer.param_groups[0][key] for key in ("fused", "foreach", "capturable")}
    rate = optimizer.param_groups[0]["lr"]
    groups = [{**group, **own} for group in state["param_groups"]]
    if isinstance(rate, Tensor):
        groups = [{**group, "lr": torch.full_like(rate, float(group["lr"]))} for group in groups]
    return {**state, "param_groups": groups}
