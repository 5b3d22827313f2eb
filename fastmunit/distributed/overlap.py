"""Averaging of gradients during backward."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastmunit.distributed.collectives import average, explained, gather_objects
from fastmunit.distributed.processes import world_size

_BUCKET_BYTES = 25 * 2**20


@dataclass
class _Bucket:
    """A group of parameters whose gradients are sent together."""

    parameters: list[Tensor]
    missing: int = 0
    sent: Tensor | None = None
    work: Any = None
    gradients: list[Tensor] = field(default_factory=list)


class OverlappedAverage:
    """An average of gradients over the processes that is sent in buckets while backward computes the others.

    The first backward ends with a plain average and records the order in which gradients become ready. From then on,
    all processes send buckets in the order of rank 0. The result equals that of `average` up to the order of sums.

    Args:
        parameters: Parameters with one dtype, on one device.
        dtype: See `average`.
        bucket_bytes: Size at which a bucket is sent; None for 25 MiB.
    """

    def __init__(
        self, parameters: Sequence[Tensor], dtype: torch.dtype | None = None, bucket_bytes: int | None = None
    ) -> None:
        self._parameters, self._dtype = list(parameters), dtype
        self._bucket_bytes = bucket_bytes or _BUCKET_BYTES
        self._order: list[int] = []
        self._buckets: list[_Bucket] = []
        self._next = 0

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Average the gradients that the backward inside the context completes."""
        learning = not self._buckets
        self._order, self._next = [], 0
        for bucket in self._buckets:
            bucket.missing, bucket.sent, bucket.work = len(bucket.parameters), None, None
        places = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        hooks = []
        for number, parameter in enumerate(self._parameters):
            if parameter.requires_grad:
                hook = self._note(number) if learning else self._count(places.get(id(parameter)))
                hooks.append(parameter.register_post_accumulate_grad_hook(hook))
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()
        if learning:
            average([p.grad for p in self._parameters if p.grad is not None], self._dtype)
            self._make_buckets(gather_objects(self._order)[0])
        else:
            self._finish()

    def _note(self, number: int) -> Any:
        return lambda _: self._order.append(number)

    def _count(self, bucket: _Bucket | None) -> Any:
        def ready(_: Tensor) -> None:
            if bucket is not None:
                bucket.missing -= 1
                while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
                    self._send(self._buckets[self._next])
                    self._next += 1

        return ready

    def _make_buckets(self, order: Sequence[int]) -> None:
        size, bucket = 0, _Bucket([])
        for number in order:
            parameter = self._parameters[number]
            bucket.parameters.append(parameter)
            size += parameter.numel() * parameter.element_size()
            if size >= self._bucket_bytes:
                self._buckets.append(bucket)
                size, bucket = 0, _Bucket([])
        if bucket.parameters:
            self._buckets.append(bucket)

    def averages(self, parameters: Sequence[Tensor]) -> bool:
        """Return True if this object averages exactly these parameters."""
        return len(parameters) == len(self._parameters) and all(map(operator.is_, parameters, self._parameters))

    @torch.no_grad()
    def _send(self, bucket: _Bucket) -> None:
        bucket.gradients = [p.grad for p in bucket.parameters if p.grad is not None]
        if not bucket.gradients:  # their losses have been switched off
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket.gradients])
        bucket.sent = flat if self._dtype is None else flat.to(self._dtype)
        with explained("average gradients"):
            bucket.work = dist.all_reduce(bucket.sent, async_op=True)

    @torch.no_grad()
    def _finish(self) -> None:
        """Send the remaining buckets, wait, and write the averages into the gradients."""
        for bucket in self._buckets[self._next :]:
            self._send(bucket)
        for bucket in self._buckets:
            if bucket.sent is None:
                continue
            with explained("average gradients"):
                bucket.work.wait()
            mean = bucket.sent.to(bucket.gradients[0].dtype).div_(world_size())
            parts = mean.split([gradient.numel() for gradient in bucket.gradients])
            views = [part.view(gradient.shape) for part, gradient in zip(parts, bucket.gradients, strict=True)]
            torch._foreach_copy_(bucket.gradients, views)
            # torch's handle can be neither copied nor pickled.
            bucket.sent, bucket.work, bucket.gradients = None, None, []
        in_buckets = {id(p) for bucket in self._buckets for p in bucket.parameters}
        others = [p.grad for p in self._parameters if p.grad is not None and id(p) not in in_buckets]
        if others:  # their losses have been switched on
            average(others, self._dtype)
