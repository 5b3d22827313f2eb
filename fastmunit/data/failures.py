"""Errors about images that were skipped, reported after all others are done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastmunit.errors import DataError
from fastmunit.files import printable

_NAMED = 100


class Failure(NamedTuple):
    """A skipped image and the reason."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """Return the reason, preceded by the path if the reason does not contain it."""
        path = printable(self.path)
        return self.reason if path in self.reason else f"{path}: {self.reason}"


def unreadable(count: int) -> str:
    """Return the beginning of a sentence about images that could not be read."""
    return f"{'1 image' if count == 1 else f'{count:,} images'} could not be read"


def raise_failures(failures: Sequence[Failure], summary: str) -> None:
    """Raise a DataError that names the skipped images, if there are any.

    Args:
        failures: The skipped images and the reasons.
        summary: First words of the message.
    """
    if not failures:
        return
    lines = [f"\n  {failure}" for failure in failures[:_NAMED]]
    if len(failures) > _NAMED:
        lines.append(f"\n  and {len(failures) - _NAMED} more")
    raise DataError(f"{summary}:{''.join(lines)}")
