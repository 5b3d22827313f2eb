"""Calls the user's function that `data_module` names."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from typing import Any

from fastmunit.config import Config
from fastmunit.errors import ConfigError, FastmunitError

_LIBRARIES = ("<frozen", *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def call_factory(name: str, config: Config) -> Any:
    """Import the factory named "package.module:factory", call it with a configuration, and return its result.

    Modules are searched on Python's path, then in the working directory, which stays on `sys.path` because processes
    that load images may import from there too.

    Args:
        name: Value of `data_module`.
        config: Argument of the factory.

    Raises:
        ConfigError: If the module or the function is missing, or raises.
    """
    module_name, _, factory_name = name.partition(":")
    folder = os.getcwd()  # noqa: PTH109
    if not {"", folder} & set(sys.path):
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"data_module {name!r}: importing {module_name} failed: {located(error)}.") from error
        raise ConfigError(
            f"data_module {name!r}: there is no module {error.name!r}: install it, or run in the folder that "
            f"contains it (this is {folder})."
        ) from error
    except FastmunitError:
        raise
    except Exception as error:  # the module may raise anything
        raise ConfigError(f"data_module {name!r}: importing {module_name} failed: {located(error)}.") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        problem = "has no" if factory is None else "has no callable"
        raise ConfigError(f"data_module {name!r}: {module_name} ({module.__file__}) {problem} {factory_name!r}.")
    try:
        return factory(config)
    except FastmunitError:
        raise
    except Exception as error:  # the factory may raise anything
        raise ConfigError(f"data_module {name!r}: {factory_name} failed: {located(error)}.") from error


def located(error: Exception) -> str:
    """Return an exception of user code as text, with the last line of that code, or else of a library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames[1:] if not frame.filename.startswith(_LIBRARIES)]
    frame = (own or frames)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f' ({text})' if text else ''} at {frame.filename}:{frame.lineno}"
