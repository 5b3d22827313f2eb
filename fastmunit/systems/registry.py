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

_ATTRIBUTES = ("term_names", "weight_keys")
"""Attributes that a system must define, besides the abstract methods of `System`."""

_systems: dict[str, type[System]] = {}
_S = TypeVar("_S", bound="type[System]")


def register(name: str) -> Callable[[_S], _S]:
    """Register the decorated class under `name`, the value of `system:` in a configuration.

    Raises:
        ValueError: If another module has a system of that name, or a loss term has an invalid name.
        TypeError: If the class does not define everything that a system must define.
    """

    def enter(system: _S) -> _S:
        owner = f"{__package__}.{name}" if name in _SHIPPED else getattr(_systems.get(name), "__module__", None)
        if owner not in (None, system.__module__):
            raise ValueError(f"system {name!r} is registered already, by {owner}: choose another name.")
        missing = [attribute for attribute in _ATTRIBUTES if not hasattr(system, attribute)]
        missing += sorted(system.__abstractmethods__)
        if missing:
            raise TypeError(f"system {name!r}: {system.__name__} does not define {', '.join(missing)}.")
        for term in system.term_names:
            if not term.startswith(("gen_", "dis_")) or "loss" in term:
                raise ValueError(f"system {name!r}: term {term!r} must start with gen_ or dis_, without 'loss'.")
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
        raise ConfigError(
            f"system {name!r} is none of {', '.join(names())}{hint} Import the module of a system of your own first."
        )
    return _systems[name]


def system_of(config: Config) -> type[System]:
    """Return the class of the system that `config.system` names. Raises ConfigError if there is none of that name."""
    return system_named(config.system)
