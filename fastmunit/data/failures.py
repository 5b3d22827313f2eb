"""Images that were left out of a piece of work, named when the rest of it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastmunit.errors import DataError
from fastmunit.files import shown

_NAMED = 100


class Failure(NamedTuple):
    """An image that was left out, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """Return the reason, with the path where the reason does not say it."""
        path = shown(self.path)
        return self.reason if path in self.reason else f"{path}: {self.reason}"


def unreadable(count: int) -> str:
    """Return the beginning of a sentence about images that could not be read."""
    return f"{'1 image' if count == 1 else f'{count:,} images'} could not be read"


def raise_failures(failures: Sequence[Failure], summary: str) -> None:
    """Raise DataError that names the images that were left out; do nothing where there are none.

    Args:
        failures: The images, and why.
        summary: What the message starts with.
    """
    if not failures:
        return
    lines = [f"\n  {failure}" for failure in failures[:_NAMED]]
    if len(failures) > _NAMED:
        lines.append(f"\n  and {len(failures) - _NAMED} more")
    raise DataError(f"{summary}:{''.join(lines)}")
