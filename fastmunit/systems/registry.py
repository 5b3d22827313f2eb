"""Look up systems by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from fastmunit.errors import ConfigError

if TYPE_CHECKING:
    from fastmunit.config import Config
    from fastmunit.systems.base import System

_SHIPPED = ("bicyclegan", "cyclegan", "munit", "unit")
"""Each is registered by the module of its name. Help texts list them without importing the modules, and thus torch."""

_systems: dict[str, type[System]] = {}
_S = TypeVar("_S", bound="type[System]")


def register(name: str) -> Callable[[_S], _S]:
    """Register the decorated class under `name`, the value of `system:` in a configuration."""

    def enter(system: _S) -> _S:
        _systems[name] = system
        system.name = name
        return system

    return enter


def names() -> list[str]:
    """Return the names of all systems, without importing any."""
    return sorted({*_SHIPPED, *_systems})


def system_named(name: str) -> type[System]:
    """Return the class of a system. Raises ConfigError if there is no system of that name."""
    if name in _SHIPPED:
        import_module(f"fastmunit.systems.{name}")
    if name not in _systems:
        nearest = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise ConfigError(f"system {name!r} is none of {', '.join(names())}{hint}")
    return _systems[name]


def system_of(config: Config) -> type[System]:
    """Return the class of the system that `config.system` names. Raises ConfigError if there is none of that name."""
    return system_named(config.system)
