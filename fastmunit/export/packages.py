"""The packages of the extra `export`."""

from __future__ import annotations

from importlib.util import find_spec

from fastmunit.errors import FastmunitError


def needed(*names: str) -> None:
    """Raise FastmunitError with the command that installs them if packages are missing."""
    if absent := missing(*names):
        raise FastmunitError(f'this needs {" and ".join(absent)}, not installed here: pip install "fastmunit[export]".')


def missing(*names: str) -> list[str]:
    """Return the packages that are not installed."""
    return [name for name in names if find_spec(name) is None]
