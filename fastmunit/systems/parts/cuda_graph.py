"""Iterations replayed as one CUDA graph: a launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fastmunit import distributed
from fastmunit.errors import ConfigError, TrainingError

_WARM_UP = 3


class CapturedIteration:
    """Runs iterations on a CUDA device: a few as they are, then by replaying what they launched.

    Every call is one iteration; capturing computes nothing by itself. A replay waits for the one before it, whose
    inputs and results it overwrites, also where that was on another stream. Other shapes, dtypes, parameters, settings
    of an optimizer or another `key` start anew. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._signature: Hashable = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._results: dict[str, Tensor] = {}
        self._replayed: torch.cuda.Event | None = None

    def run(
        self,
        body: Callable[..., None],
        tensors: Sequence[Tensor],
        optimizers: Iterable[torch.optim.Optimizer],
        key: Hashable = None,
        results: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> dict[str, Tensor]:
        """Run one iteration.

        Args:
            body: computes it from `tensors`; must not wait for the device or draw from the CPU's random stream.
            tensors: what `body` takes: images, random codes.
            optimizers: those that it steps, made by torch; their settings become those that a capture needs.
            key: whatever else the launches depend on, such as loss weights.
            results: what `body` has left by name, tensors without dimensions of one dtype.

        Returns:
            Copies of `results`, which the next iteration leaves alone; empty where `body` itself has run.

        Raises:
            ConfigError: a tensor is not on a CUDA device.
            TrainingError: `body` does what cannot be captured, or there is not enough memory for it.
        """
        if any(tensor.device.type != "cuda" for tensor in tensors):
            raise ConfigError(
                "iterations are replayed as CUDA graphs, but an image is not on a CUDA GPU: bring the images to the "
                "model's device; or cuda_graph: true was set for another device: set it to false."
            )
        with torch.cuda.device(tensors[0].device):
            return self._run(body, tensors, list(optimizers), key, results)

    def _run(
        self,
        body: Callable[..., None],
        tensors: Sequence[Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
        key: Hashable,
        results: Callable[[], Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        make_capturable(optimizers, tensors[0].device)
        forms = tuple((tensor.shape, tensor.dtype, tensor.stride(), tensor.device) for tensor in tensors)
        signature = (key, distributed.world_size(), forms, tuple(_settings(optimizer) for optimizer in optimizers))
        if signature != self._signature:
            self._signature, self._calls = signature, 0
            self._graph, self._inputs, self._results = None, [], {}
        self._calls += 1
        if self._calls <= _WARM_UP:
            _on_side_stream(body, tensors)
            return {}
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in tensors]
            self._graph = _capture_together(body, self._inputs)
            self._results = dict(results())
            self._replayed = torch.cuda.Event()
        else:
            assert self._replayed is not None
            self._replayed.wait()
            torch._foreach_copy_(self._inputs, list(tensors))
        self._graph.replay()
        copies = torch.stack(list(self._results.values())).unbind() if self._results else ()
        self._replayed.record()
        return dict(zip(self._results, copies, strict=True))

    def __reduce__(self) -> tuple[type[CapturedIteration], tuple[()]]:
        """Copy and pickle as an empty one."""
        return CapturedIteration, ()


def make_capturable(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """Have optimizers read their learning rate and count their steps on `device`, where a graph can follow them.

    A resumed optimizer, or a rate that a script has assigned, is brought there again.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
            group["capturable"] = True
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], device=device)


def _settings(optimizer: torch.optim.Optimizer) -> Hashable:
    """What a graph of an optimizer's step holds fast: addresses, and numbers that the host passes.

    The first step makes an optimizer's state, so it does not have the settings of the second.
    """
    groups = []
    for group in optimizer.param_groups:
        parameters = tuple((p.data_ptr(), p.requires_grad) for p in group["params"])
        numbers = tuple((k, v) for k, v in group.items() if k not in ("params", "lr", "initial_lr"))
        groups.append((group["lr"].data_ptr(), parameters, numbers))
    states = optimizer.state.values()
    return (*groups, *(v.data_ptr() for state in states for v in state.values() if isinstance(v, Tensor)))


def _capture_together(body: Callable[..., None], inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
    """Capture in all processes or in none: a replay in one alone would wait for the others for ever."""
    graph, error = None, None
    try:
        graph = _capture(body, inputs)
    except TrainingError as failure:
        error = failure
    if not distributed.all_agree(graph is not None) and error is None:
        error = TrainingError("another process could not capture an iteration as a CUDA graph; its error says why.")
    if graph is None or error is not None:
        assert error is not None
        raise error
    return graph


def _capture(body: Callable[..., None], inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # torch's own is of the device that was captured on first
    try:
        # Other threads, such as those that load images into pinned memory, may go on.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            body(*inputs)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "there is not enough GPU memory to capture an iteration as a CUDA graph, whose memory stays its own: set "
            f"cuda_graph to false, or use smaller batches or checkpointing: true. ({error})"
        ) from error
    except RuntimeError as error:
        raise TrainingError(
            f"an iteration cannot be captured as a CUDA graph: {error}\nSet cuda_graph to false, or leave out what "
            "reads values on the host (hooks, printing, anomaly detection)."
        ) from error
    return graph


def _on_side_stream(body: Callable[..., None], tensors: Sequence[Tensor]) -> None:
    """Warm up where a capture may follow: allocations and optimizer states are made on a stream of their own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        body(*tensors)
    torch.cuda.current_stream().wait_stream(stream)
