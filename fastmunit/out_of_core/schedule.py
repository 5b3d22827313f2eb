"""The order in which maps are computed and stored, and when they are removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fastmunit.out_of_core.drawn import Drawn
from fastmunit.out_of_core.maps import Map, Reduction
from fastmunit.region import Region

CHEAP = 256
"""A convolution with fewer multiplications per value is computed again where it is read, instead of being stored.

Storing a value writes and reads four bytes, in which time a core multiplies about as often.
"""


@dataclass(eq=False)
class Pass:
    """One pass over all tiles of a map.

    Attributes:
        target: The map.
        stores: Store the map.
        reduction: Statistics of the map to compute.
        sinks: Outputs to write the map to.
        also: Map of the same size to store on the way, which the target reads.
        reads: Stored maps that are read.
        removes: Stored maps that no later pass reads.
        extent: The part of the map that is computed.
    """

    target: Map
    stores: bool
    reduction: Reduction | None
    extent: Region
    sinks: list[int] = field(default_factory=list)
    also: Map | None = None
    reads: tuple[Map, ...] = ()
    removes: list[Map] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the pass, which is the same in each run."""
        return self.target.name

    @property
    def written(self) -> tuple[Map, ...]:
        """The maps that the pass stores."""
        return (() if self.also is None else (self.also,)) + ((self.target,) if self.stores else ())

    def computed(self) -> list[Map]:
        """Return the maps that are computed for each tile, each once."""
        return list(dict.fromkeys(computed_by(self.target, self.reads)))

    @property
    def products(self) -> int:
        """Multiplications of the pass, without those of halos."""
        share = self.extent.height * self.extent.width / (self.target.height * self.target.width)
        counts = (x.products * x.channels * x.height * x.width for x in self.computed())
        return int(share * sum(counts))


def computed_by(target: Map, stored: Sequence[Map]) -> Iterator[Map]:
    """Yield the maps that are computed when a map is, down to those that are stored."""
    if target not in stored:
        yield target
        for x in target.inputs:
            yield from computed_by(x, stored)


class Schedule:
    """The passes that compute some maps.

    Args:
        outputs: Maps to write to sinks, with the part of each that is written.
        reductions: Further statistics to compute.
        cheap: A convolution with fewer multiplications per value is computed again instead of being stored, if its
            input is stored or an image.

    Attributes:
        passes: The passes, in order.
    """

    def __init__(
        self, outputs: Sequence[tuple[Map, Region]], reductions: Sequence[Reduction] = (), cheap: int = CHEAP
    ) -> None:
        self._cheap = cheap
        roots = [*(x for x, _ in outputs), *(reduction.source for reduction in reductions)]
        self._maps = reachable(roots)
        self._readers: dict[Map, list[Map]] = {x: [] for x in self._maps}
        for reader in self._maps:
            for x in reader.inputs:
                self._readers[x].append(reader)
        self._reductions = {r.source: r for x in self._maps for r in x.reductions if r.moments is None}
        self._reductions |= {r.source: r for r in reductions}
        self._stored: dict[Map, bool] = {}
        for x in self._maps:  # inputs come before what reads them
            self._stored[x] = self._is_stored(x)
        self._done: set[Map] = set()
        self.passes: list[Pass] = []
        for x, extent in outputs:
            self._output(x, extent)
        for reduction in reductions:
            self._require_reduction(reduction)
        self._merge()
        self._remove()

    def _is_stored(self, x: Map) -> bool:
        """Return True if a map is stored when it has been computed."""
        readers = len(self._readers[x])
        if isinstance(x, Drawn):
            return True
        if readers == 0:
            return False
        if x.products:
            if not (x in self._reductions or readers > 1 or self._is_windowed_later(x)):
                return False
            return x.products >= self._cheap or any(self._recomputes(source) for source in x.inputs)
        # Sums of residual blocks: each contains the one before.
        return len(x.inputs) > 1 and readers > 1 and not x.is_windowed

    def _recomputes(self, x: Map) -> bool:
        """Return True if reading a map computes a convolution."""
        if self._stored.get(x):
            return False
        return x.products > 0 or any(self._recomputes(source) for source in x.inputs)

    def _is_windowed_later(self, x: Map) -> bool:
        """Return True if a map is read in windows, before anything is stored."""
        readers = self._readers[x]
        return any(reader.is_windowed or self._is_windowed_later(reader) for reader in readers)

    def _output(self, x: Map, extent: Region) -> None:
        sink = sum(len(done.sinks) for done in self.passes)
        for done in self.passes:
            if done.sinks and done.target is x:
                done.sinks.append(sink)
                return
        self._require_parts(x)
        self.passes.append(Pass(x, False, None, extent, [sink]))

    def _require(self, x: Map) -> None:
        """Add the passes that must have run before a map can be read."""
        if x in self._done:
            return
        self._done.add(x)
        self._require_parts(x)
        if self._stored[x]:
            self.passes.append(Pass(x, True, self._reductions.get(x), x.whole))

    def _require_parts(self, x: Map) -> None:
        """Add the passes that must have run before a map can be computed."""
        for source in x.inputs:
            self._require(source)
        for reduction in x.reductions:
            if reduction.moments is None:
                self._require_reduction(reduction)

    def _require_reduction(self, reduction: Reduction) -> None:
        x = reduction.source
        self._require(x)
        if not self._stored[x] and not any(done.reduction is reduction for done in self.passes):
            self.passes.append(Pass(x, False, reduction, x.whole))

    def _merge(self) -> None:
        """Store sums while the convolution after them is computed."""
        merged: list[Pass] = []
        for step in self.passes:
            if merged and self._can_merge(merged[-1], step):
                step.also = merged.pop().target
            merged.append(step)
        self.passes = merged

    def _can_merge(self, before: Pass, step: Pass) -> bool:
        """Return True if a pass can store the sum that the pass before it stores."""
        x = before.target
        is_sum = before.stores and before.reduction is None and not x.products and not isinstance(x, Drawn)
        if not is_sum or before.also is not None or before.extent != step.extent:
            return False
        waiting = list(step.target.inputs)
        while waiting:
            source = waiting.pop()
            if source is x:
                return True
            if not self._stored[source]:
                waiting += source.inputs
        return False

    def _remove(self) -> None:
        """Note what each pass reads, and after which pass it can be removed."""
        last: dict[Map, Pass] = {}
        for step in self.passes:
            step.reads = tuple(dict.fromkeys(self._read_by(step)))
            last |= dict.fromkeys((*step.written, *step.reads), step)
        for x, step in last.items():
            step.removes.append(x)

    def _read_by(self, step: Pass) -> Iterator[Map]:
        """Yield the stored maps that a pass reads."""
        waiting = list(step.target.inputs)
        while waiting:
            x = waiting.pop()
            if self._stored[x] and x is not step.also:
                yield x
            else:
                waiting += x.inputs


def reachable(roots: Sequence[Map]) -> list[Map]:
    """Return all maps that some maps are computed from, with themselves, inputs before what reads them."""
    found: dict[Map, None] = {}

    def visit(x: Map) -> None:
        if x not in found:
            for source in x.inputs:
                visit(source)
            found[x] = None

    for root in roots:
        visit(root)
    return list(found)
