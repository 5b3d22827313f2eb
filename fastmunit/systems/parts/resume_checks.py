"""Checks of exact-resume states. They run before anything is loaded, and their errors name what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor

from fastmunit.errors import CheckpointError
from fastmunit.systems.parts.weights import is_plain


class _Scaler(BaseModel):
    """The result of `torch.amp.GradScaler.state_dict`."""

    model_config = ConfigDict(strict=True)

    scale: FiniteFloat = Field(ge=0)
    growth_factor: FiniteFloat = Field(gt=1)
    backoff_factor: FiniteFloat = Field(gt=0, lt=1)
    growth_interval: int = Field(gt=0, lt=2**31)
    growth_tracker: int = Field(alias="_growth_tracker", ge=0, lt=2**31)


def part(state: Any, key: str, kind: type) -> Any:
    """Return `state[key]`.

    Raises:
        CheckpointError: If `state` is not a mapping, or the entry is missing or not an instance of `kind`.
    """
    if not isinstance(state, Mapping):
        raise _damaged(f"it is a {type(state).__name__}, expected a mapping")
    if key not in state:
        raise _damaged(f"{key} is missing")
    value = state[key]
    if not isinstance(value, kind):
        raise _damaged(f"{key} is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def tensor(state: Any, key: str, shape: Sequence[int]) -> Tensor:
    """Return `state[key]`, which must be a floating-point tensor of shape (N, *shape).

    Raises:
        CheckpointError: If it is not.
    """
    value: Tensor = part(state, key, Tensor)
    plain = is_plain(value) and value.is_floating_point()
    if not plain or not value.dim() or tuple(value.shape[1:]) != tuple(shape):
        sizes = ", ".join(map(str, ("N", *shape)))
        raise _damaged(f"{key} is not a floating-point tensor of shape ({sizes})")
    return value


def values(state: Any, key: str, shape: Sequence[int]) -> Tensor:
    """Return `state[key]`, which must be a tensor of this shape of finite floating-point numbers.

    Raises:
        CheckpointError: If it is not.
    """
    value: Tensor = part(state, key, Tensor)
    if not is_plain(value) or not value.is_floating_point() or value.shape != torch.Size(shape):
        raise _damaged(f"{key} is not a floating-point tensor of shape {tuple(shape)}")
    if not value.isfinite().all():
        raise _damaged(f"{key} is NaN or infinite")
    return value


def images(state: Any, key: str, channels: int) -> list[Tensor]:
    """Return `state[key]`, which must be a list of images (channels, H, W).

    Raises:
        CheckpointError: If it is not.
    """
    loaded: list[Tensor] = part(state, key, list)
    for image in loaded:
        plain = isinstance(image, Tensor) and is_plain(image) and image.is_floating_point()
        if not plain or image.dim() != 3 or image.shape[0] != channels:
            raise _damaged(f"{key} holds something other than images of shape ({channels}, H, W)")
    return loaded


def numbers(state: Any) -> dict[str, float]:
    """Return a mapping of names to finite numbers.

    Raises:
        CheckpointError: If it is not one.
    """
    try:
        return TypeAdapter(dict[str, FiniteFloat]).validate_python(state, strict=True)
    except ValidationError as error:
        raise _damaged(explain(error)) from error


def scaler(state: Any, name: str, known: Collection[str]) -> dict[str, Any]:
    """Return `state[name]`, which must be the state of the gradient scaler of an optimizer in `known`.

    Raises:
        CheckpointError: If it is not.
    """
    if name not in known:
        raise _damaged(f"it has a loss scale of {str(name)[:60]!r}, and the optimizers are {', '.join(known)}")
    try:
        return _Scaler.model_validate(part(state, name, Mapping)).model_dump(by_alias=True)
    except ValidationError as error:
        raise _damaged(f"loss scale of {name}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Return a line about the first errors that pydantic found, without the values, which may be of any size."""
    return "; ".join(f"{'.'.join(map(str, item['loc']))[:100]}: {item['msg']}" for item in error.errors()[:3])


def _damaged(reason: str) -> CheckpointError:
    return CheckpointError(f"the exact-resume state is damaged or belongs to another system: {reason}.")
