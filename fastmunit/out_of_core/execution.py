"""Runs the passes of a schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.out_of_core.drawn import Drawn
from fastmunit.out_of_core.heap import return_freed_memory
from fastmunit.out_of_core.journal import Journal, Part
from fastmunit.out_of_core.maps import Map
from fastmunit.out_of_core.moments import Moments, moments_of, no_moments
from fastmunit.out_of_core.pixels import PixelSink
from fastmunit.out_of_core.placement import Placement
from fastmunit.out_of_core.schedule import Pass
from fastmunit.out_of_core.storage import FileMap, MemoryMap, PlanarFile, file_name
from fastmunit.out_of_core.tiling import tiles_of
from fastmunit.region import Region

_NOTE_SECONDS = 5.0
"""Time between two notes of the finished tiles of a pass."""

Storage = FileMap | PlanarFile | MemoryMap


@dataclass(frozen=True)
class Progress:
    """The part of a translation that is done.

    Attributes:
        done: Multiplications that are done or need not be repeated, in all passes.
        total: Multiplications of all passes.
        name: Name of the pass.
    """

    done: int
    total: int
    name: str

    @property
    def fraction(self) -> float:
        """The part that is done."""
        return self.done / self.total if self.total else 1.0


OnProgress = Callable[[Progress], object]


class Execution:
    """The passes of a schedule while they run.

    Args:
        passes: The passes.
        placement: Where maps are stored, and the sizes of tiles.
        journal: The record of what is done, for maps on disk.
        device: Device of the networks.
    """

    def __init__(self, passes: Sequence[Pass], placement: Placement, journal: Journal, device: torch.device) -> None:
        self._passes, self._placement = passes, placement
        self._journal, self._device = journal, device
        self._stored: dict[Map, Storage] = {}
        self._work = {step: max(1, step.products) for step in passes}

    def run(self, sinks: Sequence[PixelSink], progress: OnProgress) -> None:
        """Run all passes whose results are not there yet.

        Args:
            sinks: Where outputs are written.
            progress: Called after each tile.

        Raises:
            FastmunitError: If the disk is full.
        """
        self._recover()
        needed = self._needed()
        total, done = sum(self._work.values()), 0
        try:
            for step in self._passes:
                if step in needed:
                    for part in self._run(step, sinks):
                        progress(Progress(done + int(part * self._work[step]), total, step.name))
                done += self._work[step]
                for x in step.removes:
                    self._remove(x)
            progress(Progress(total, total, ""))
        finally:
            for storage in self._stored.values():
                if not isinstance(storage, MemoryMap):
                    storage.close()

    def _recover(self) -> None:
        """Take over statistics and complete maps of an earlier run."""
        for step in self._passes:
            if step.reduction is not None:
                step.reduction.moments = self._journal.moments.get(step.name)
            for x in step.written:
                if x in self._placement.in_memory or x.name not in self._journal.maps:
                    continue
                storage = self._create(x)
                if not isinstance(storage, MemoryMap) and storage.is_complete():
                    self._stored[x] = storage

    def _needed(self) -> set[Pass]:
        """Return the passes that must run."""
        needed: set[Pass] = set()
        missing: set[Map] = set()
        for step in reversed(self._passes):
            unknown = step.reduction is not None and step.reduction.moments is None
            if step.sinks or unknown or not missing.isdisjoint(step.written):
                needed.add(step)
                missing |= {x for x in step.reads if x not in self._stored}
        return needed

    def _run(self, step: Pass, sinks: Sequence[PixelSink]) -> Iterator[float]:
        """Run a pass. Yield the part of it that is done, after each tile."""
        for x in step.written:
            if x not in self._stored:
                self._stored[x] = self._create(x)
        if isinstance(step.target, Drawn):
            yield from self._draw(step.target)
        else:
            yield from self._compute(step, sinks)
        on_disk = [x.name for x in step.written if x not in self._placement.in_memory]
        moments = {}
        if step.reduction is not None:
            moments[step.name] = step.reduction.known()
        if on_disk or moments:
            self._journal.finished(step.name, on_disk, moments)

    def _draw(self, x: Drawn) -> Iterator[float]:
        storage, position = self._stored[x], 0
        assert not isinstance(storage, FileMap)
        for piece in x.stream.pieces():
            storage.append(piece.cpu(), position)
            position += len(piece)
            yield position / (x.channels * x.height * x.width)

    def _compute(self, step: Pass, sinks: Sequence[PixelSink]) -> Iterator[float]:
        tiles = list(tiles_of(step.extent, *self._placement.tiles[step]))
        reduces = step.reduction is not None and step.reduction.moments is None
        first, moments = self._resumed(step, tiles)
        can_resume, noted = self._can_resume(step), time.monotonic()
        for number, region in enumerate(tiles[first:], first):
            tile = self._value(step, step.target, region, region)
            if reduces:
                moments = moments.merged(moments_of(tile))
            if step.stores:
                self._stored[step.target].write(tile, region)
            if step.sinks:
                pixels = tile.cpu()
                for sink in step.sinks:
                    sinks[sink].write(pixels, region)
                del pixels
            del tile
            return_freed_memory()
            if can_resume and time.monotonic() - noted >= _NOTE_SECONDS:
                noted = time.monotonic()
                self._journal.progressed(step.name, Part(self._placement.tiles[step], number + 1, moments))
            yield (number + 1) / len(tiles)
        if reduces:
            assert step.reduction is not None
            step.reduction.moments = moments

    def _can_resume(self, step: Pass) -> bool:
        """Return True if finished tiles of a pass outlive the process. Outputs do not, before they are complete."""
        return not step.sinks and not any(x in self._placement.in_memory for x in step.written)

    def _resumed(self, step: Pass, tiles: Sequence[Region]) -> tuple[int, Moments]:
        """Return the number of the first tile that must be computed, and the statistics of those before."""
        nothing = 0, no_moments(step.target.channels)
        part = self._journal.parts.get(step.name)
        if part is None or part.tile != self._placement.tiles[step] or not self._can_resume(step):
            return nothing
        done = tiles[: part.stored]
        files = [storage for storage in map(self._stored.get, step.written) if isinstance(storage, FileMap)]
        is_stored = all(storage.has(done[-1]) for storage in files)
        is_measured = step.reduction is None or part.moments.count == sum(tile.height * tile.width for tile in done)
        return (len(done), part.moments) if is_stored and is_measured else nothing

    def _value(self, step: Pass, x: Map, region: Region, tile: Region) -> Tensor:
        """Return the values of a map in a region, for a tile of the pass. They may be overwritten."""
        if x in step.reads:
            return self._stored[x].read(region).to(self._device)
        inputs = [self._value(step, source, part, tile) for source, part in zip(x.inputs, x.needs(region), strict=True)]
        values = x.compute(region, inputs)
        if x is step.also:
            inner = values[:, :, tile.top - region.top :, tile.left - region.left :]
            self._stored[x].write(inner[:, :, : tile.height, : tile.width], tile)
        return values

    def _create(self, x: Map) -> Storage:
        shape = (x.channels, x.height, x.width)
        planar = isinstance(x, Drawn)
        if x in self._placement.in_memory:
            return MemoryMap(shape, x.dtype, planar)
        path = self._journal.folder / file_name(x)
        return PlanarFile(path, shape, x.dtype) if planar else FileMap(path, shape, x.dtype)

    def _remove(self, x: Map) -> None:
        storage = self._stored.pop(x, None)
        if storage is not None:
            storage.remove()
