"""The choice of what is stored and what is computed again, by the free disk space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastmunit.errors import FastmunitError
from fastmunit.files import printable
from fastmunit.out_of_core.maps import Map, Reduction
from fastmunit.out_of_core.placement import Limits, Placement, place
from fastmunit.out_of_core.schedule import CHEAP, Pass, Schedule
from fastmunit.region import Region


@dataclass(frozen=True)
class Choice:
    """A schedule and where its maps are stored.

    Attributes:
        passes: The passes.
        placement: Where maps are stored, and the sizes of tiles.
        usual: The placement that would be used with a larger disk, or None if this is it.
    """

    passes: list[Pass]
    placement: Placement
    usual: Placement | None = None


def choose(
    outputs: Sequence[tuple[Map, Region]],
    reductions: Sequence[Reduction],
    limits: Limits,
    free: int,
    folder: Path,
) -> Choice:
    """Return the schedule with the least work among those whose maps fit on the disk.

    Usually, maps are stored unless computing them again takes less time than reading them. If these do not fit, more of
    them are computed again where they are read: the fewer multiplications a map takes, the sooner.

    Args:
        outputs: Maps to write to sinks, with the part of each that is written.
        reductions: Further statistics to compute.
        limits: The memory.
        free: Bytes that are free on the disk.
        folder: The scratch folder, for the error.

    Raises:
        FastmunitError: If disk or memory are too small for all of them.
    """
    usual = _placed(outputs, reductions, CHEAP, limits)
    if usual.placement.disk_bytes <= free:
        return usual
    smaller = []
    counts = sorted({x.products for step in usual.passes for x in step.written if x.products >= CHEAP})
    for count in counts:
        try:
            smaller.append(_placed(outputs, reductions, count + 1, limits))
        except FastmunitError:  # larger halos do not fit in the memory
            continue
    fitting = [choice for choice in smaller if choice.placement.disk_bytes <= free]
    if fitting:
        best = min(fitting, key=lambda choice: choice.placement.work)
        return Choice(best.passes, best.placement, usual.placement)
    needed = min(choice.placement.disk_bytes for choice in (usual, *smaller))
    raise FastmunitError(
        f"the maps of this image need {needed / 1e9:,.1f} GB on disk, even if layers are computed again instead "
        f"of being stored, and {printable(folder)} has {free / 1e9:,.1f} GB left: give a --scratch folder on a "
        "larger disk, or more --memory."
    )


def _placed(
    outputs: Sequence[tuple[Map, Region]],
    reductions: Sequence[Reduction],
    cheap: int,
    limits: Limits,
) -> Choice:
    passes = Schedule(outputs, reductions, cheap).passes
    return Choice(passes, place(passes, limits))
