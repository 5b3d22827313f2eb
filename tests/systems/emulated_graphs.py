"""CUDA graphs on the CPU: a capture records the ops that torch dispatches, and a replay runs them on the same memory.

Memory of one pool is emulated at its worst: a replay overwrites all that other graphs have written, with NaN, except
for what it reads itself. Replays change no version of a tensor, like real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fastmunit.systems.parts import cuda_graph
from fastmunit.systems.parts.cuda_graph import Inputs, Results

Launch = tuple[Any, tuple[Any, ...], dict[str, Any], dict[int, Tensor]]


def tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def address(tensor: Tensor) -> int:
    """Return the address of a tensor's memory; 0 for an empty one."""
    return tensor.untyped_storage().data_ptr()


class EmulatedGraph(TorchDispatchMode):
    """A stand-in for torch.cuda.CUDAGraph. Inside `with`, what runs is recorded.

    Attributes:
        reads: Addresses of the memory that it reads.
        written: Everything that it allocates, by address.
        replays: Number of replays.
    """

    def __init__(self, graphs: list[EmulatedGraph]) -> None:
        super().__init__()
        self.graphs = graphs
        self.reads: set[int] = set()
        self.written: dict[int, Tensor] = {}
        self.replays = 0
        self._launches: list[Launch] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in((args, kwargs))
        known = {address(tensor) for tensor in inputs}
        changes = function._schema.is_mutable
        if changes:
            for tensor in inputs:
                if address(tensor) not in self.written and address(tensor) not in self._before:
                    self._before[address(tensor)] = (tensor.data, tensor.data.clone())
        results = function(*args, **kwargs)
        new = {k: tensor.data for k, tensor in enumerate(tensors_in(results)) if address(tensor) not in known}
        if new or changes:
            self._launches.append((function, without_versions(args), without_versions(kwargs), new))
            self.reads |= known - {0}
            self.written.update({address(tensor): tensor for tensor in new.values() if address(tensor)})
        return results

    def finish(self) -> None:
        """End the capture. A capture computes nothing, so what it has written is undone or overwritten."""
        self.graphs.append(self)
        overwrite(self.written.values())
        for tensor, before in self._before.values():
            tensor.copy_(before)

    def replay(self) -> None:
        for graph in self.graphs:
            if graph is not self:
                overwrite(tensor for where, tensor in graph.written.items() if where not in self.reads)
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, new in self._launches:
                results = function(*args, **kwargs)
                if new:
                    found = tensors_in(results)
                    for index, tensor in new.items():
                        tensor.copy_(found[index])


def without_versions(values: Any) -> Any:
    """Replace tensors by others in the same memory, whose versions are their own."""
    return tree_map(lambda value: value.data if isinstance(value, Tensor) else value, values)


def overwrite(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)


class _Event:
    def wait(self) -> None:
        pass

    record = wait


def emulate(monkeypatch: pytest.MonkeyPatch) -> list[EmulatedGraph]:
    """Let every system with `cuda_graph: true` replay emulated graphs on the CPU. Return the list of all graphs."""
    graphs: list[EmulatedGraph] = []

    def capture(body: Callable[[Inputs], Results], inputs: Inputs, memory: Any) -> tuple[EmulatedGraph, Results]:
        graph = EmulatedGraph(graphs)
        with graph:
            results = body(inputs)
        graph.finish()
        return graph, results

    def with_rates(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)

    monkeypatch.setattr(cuda_graph, "_capture", capture)
    monkeypatch.setattr(cuda_graph, "_eager", lambda body, inputs, memory: body(inputs))
    monkeypatch.setattr(cuda_graph, "make_capturable", with_rates)  # torch refuses "capturable" on the CPU
    monkeypatch.setattr(cuda_graph.CapturedIteration, "run", cuda_graph.CapturedIteration._run)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    return graphs
