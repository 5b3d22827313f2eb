"""Iterations replayed as one CUDA graph: a single launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit import distributed
from fastmunit.errors import ConfigError, TrainingError

_WARM_UP = 3

Inputs = Mapping[str, tuple[Tensor, ...]]
"""Tensors of each half of an iteration, "gen" or "dis", in the order in which the halves run."""


class Results(NamedTuple):
    """Results of an iteration.

    Attributes:
        losses: 0-d tensors of one dtype by name.
        outputs: Other tensors.
    """

    losses: dict[str, Tensor]
    outputs: tuple[Tensor, ...] = ()


Body = Callable[[Inputs], Results]


class CapturedIteration:
    """A runner of iterations on a CUDA device: it runs a few as they are, captures one, and replays it from then on.

    Every call is one iteration; capturing computes nothing by itself. A replay waits for the previous one, whose
    inputs and results it overwrites, even if that ran on another stream. Other shapes, dtypes, parameters, optimizer
    settings or another `key` start over. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._signature: Hashable = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._results = Results({})
        self._replayed: torch.cuda.Event | None = None

    def run(
        self, body: Body, inputs: Inputs, optimizers: Iterable[torch.optim.Optimizer], key: Hashable = None
    ) -> Results:
        """Run one iteration.

        Args:
            body: Computes it from `inputs`. It must not wait for the device or draw from the CPU's random stream.
            inputs: What `body` takes: images and random codes. A tensor may occur several times.
            optimizers: The torch optimizers that `body` steps. Their settings become those that a capture needs.
            key: Everything else that the launches depend on, such as loss weights.

        Returns:
            The results of `body`, or copies of them, which the next iteration does not overwrite.

        Raises:
            ConfigError: If a tensor is not on a CUDA device.
            TrainingError: If `body` does something that cannot be captured, or there is not enough memory for it.
        """
        tensors = _distinct(inputs)
        if any(tensor.device.type != "cuda" for tensor in tensors):
            raise ConfigError(
                "iterations are replayed as CUDA graphs, but an image is not on a CUDA GPU: bring the images to the "
                "model's device; or cuda_graph: true was set for another device: set it to false."
            )
        with torch.cuda.device(tensors[0].device):
            return self._run(body, inputs, list(optimizers), key)

    def _run(self, body: Body, inputs: Inputs, optimizers: Sequence[torch.optim.Optimizer], key: Hashable) -> Results:
        tensors = _distinct(inputs)
        make_capturable(optimizers, tensors[0].device)
        forms = tuple((tensor.shape, tensor.dtype, tensor.stride(), tensor.device) for tensor in tensors)
        signature = (key, distributed.world_size(), forms, tuple(_settings(optimizer) for optimizer in optimizers))
        if signature != self._signature:
            self._signature, self._calls = signature, 0
            self._graph, self._inputs, self._results = None, [], Results({})
        self._calls += 1
        if self._calls <= _WARM_UP:
            return _on_side_stream(body, inputs)
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in tensors]
            self._graph, self._results = _capture_together(body, _replaced(inputs, self._inputs))
            self._replayed = torch.cuda.Event()
        else:
            assert self._replayed is not None
            self._replayed.wait()
            torch._foreach_copy_(self._inputs, tensors)
        self._graph.replay()
        losses, outputs = self._results
        copies = torch.stack(list(losses.values())).unbind() if losses else ()
        copied = Results(dict(zip(losses, copies, strict=True)), tuple(output.clone() for output in outputs))
        self._replayed.record()
        return copied

    def __reduce__(self) -> tuple[type[CapturedIteration], tuple[()]]:
        """Copy and pickle as an empty one."""
        return CapturedIteration, ()


def _distinct(inputs: Inputs) -> list[Tensor]:
    """Return every tensor once, in order."""
    return list({id(tensor): tensor for tensors in inputs.values() for tensor in tensors}.values())


def _replaced(inputs: Inputs, tensors: Sequence[Tensor]) -> Inputs:
    """Return `inputs` with `tensors` instead of its `_distinct` tensors."""
    new = {id(old): tensor for old, tensor in zip(_distinct(inputs), tensors, strict=True)}
    return {half: tuple(new[id(old)] for old in olds) for half, olds in inputs.items()}


def make_capturable(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """Make optimizers read their learning rate and count their steps on `device`, where a graph can follow them.

    The state of a resumed optimizer, or a learning rate that a script has assigned, is moved there again.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
            group["capturable"] = True
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], device=device)


def _settings(optimizer: torch.optim.Optimizer) -> Hashable:
    """Return what a graph of an optimizer's step fixes: addresses, and numbers that the host passes.

    The first step creates an optimizer's state, so the settings differ between the first step and the second.
    """
    groups = []
    for group in optimizer.param_groups:
        parameters = tuple((p.data_ptr(), p.requires_grad) for p in group["params"])
        numbers = tuple((k, v) for k, v in group.items() if k not in ("params", "lr", "initial_lr"))
        groups.append((group["lr"].data_ptr(), parameters, numbers))
    states = optimizer.state.values()
    return (*groups, *(v.data_ptr() for state in states for v in state.values() if isinstance(v, Tensor)))


def _capture_together(body: Body, inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, Results]:
    """Capture in all processes or in none: a process that replays alone would wait for the others forever."""
    captured, error = None, None
    try:
        captured = _capture(body, inputs)
    except TrainingError as failure:
        error = failure
    if not distributed.all_agree(captured is not None) and error is None:
        error = TrainingError("another process could not capture an iteration as a CUDA graph; its error says why.")
    if captured is None or error is not None:
        assert error is not None
        raise error
    return captured


def _capture(body: Body, inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, Results]:
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # torch's default capture stream belongs to the device of the first capture
    try:
        # Other threads, such as those that load images into pinned memory, may go on.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            results = body(inputs)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "there is not enough GPU memory to capture an iteration as a CUDA graph, which keeps its memory: set "
            f"cuda_graph to false, or use smaller batches or checkpointing: true. ({error})"
        ) from error
    except RuntimeError as error:
        raise TrainingError(
            f"an iteration cannot be captured as a CUDA graph: {error}\nSet cuda_graph to false, or leave out what "
            "reads values on the host (hooks, printing, anomaly detection)."
        ) from error
    return graph, results


def _on_side_stream(body: Body, inputs: Inputs) -> Results:
    """Run an iteration on a stream of its own, as a capture does, so that allocations and states are ready for one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = body(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return results
