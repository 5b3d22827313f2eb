"""Look up systems by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import torch

from fastmunit.config import Config
from fastmunit.errors import ConfigError

if TYPE_CHECKING:
    from fastmunit.systems.base import System
    from fastmunit.systems.translator import Translator

_MODULES = ("bicyclegan", "cyclegan", "munit", "unit")
_systems: dict[str, type[System]] = {}
_S = TypeVar("_S", bound="type[System]")


def register(name: str) -> Callable[[_S], _S]:
    """Class decorator: make a system known as `name`, the value of `system:` in a configuration."""

    def enter(system: _S) -> _S:
        _systems[name] = system
        system.name = name
        return system

    return enter


def names() -> list[str]:
    """Names of all systems."""
    for module in _MODULES:
        import_module(f"fastmunit.systems.{module}")
    return sorted(_systems)


def system_named(name: str) -> type[System]:
    """The class of a system. Raises ConfigError when there is none of that name."""
    known = names()
    if name not in _systems:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise ConfigError(f"system {name!r} is none of {', '.join(known)}{hint}")
    return _systems[name]


def system_of(config: Config) -> type[System]:
    """The class of the system that `config.system` names. Raises ConfigError when there is none of that name."""
    return system_named(config.system)


def load_translator(
    checkpoint: str | os.PathLike[str], config: Config, direction: str = "a2b", device: str | torch.device = "cpu"
) -> Translator:
    """Build what translates one way from a gen_*.pt alone.

    Args:
        checkpoint: a gen_*.pt or ema_*.pt.
        config: of the run it comes from.
        direction: "a2b" or "b2a".
        device: where to compute.

    Raises:
        CheckpointError: the file is missing, truncated, of another kind, or of other sizes than `config`.
        ConfigError: there is no such system, or it does not translate in that direction.
    """
    system = system_of(config)
    return system.translator(system.load_generators(checkpoint, config, device), config, direction)


def load_generators(
    checkpoint: str | os.PathLike[str], config: Config, device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, ...]:
    """Build the generators from a gen_*.pt alone, in eval mode, on `device`: (gen_a, gen_b) of MUNIT and its kin.

    The global RNG is not touched.

    Raises:
        CheckpointError: the file is missing, truncated, an optimizer.pt or dis_*.pt, or of other sizes than `config`.
    """
    return tuple(system_of(config).load_generators(checkpoint, config, device).values())
