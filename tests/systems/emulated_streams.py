"""CUDA streams on the CPU: records which op runs on which stream, and finds races between two streams.

Streams have vector clocks. An op that reads or writes memory must come after the last op that wrote it, and one that
writes must come after all that read it: on the same stream, or by way of `wait_stream`. Memory that is allocated on one
stream and used on another must be reported to the allocator by `record_stream`, unless it is a gradient, which autograd
reports. Autograd runs a node on the stream of its forward pass, in the order in which forward ran, waits for gradients
of other streams, and at the end for all streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
        ops: Number of ops on each stream.
        named: The same by stream and name.
        problems: Races and missing `record_stream` calls.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.main = self.current = EmulatedStream()
        self.ops: Counter[EmulatedStream] = Counter()
        self.named: Counter[tuple[EmulatedStream, str]] = Counter()
        self.problems: set[str] = set()
        self._nodes: list[tuple[int, int, EmulatedStream]] = []
        self._allocated: dict[int, tuple[Tensor, EmulatedStream]] = {}  # the tensor, so that no address is reused
        self._written: dict[int, tuple[EmulatedStream, int]] = {}
        self._read: dict[int, dict[EmulatedStream, int]] = {}
        self._gradients: set[int] = set()
        self._recorded: set[tuple[int, EmulatedStream]] = set()
        self._in_backward = False
        backward = Tensor.backward

        def synchronized(tensor: Tensor) -> None:
            """Run backward. The stream of the caller waits for all streams at its end, as autograd makes it do."""
            self._in_backward = True
            backward(tensor)
            self._in_backward = False
            for stream in self.ops:
                self.current.wait_stream(stream)

        monkeypatch.setattr(Tensor, "backward", synchronized)
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
            self._nodes.append((first, _get_sequence_nr(), stream))
            self.current = before

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        inputs = {address(tensor): tensor for tensor in tensors_in((args, kwargs))}
        inputs.pop(0, None)
        new = {address(tensor): tensor for tensor in tensors_in(results) if address(tensor) not in (0, *inputs)}
        changed = inputs if function._schema.is_mutable else {}
        if not new and not changed:
            return results  # a view
        node = torch._C._current_autograd_node()
        stream = self.current if node is None else self._stream_of(node)
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
        if self._in_backward and where in self._gradients:  # autograd orders and records them itself
            return
        if not stream.follows(self._written.get(where, (stream, 0))) and not self._in_backward:
            self.problems.add(f"{name} reads what another stream writes")
        if changes and not all(map(stream.follows, self._read.get(where, {}).items())):
            self.problems.add(f"{name} may write what another stream reads")
        _, owner = self._allocated.get(where, (None, stream))
        gradient = where in self._gradients  # freed after a join
        if owner is not stream and not gradient and (where, stream) not in self._recorded:
            self.problems.add(f"{name} uses memory of another stream that is not recorded")

    def _stream_of(self, node: Any) -> EmulatedStream:
        """Return the stream on which autograd runs a node: that of its forward pass."""
        number = node._sequence_nr()
        return next((stream for first, end, stream in self._nodes if first <= number < end), self.main)

    @property
    def joined(self) -> bool:
        """True if the first stream has waited for all others."""
        return all(self.main.follows((stream, stream.clock[stream])) for stream in self.ops)
