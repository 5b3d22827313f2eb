"""CUDA streams on the CPU: records which op runs on which stream, and finds races between streams.

Streams have vector clocks. An op that reads or writes memory must come after the last op that wrote it, and one that
writes must come after all that read it: on the same stream, or by way of `wait_stream`. Memory that is allocated on one
stream and used on another must be reported to the allocator by `record_stream`.

Autograd is emulated as well. It runs a node on the stream of its forward pass, in the order in which forward ran. A
node waits for those that computed its gradients, which are reported to the allocator for its stream; sums of gradients
run on the stream of the node that receives them; and in the end, the stream of the caller waits for those of the
leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C._autograd import _get_sequence_nr
from torch.utils._python_dispatch import TorchDispatchMode

from tests.systems.emulated_graphs import address, tensors_in


class EmulatedStream:
    """A stand-in for torch.cuda.Stream."""

    device = torch.device("cuda")

    def __init__(self, device: Any = None) -> None:
        self.clock: Counter[EmulatedStream] = Counter()

    def wait_stream(self, other: EmulatedStream) -> None:
        self.clock |= other.clock

    def follows(self, event: tuple[EmulatedStream, int]) -> bool:
        stream, time = event
        return self.clock[stream] >= time


class EmulatedStreams(TorchDispatchMode):
    """A recorder of ops, inside `with`.

    Attributes:
        main: The stream that is current at the beginning.
        streams: This one; a test may add others.
        ops: Number of ops on each stream.
        named: The same by stream and name.
        nodes: Number of autograd nodes that have run on each stream, by stream and name.
        problems: Races and missing `record_stream` calls.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.main = self.current = EmulatedStream()
        self.streams = [self.main]
        self.ops: Counter[EmulatedStream] = Counter()
        self.named: Counter[tuple[EmulatedStream, str]] = Counter()
        self.nodes: Counter[tuple[EmulatedStream, str]] = Counter()
        self.problems: set[str] = set()
        self._forward: list[tuple[int, int, EmulatedStream]] = []
        self._allocated: dict[int, tuple[Tensor, EmulatedStream]] = {}  # the tensor, so that no address is reused
        self._written: dict[int, tuple[EmulatedStream, int]] = {}
        self._read: dict[int, dict[EmulatedStream, int]] = {}
        self._gradients: set[int] = set()
        self._recorded: set[tuple[int, EmulatedStream]] = set()
        self._ready: dict[Any, Counter[EmulatedStream]] = {}  # by nodes
        self._leaves: dict[Any, EmulatedStream] = {}
        self._sums: dict[int, list[Any]] = {}  # nodes that add an address to another gradient
        self._in_backward = False
        backward = Tensor.backward

        def emulated(tensor: Tensor) -> None:
            with self._hooks(tensor.grad_fn):
                backward(tensor)
            for stream in self._leaves.values():
                self.current.wait_stream(stream)

        monkeypatch.setattr(Tensor, "backward", emulated)
        monkeypatch.setattr(torch.cuda, "Stream", EmulatedStream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self._with_stream)
        monkeypatch.setattr(Tensor, "record_stream", lambda x, stream: self._recorded.add((address(x), stream)))

    @contextmanager
    def _with_stream(self, stream: EmulatedStream) -> Iterator[None]:
        before, self.current = self.current, stream
        first = _get_sequence_nr()
        try:
            yield
        finally:
            self._forward.append((first, _get_sequence_nr(), stream))
            self.current = before

    @contextmanager
    def _hooks(self, root: Any) -> Iterator[None]:
        """Follow the nodes of a backward pass."""
        nodes = {root: None}
        self._leaves.clear()
        for node in (queue := [root]):
            following = [after for after, _ in node.next_functions if after is not None]
            for leaf in following:
                if not leaf.next_functions:  # it was made together with the first node that leads to it
                    self._leaves[leaf] = self._stream_of(node)
            queue += [after for after in dict.fromkeys(following) if after not in nodes]
            nodes |= dict.fromkeys(following)
        handles = [node.register_prehook(partial(self._enter, node)) for node in nodes]
        handles += [node.register_hook(partial(self._leave, node)) for node in nodes]
        self._ready = {root: self.current.clock.copy()}
        self._in_backward = True
        try:
            yield
        finally:
            self._in_backward = False
            for handle in handles:
                handle.remove()

    def _enter(self, node: Any, gradients: Any) -> None:
        self._sums.clear()
        stream = self._stream_of(node)
        stream.clock |= self._ready.get(node, Counter())  # without gradients there is nothing to wait for
        self.nodes[stream, node.name()] += 1

    def _leave(self, node: Any, results: Any, gradients: Any) -> None:
        stream = self._stream_of(node)
        for (following, _), result in zip(node.next_functions, results, strict=False):
            if following is None or result is None:
                continue
            other, where = self._stream_of(following), address(result)
            if other is not stream:
                self._recorded.add((where, other))
            if following in self._ready:
                self._sums.setdefault(where, []).append(following)
            self._ready[following] = self._ready.get(following, Counter()) | stream.clock

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        inputs = {address(tensor): tensor for tensor in tensors_in((args, kwargs))}
        inputs.pop(0, None)
        new = {address(tensor): tensor for tensor in tensors_in(results) if address(tensor) not in (0, *inputs)}
        changed = inputs if function._schema.is_mutable else {}
        if not new and not changed:
            return results  # a view
        stream = self._stream_of_op(inputs)
        stream.clock[stream] += 1
        self.ops[stream] += 1
        self.named[stream, function.overloadpacket.__name__] += 1
        event = (stream, stream.clock[stream])
        for where in inputs:
            self._check(str(function), where, stream, where in changed)
            self._read.setdefault(where, {})[stream] = event[1]
        for where, tensor in new.items():
            self._allocated[where] = tensor, stream
            if self._in_backward:
                self._gradients.add(where)
            else:
                self._gradients.discard(where)
        self._written |= dict.fromkeys([*new, *changed], event)
        return results

    def _check(self, name: str, where: int, stream: EmulatedStream, changes: bool) -> None:
        if not stream.follows(self._written.get(where, (stream, 0))):
            self.problems.add(f"{name} reads what another stream writes")
        if changes and not all(map(stream.follows, self._read.get(where, {}).items())):
            self.problems.add(f"{name} may write what another stream reads")
        _, owner = self._allocated.get(where, (None, stream))
        ended = where in self._gradients and not self._in_backward  # it is freed after all streams have joined
        if owner is not stream and not ended and (where, stream) not in self._recorded:
            self.problems.add(f"{name} uses memory of another stream that is not recorded")

    def _stream_of_op(self, inputs: dict[int, Tensor]) -> EmulatedStream:
        node = torch._C._current_autograd_node()
        if node is None:
            return self.current
        stream = self._stream_of(node)
        for where in inputs:
            if self._sums.get(where):  # the node has run, and autograd adds one of its results to another gradient
                consumer = self._sums[where].pop(0)
                stream = self._stream_of(consumer)
                stream.clock |= self._ready[consumer]
                break
        return stream

    def _stream_of(self, node: Any) -> EmulatedStream:
        """Return the stream on which autograd runs a node: that of its forward pass."""
        if node in self._leaves:
            return self._leaves[node]
        number = node._sequence_nr()
        return next((stream for first, end, stream in self._forward if first <= number < end), self.main)

    @property
    def joined(self) -> bool:
        """True if the first stream has waited for all others."""
        return all(self.main.follows((stream, stream.clock[stream])) for stream in self.ops)
