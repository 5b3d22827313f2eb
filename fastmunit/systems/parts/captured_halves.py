"""The graphs of one training: of whole iterations, and of halves, which share feature maps where they can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch

from fastmunit.functional.streams import ParallelStreams
from fastmunit.systems.parts.cuda_graph import (
    Body,
    Captured,
    CapturedIteration,
    GraphMemory,
    Inputs,
    Predecessor,
    Results,
    distinct,
)
from fastmunit.systems.parts.forward_cache import Origin


class _Handover(NamedTuple):
    """A record of what the discriminators' half has left for the generators' half: the feature maps of `origin`.

    They are in the memory of a graph, or, if `captured` is None, in a `ForwardCache`.
    """

    origin: Origin
    captured: Captured | None
    inputs: dict[int, torch.Tensor]
    fresh: bool


class CapturedHalves:
    """A runner of iterations, or of their halves, as CUDA graphs in one memory pool.

    If the generators' half begins with a forward pass that the discriminators' half has computed, its graph takes the
    feature maps of that pass, with their autograd graph, from the memory of the other graph, as the backward graphs of
    `torch.cuda.make_graphed_callables` do. That is right for this very pair of calls only: no graph may have been
    replayed in between, and the `Origin` of the pass must be the same. Each call checks this. If it does not hold,
    a second graph of the generators' half, which computes everything itself, is replayed. Copies and pickles are empty.

    What a captured iteration keeps for later ones, except for gradients, must be allocated before its capture.

    Args:
        streams: The streams that captured iterations use. None: one stream.
    """

    def __init__(self, streams: ParallelStreams | None = None) -> None:
        self._memory = GraphMemory(streams)
        self._iterations: defaultdict[tuple[str, ...], CapturedIteration] = defaultdict(self._new)
        self._handover: _Handover | None = None

    def run(
        self,
        body: Body,
        inputs: Inputs,
        optimizers: Iterable[torch.optim.Optimizer],
        key: Hashable = None,
        origin: Origin | None = None,
        eagerly: bool = False,
    ) -> Results:
        """Run the halves in `inputs`. Arguments and errors are those of `CapturedIteration.run`.

        Args:
            body: Computes them from `inputs`.
            inputs: Tensors of each half.
            optimizers: The torch optimizers that `body` steps.
            key: Everything else that the launches depend on.
            origin: What the forward pass depends on that both halves begin with, if only one of them is run.
            eagerly: Run them without a graph.
        """
        iteration = self._iterations[tuple(inputs)]
        handover, self._handover = self._handover, None
        after = None
        if origin is not None and "gen" in inputs and handover is not None and handover.origin.same(origin):
            if handover.captured is None:
                eagerly = True  # the other half is about to be captured; until then, a ForwardCache has its maps
            else:
                after = Predecessor(handover.captured, handover.inputs, handover.fresh)
        results = iteration.run(body, inputs, optimizers, key, after, eagerly)
        if origin is not None and "dis" in inputs:
            captured = iteration.latest
            fixed = [] if captured is None else captured.inputs
            static = {id(given): tensor for given, tensor in zip(distinct(inputs), fixed, strict=False)}
            kept = {id(tensor): static[id(tensor)] for tensor in origin.inputs if id(tensor) in static}
            self._handover = _Handover(origin, captured, kept, iteration.captured_now)
        return results

    def _new(self) -> CapturedIteration:
        return CapturedIteration(self._memory)

    def __reduce__(self) -> tuple[type[CapturedHalves], tuple[ParallelStreams]]:
        """Copy and pickle as an empty one."""
        return CapturedHalves, (self._memory.streams,)
