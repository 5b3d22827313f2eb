"""The packages of the extra `export`."""

from __future__ import annotations

from importlib.util import find_spec

from fastmunit.errors import FastmunitError


def needed(*names: str) -> None:
    """Raise FastmunitError with the command that installs them if packages are missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise FastmunitError(
            f'this needs {" and ".join(missing)}, not installed here: pip install "fastmunit[export]".'
        )
