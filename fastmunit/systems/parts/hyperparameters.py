"""Hyperparameters as scripts for the public trainer pass them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from fastmunit.config import Config, unknown_keys
from fastmunit.section import brief

Hyperparameters = Mapping[str, Any] | Config

_MAX_NAMED_KEYS = 10


def as_config(hyperparameters: Hyperparameters) -> Config:
    """Return a `Config`. Unknown keys of a mapping are dropped, with a warning for the caller's caller."""
    if isinstance(hyperparameters, Config):
        return hyperparameters
    unknown = unknown_keys(hyperparameters) if isinstance(hyperparameters, Mapping) else {}
    if not unknown:
        return Config.from_dict(hyperparameters)
    hints = [
        brief(key) + (f" (did you mean {nearest!r}?)" if nearest else "")
        for key, nearest in itertools.islice(unknown.items(), _MAX_NAMED_KEYS)
    ]
    hints += [f"and {len(unknown) - _MAX_NAMED_KEYS} more"] if len(unknown) > _MAX_NAMED_KEYS else []
    warnings.warn(f"hyperparameters that fastmunit does not know are ignored: {', '.join(hints)}", stacklevel=3)
    known: dict[str, Any] = {}
    for key, value in hyperparameters.items():
        if key in unknown:
            continue
        if isinstance(value, Mapping):
            value = {inner: v for inner, v in value.items() if f"{key}.{inner}" not in unknown}
        known[key] = value
    return Config.from_dict(known)


def read_weights(keys: Iterable[str], hyperparameters: Hyperparameters | None, defaults: Config) -> dict[str, float]:
    """Return loss weights by key, from `hyperparameters` or, where those do not have a key, from `defaults`."""
    if isinstance(hyperparameters, Mapping):
        return {key: float(hyperparameters.get(key, getattr(defaults, key))) for key in keys}
    source = defaults if hyperparameters is None else hyperparameters
    return {key: float(getattr(source, key)) for key in keys}
