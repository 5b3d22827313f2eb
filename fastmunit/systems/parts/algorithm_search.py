"""cuDNN's search for the fastest algorithm of each convolution, during updates only."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

from fastmunit.systems.parts.cuda_graph import Inputs

_SHAPES = 16


class AlgorithmSearch:
    """A switch that turns cuDNN's search on during an update and restores torch's global setting after it.

    cuDNN times all algorithms once per shape of a convolution and uses the fastest one from then on, so it pays where
    shapes recur. The first update with images of new shapes therefore runs without the search, and only the last 16
    sets of shapes are remembered: a training whose images have ever new shapes never searches.

    The search may choose other algorithms, which round differently, in another process. It is left out if
    deterministic algorithms are requested of torch or of cuDNN. A search that the user has turned on stays on.

    Args:
        enabled: False never turns the search on.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._known: deque[Hashable] = deque(maxlen=_SHAPES)

    @contextmanager
    def during(self, inputs: Inputs) -> Iterator[None]:
        """Search inside the with-block if that pays for the shapes of `inputs`."""
        first = next(iter(inputs.values()))[0]
        if not (self._enabled and first.device.type == "cuda") or _deterministic():
            yield
            return
        shapes = tuple((half, *(tensor.shape for tensor in tensors)) for half, tensors in inputs.items())
        if shapes not in self._known:
            self._known.append(shapes)
            yield
            return
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


def _deterministic() -> bool:
    return torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
