"""Iterations replayed as one CUDA graph: a single launch instead of thousands."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from fastmunit import distributed
from fastmunit.errors import ConfigError, TrainingError
from fastmunit.functional.streams import ParallelStreams

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


class Captured:
    """An iteration, or a half of one, as a graph.

    Attributes:
        graph: The graph.
        owned: Inputs that a replay copies into, by the index of the tensor that it copies.
        results: What the graph writes.
        after: The graph whose memory this one reads, and which must be replayed directly before. None: it reads none.
        inputs: All inputs, in the order of `distinct`.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        inputs: list[Tensor],
        owned: Mapping[int, Tensor],
        results: Results,
        after: Captured | None,
    ) -> None:
        self.graph, self.inputs, self.owned, self.results, self.after = graph, inputs, owned, results, after
        self.replayed = torch.cuda.Event()


class Predecessor(NamedTuple):
    """A replay whose feature maps, still in memory and with their autograd graph, a capture can use.

    Attributes:
        captured: The graph that was replayed.
        inputs: Its inputs that the next iteration has as well, by the id() of the tensors that were copied into them.
        fresh: True if it was captured for that replay, so that the autograd graph is unused.
    """

    captured: Captured
    inputs: Mapping[int, Tensor]
    fresh: bool


class GraphMemory:
    """The memory pool of all graphs of a training, and the stream on which they are captured.

    Graphs of one pool use the same memory. What a replay leaves there, gradients included, is valid until the replay
    of another graph. Replays therefore follow each other, on whatever streams, and results are copied at once.

    Args:
        streams: The streams that iterations use inside a graph. None: one stream.

    Attributes:
        streams: The same.
    """

    def __init__(self, streams: ParallelStreams | None = None) -> None:
        self.streams = ParallelStreams(False) if streams is None else streams
        self._replayed: torch.cuda.Event | None = None
        self._failed: list[torch.cuda.CUDAGraph] = []
        self._iterations: WeakSet[CapturedIteration] = WeakSet()
        self._streams: dict[int, torch.cuda.Stream] = {}

    def add(self, iteration: CapturedIteration) -> None:
        """Let an iteration use this memory."""
        self._iterations.add(iteration)

    def drop(self) -> None:
        """Drop all graphs.

        They are captured together, because a graph keeps the gradients of those that were captured before it.
        """
        for iteration in self._iterations:
            iteration.drop()

    def graph(self) -> torch.cuda.CUDAGraph | None:
        """Return a graph that has the pool. Without any graph, torch has freed it."""
        return next((graph for iteration in self._iterations for graph in iteration.graphs()), None)

    def stream(self) -> torch.cuda.Stream:
        """Return the stream of the current device for captures and for the iterations before them.

        It is one stream, because autograd runs backward on the stream of forward, which may be in another graph.
        """
        # torch's default capture stream belongs to the device of the first capture.
        device = torch.cuda.current_device()
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream()
        return self._streams[device]

    def replay(self, captured: Captured, tensors: Sequence[Tensor] | None) -> Results:
        """Replay a graph, with other inputs unless `tensors` is None, and return copies of its results."""
        if self._replayed is not None:
            self._replayed.wait()
        if tensors is not None and captured.owned:
            torch._foreach_copy_([*captured.owned.values()], [tensors[index] for index in captured.owned])
        captured.graph.replay()
        losses, outputs = captured.results
        copies = torch.stack(list(losses.values())).unbind() if losses else ()
        copied = Results(dict(zip(losses, copies, strict=True)), tuple(output.clone() for output in outputs))
        captured.replayed.record()
        self._replayed = captured.replayed
        return copied

    def abandon(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
        """End the use of the pool by a capture that has failed, so that another one can begin.

        If CUDA reports the failure at the end of the capture, torch leaves the pool in use.
        """
        self._failed.append(graph)  # torch's allocators keep pointers to it
        try:
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        except RuntimeError:  # torch has done so
            return
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)

    def __reduce__(self) -> tuple[type[GraphMemory], tuple[ParallelStreams]]:
        """Copy and pickle as an empty one."""
        return GraphMemory, (self.streams,)


class CapturedIteration:
    """A runner of iterations on a CUDA device: it runs a few as they are, captures one, and replays it from then on.

    Every call is one iteration; capturing computes nothing by itself. A replay waits for the previous one, whose
    inputs and results it overwrites, even if that ran on another stream. Other shapes, dtypes, parameters, optimizer
    settings or another `key` start over. Copies and pickles are empty.

    Args:
        memory: The memory that its graphs share with others. None: with no others.

    Attributes:
        latest: The graph of the last call; None if that call replayed none.
        captured_now: True if the last call captured `latest`.
    """

    def __init__(self, memory: GraphMemory | None = None) -> None:
        self.latest: Captured | None = None
        self.captured_now = False
        self._memory = GraphMemory() if memory is None else memory
        self._memory.add(self)
        self._signature: Hashable = None
        self._calls = 0
        self._asked = False
        self._alone: Captured | None = None
        self._following: Captured | None = None

    def run(
        self,
        body: Body,
        inputs: Inputs,
        optimizers: Iterable[torch.optim.Optimizer],
        key: Hashable = None,
        after: Predecessor | None = None,
        eagerly: bool = False,
    ) -> Results:
        """Run one iteration.

        Args:
            body: Computes it from `inputs`. It must not wait for the device or draw from the CPU's random stream.
            inputs: What `body` takes: images and random codes. A tensor may occur several times.
            optimizers: The torch optimizers that `body` steps. Their settings become those that a capture needs.
            key: Everything else that the launches depend on, such as loss weights.
            after: The last replay, if `body` can use what it computed. The graph that does so needs a capture of both,
                one directly after the other. If only the other one is captured, this call runs eagerly, and the next
                call of the other one captures again.
            eagerly: Run this iteration without a graph.

        Returns:
            The results of `body`, or copies of them, which the next iteration does not overwrite.

        Raises:
            ConfigError: If a tensor is not on a CUDA device.
            TrainingError: If `body` does something that cannot be captured, or there is not enough memory for it.
        """
        tensors = distinct(inputs)
        if any(tensor.device.type != "cuda" for tensor in tensors):
            raise ConfigError(
                "iterations are replayed as CUDA graphs, but an image is not on a CUDA GPU: bring the images to the "
                "model's device; or cuda_graph: true was set for another device: set it to false."
            )
        with torch.cuda.device(tensors[0].device):
            return self._run(body, inputs, list(optimizers), key, after, eagerly)

    def _run(
        self,
        body: Body,
        inputs: Inputs,
        optimizers: Sequence[torch.optim.Optimizer],
        key: Hashable,
        after: Predecessor | None = None,
        eagerly: bool = False,
    ) -> Results:
        tensors = distinct(inputs)
        make_capturable(optimizers, tensors[0].device)
        forms = tuple((tensor.shape, tensor.dtype, tensor.stride(), tensor.device) for tensor in tensors)
        signature = (key, distributed.world_size(), forms, tuple(_settings(optimizer) for optimizer in optimizers))
        if signature != self._signature:
            self._memory.drop()
            self._signature, self._calls, self._asked, after = signature, 0, False, None
        self._calls += 1
        self.latest, self.captured_now = None, False
        if eagerly or self._calls <= _WARM_UP:
            return _eager(body, inputs, self._memory)
        captured = self._alone
        if after is not None:
            captured = self._following
            if captured is not None and captured.after is not after.captured:
                captured = self._following = None
            if captured is None and not after.fresh:
                if not self._asked:
                    self._asked = True
                    self._memory.drop()
                    return _eager(body, inputs, self._memory)
                captured, after = self._alone, None  # asking again could go on forever
        if captured is None:
            captured = self._capture(body, inputs, after)
            if after is None:
                self._alone = captured
            else:
                self._following = captured
            self.captured_now = True
        # After a capture, the inputs keep their version, by which a ForwardCache knows them.
        results = self._memory.replay(captured, None if self.captured_now else tensors)
        self.latest = captured
        # Replays write weights behind autograd's back. Whoever compares versions of tensors must notice.
        torch.autograd.graph.increment_version(_parameters(optimizers))
        return results

    def _capture(self, body: Body, inputs: Inputs, after: Predecessor | None) -> Captured:
        known: Mapping[int, Tensor] = {} if after is None else after.inputs
        owned = {k: tensor.clone() for k, tensor in enumerate(distinct(inputs)) if id(tensor) not in known}
        fixed = [owned[k] if k in owned else known[id(tensor)] for k, tensor in enumerate(distinct(inputs))]
        graph, results = _capture_together(body, replaced(inputs, fixed), self._memory)
        return Captured(graph, fixed, owned, results, None if after is None else after.captured)

    def graphs(self) -> list[torch.cuda.CUDAGraph]:
        """Return the graphs that exist."""
        return [captured.graph for captured in (self._alone, self._following) if captured is not None]

    def drop(self) -> None:
        """Drop all graphs. The next call captures again."""
        self.latest = self._alone = self._following = None

    def __reduce__(self) -> tuple[type[CapturedIteration], tuple[()]]:
        """Copy and pickle as an empty one."""
        return CapturedIteration, ()


def distinct(inputs: Inputs) -> list[Tensor]:
    """Return every tensor once, in order."""
    return list({id(tensor): tensor for tensors in inputs.values() for tensor in tensors}.values())


def replaced(inputs: Inputs, tensors: Sequence[Tensor]) -> Inputs:
    """Return `inputs` with `tensors` instead of its `distinct` tensors."""
    new = {id(old): tensor for old, tensor in zip(distinct(inputs), tensors, strict=True)}
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


def _parameters(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def _capture_together(body: Body, inputs: Inputs, memory: GraphMemory) -> tuple[torch.cuda.CUDAGraph, Results]:
    """Capture in all processes or in none: a process that replays alone would wait for the others forever."""
    captured, error = None, None
    try:
        captured = _capture(body, inputs, memory)
    except TrainingError as failure:
        error = failure
    if not distributed.all_agree(captured is not None) and error is None:
        error = TrainingError("another process could not capture an iteration as a CUDA graph; its error says why.")
    if captured is None or error is not None:
        assert error is not None
        raise error
    return captured


def _capture(body: Body, inputs: Inputs, memory: GraphMemory) -> tuple[torch.cuda.CUDAGraph, Results]:
    """Capture an iteration, on several streams if they apply; if that fails, on one."""
    if memory.streams.apply(captured=True):
        try:
            return _capture_once(body, inputs, memory)
        except TrainingError as error:
            memory.streams.disable()
            warnings.warn(
                f"Iterations run on one stream from now on, because {error} parallel_streams: false skips the attempt.",
                stacklevel=2,
            )
    return _capture_once(body, inputs, memory)


def _capture_once(body: Body, inputs: Inputs, memory: GraphMemory) -> tuple[torch.cuda.CUDAGraph, Results]:
    graph, other = torch.cuda.CUDAGraph(), memory.graph()
    pool = torch.cuda.graph_pool_handle() if other is None else other.pool()
    try:
        # torch does not restore the current stream if a capture fails. Other threads, such as those that load images
        # into pinned memory, may go on.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool, memory.stream(), capture_error_mode="thread_local"),
            memory.streams.active(memory.stream().device, captured=True),
        ):
            results = body(inputs)
    except torch.OutOfMemoryError as error:
        memory.abandon(graph, pool)
        raise TrainingError(
            "there is not enough GPU memory to capture an iteration as a CUDA graph, which keeps its memory: set "
            f"cuda_graph to false, or use smaller batches or checkpointing: true. ({error})"
        ) from error
    except RuntimeError as error:
        memory.abandon(graph, pool)
        raise TrainingError(
            f"an iteration cannot be captured as a CUDA graph: {error}\nSet cuda_graph to false, or leave out what "
            "reads values on the host (hooks, printing, anomaly detection)."
        ) from error
    return graph, results


def _eager(body: Body, inputs: Inputs, memory: GraphMemory) -> Results:
    """Run an iteration on the streams of captures, so that allocations and states are ready for one."""
    stream = memory.stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), memory.streams.active(stream.device, captured=True):
        results = body(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return results
