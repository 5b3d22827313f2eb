"""Collective operations. Every process must call each of them, in the same order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastmunit.distributed.processes import control_group, has_group, heartbeat, is_active, rank, world_size
from fastmunit.errors import RankError
from fastmunit.memory import first_line


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turn a network failure or a timeout inside the context into an error that names a process.

    Args:
        action: The operation, for the message: "rank 0 could not `action` with the others".

    Raises:
        RankError: If the operation fails.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RankError):
            raise
        beats = heartbeat()
        others = "" if beats is None else f"\n{beats.explain()}"
        raise RankError(f"rank {rank()} could not {action} with the others ({_reason(error)}).{others}") from error


def _reason(error: RuntimeError) -> str:
    """Return the message of gloo or NCCL without its source location and general advice."""
    return re.sub(r"^\[[^]]*\.cc:\d+\] ?|\. This is typically .*", "", first_line(error)).rstrip(".")


@torch.no_grad()
def average(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> None:
    """Replace each tensor by its mean over the processes, with one all-reduce per dtype.

    All processes get the same bits. The call can be captured in a CUDA graph.

    Args:
        tensors: Tensors on one device, with the same shapes in all processes.
        dtype: Data type for the transfer; None keeps that of each tensor. bfloat16 halves the bytes of float32, and
            rounds.

    Raises:
        RankError: If a process has ended or does not answer.
    """
    if not has_group():
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    for kind in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in kind])
        sent = flat if dtype is None else flat.to(dtype)
        with explained("average gradients"):
            dist.all_reduce(sent)
        parts = sent.to(flat.dtype).div_(world_size()).split([tensor.numel() for tensor in kind])
        torch._foreach_copy_(kind, [part.view(tensor.shape) for part, tensor in zip(parts, kind, strict=True)])


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, by rank. They must have the same shape and dtype."""
    if not is_active():
        return [tensor]
    gathered = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    with explained("gather images"):
        dist.all_gather(gathered, tensor.contiguous())
    return gathered


def largest(value: int) -> int:
    """Return the largest value of all processes."""
    if not is_active():
        return value
    result = torch.tensor([value], dtype=torch.int64)
    with explained("agree"):
        dist.all_reduce(result, dist.ReduceOp.MAX, group=control_group())
    return int(result)


def all_agree(holds: bool) -> bool:
    """Return True if `holds` is True in all processes."""
    return largest(int(not holds)) == 0


def barrier() -> None:
    """Wait until all processes have called this function."""
    largest(0)


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all processes, by rank: numbers, strings, and containers of them."""
    if not is_active():
        return [value]
    values: list[Any] = [None] * world_size()
    with explained("compare"):
        dist.all_gather_object(values, value, group=control_group())
    return values


def gather_on_first(value: Any) -> list[Any] | None:
    """Return the values of all processes, by rank, in the first process, and None in the others."""
    if not is_active():
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    with explained("gather results"):
        dist.gather_object(value, values, group=control_group())
    return values
