"""Options of memory, scratch folder and statistics for images that are larger than memory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fastmunit.translation.large_images import Resources

_large_option = partial(typer.Option, rich_help_panel="Large images")

Memory = Annotated[
    str | None,
    _large_option(
        help="Translate in this much memory besides that of the program, such as 8GB. Images that do not fit are "
        "translated out of core, with the same result [what is free].",
        metavar="SIZE",
    ),
]
Scratch = Annotated[
    Path | None,
    _large_option(
        help="Keep maps of images that do not fit in the memory in this folder; the same command resumes from them "
        "after an interruption [.scratch in the output folder].",
        metavar="FOLDER",
    ),
]
StatisticsOption = Annotated[
    str,
    _large_option(
        "--statistics",
        help="Normalize with the statistics of the image; of each tile of 512x512 pixels (local: another function, "
        "whose tiles can be visible); or with those in this file.",
        metavar="image|local|FILE",
    ),
]
SaveStatistics = Annotated[
    Path | None,
    _large_option(
        "--save-statistics",
        help="Write the statistics of the image, only one, to this file: with --statistics and the same styles, other "
        "images get the same look.",
        metavar="FILE",
    ),
]


def resources_of(memory: str | None, scratch: Path, statistics: str, save_statistics: Path | None) -> "Resources":
    """Return the values of the options.

    Raises:
        FastmunitError: If one of them cannot be used.
    """
    from fastmunit.errors import FastmunitError
    from fastmunit.files import require_writable
    from fastmunit.translation.large_images import Resources, memory_of, save_statistics_of, statistics_of

    if save_statistics is not None:
        require_writable(save_statistics)
    try:
        return Resources(memory_of(memory), scratch, statistics_of(statistics), save_statistics_of(save_statistics))
    except ValueError as error:
        if isinstance(error, FastmunitError):
            raise
        raise FastmunitError(f"--{str(error).replace('save_statistics', 'save-statistics')}.") from None


def percentage(bar: Any) -> Callable[[float], object]:
    """Return a function that shows the part of an image that is done in a bar of images."""
    return lambda done: bar.set_postfix_str("" if done >= 1 else f"{done:.0%} of this image")
