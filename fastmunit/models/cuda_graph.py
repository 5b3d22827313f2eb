"""Iterations replayed as one CUDA graph: a launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor

from fastmunit.errors import ConfigError

_WARM_UP = 3


class CapturedIteration:
    """Runs iterations on a CUDA device: a few as they are, then by replaying what they launched.

    Every call is one iteration; capturing computes nothing by itself. Other shapes, dtypes, learning rate
    tensors or another `key` start anew. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._signature: Hashable = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []

    def run(
        self,
        body: Callable[..., None],
        tensors: Sequence[Tensor],
        optimizers: Iterable[torch.optim.Optimizer],
        key: Hashable = None,
    ) -> None:
        """Run one iteration.

        Args:
            body: computes it from `tensors`; must not wait for the device or draw from the CPU's random stream.
            tensors: what `body` takes: images, random codes.
            optimizers: those that it steps: made by torch with capturable=True.
            key: whatever else the launches depend on, such as loss weights.

        Raises:
            ConfigError: a tensor is not on a CUDA device.
        """
        if any(tensor.device.type != "cuda" for tensor in tensors):
            raise ConfigError("cuda_graph: true needs a CUDA GPU: set cuda_graph to false to train on another device.")
        rates = _rates_on(tensors[0].device, optimizers)
        forms = tuple((tensor.shape, tensor.dtype, tensor.stride(), tensor.device) for tensor in tensors)
        signature = (key, rates, forms)
        if signature != self._signature:
            self._signature, self._calls, self._graph, self._inputs = signature, 0, None, []
        self._calls += 1
        if self._calls <= _WARM_UP:
            _on_side_stream(body, tensors)
            return
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in tensors]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                body(*self._inputs)
        else:
            torch._foreach_copy_(self._inputs, list(tensors))
        self._graph.replay()

    def __reduce__(self) -> tuple[type[CapturedIteration], tuple[()]]:
        """Copy and pickle as an empty one."""
        return CapturedIteration, ()


def _rates_on(device: torch.device, optimizers: Iterable[torch.optim.Optimizer]) -> tuple[int, ...]:
    """Bring the learning rates to the device, from where a graph reads them, and say which tensors they are.

    A resumed optimizer, or a rate that a script has assigned, has new ones.
    """
    found = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], device=device)
            found.append(id(group["lr"]))
    return tuple(found)


def _on_side_stream(body: Callable[..., None], tensors: Sequence[Tensor]) -> None:
    """Warm up where a capture may follow: allocations and optimizer states are made on a stream of their own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        body(*tensors)
    torch.cuda.current_stream().wait_stream(stream)
