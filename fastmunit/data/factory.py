"""The function of a user that `data_module` names."""

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
    """Import the factory that "package.module:factory" names, and return what it gives for a configuration.

    Modules are looked for where Python looks, then in the working directory, which stays on `sys.path`: the processes
    that load images may import from there too.

    Args:
        name: The value of `data_module`.
        config: What the factory is called with.

    Raises:
        ConfigError: The module or the function is missing, or raises.
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
            f"data_module {name!r}: there is no module {error.name!r}: install it, or run in the folder that holds it "
            f"(this is {folder})."
        ) from error
    except FastmunitError:
        raise
    except Exception as error:  # of the module, which may raise anything
        raise ConfigError(f"data_module {name!r}: importing {module_name} failed: {located(error)}.") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        what = "has no" if factory is None else "can call no"
        raise ConfigError(f"data_module {name!r}: {module_name} ({module.__file__}) {what} {factory_name!r}.")
    try:
        return factory(config)
    except FastmunitError:
        raise
    except Exception as error:  # of the factory, which may raise anything
        raise ConfigError(f"data_module {name!r}: {factory_name} failed: {located(error)}.") from error


def located(error: Exception) -> str:
    """Return what the code of a user raised, and the last line of that code, or of a library where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames[1:] if not frame.filename.startswith(_LIBRARIES)]
    frame = (own or frames)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f' ({text})' if text else ''} at {frame.filename}:{frame.lineno}"
