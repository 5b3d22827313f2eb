"""The optional packages that formats need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastmunit.errors import DataError


def needed(package: str, extra: str, what: str) -> Any:
    """Import an optional package.

    Args:
        package: Name of the package to import.
        extra: The extra of fastmunit that installs it.
        what: What needs it, as the first words of the message.

    Raises:
        DataError: If it is not installed. The message has the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        name = error.name or package
        raise DataError(
            f'{what} needs the package {name}, not installed here: pip install "fastmunit[{extra}]".'
        ) from error
