"""What the processes compute together. Every process has to call each of these, in the same order."""

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
def explained(what: str) -> Iterator[None]:
    """Context in which a failure of the network, or a wait that was too long, becomes an error that names a process."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RankError):
            raise
        beats = heartbeat()
        others = "" if beats is None else f"\n{beats.explain()}"
        raise RankError(f"rank {rank()} could not {what} with the others ({_reason(error)}).{others}") from error


def _reason(error: RuntimeError) -> str:
    """Return what gloo or NCCL says, without the place in its source and its general advice."""
    return re.sub(r"^\[[^]]*\.cc:\d+\] ?|\. This is typically .*", "", first_line(error)).rstrip(".")


@torch.no_grad()
def average(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> None:
    """Replace each tensor by its mean over the processes: one all-reduce per dtype.

    It may be captured in a CUDA graph. All processes get the same bits.

    Args:
        tensors: On one device, of the same shapes in all processes.
        dtype: What is sent; None sends each tensor as it is. bfloat16 halves the bytes of float32, and rounds.

    Raises:
        RankError: A process has ended or does not answer.
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
    """Return the tensors of all processes, by rank; they are of one shape and dtype."""
    if not is_active():
        return [tensor]
    found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    with explained("gather images"):
        dist.all_gather(found, tensor.contiguous())
    return found


def largest(value: int) -> int:
    """Return the largest of the numbers that the processes give."""
    if not is_active():
        return value
    found = torch.tensor([value], dtype=torch.int64)
    with explained("agree"):
        dist.all_reduce(found, dist.ReduceOp.MAX, group=control_group())
    return int(found)


def all_agree(holds: bool) -> bool:
    """Return whether something holds in all processes."""
    return largest(int(not holds)) == 0


def barrier() -> None:
    """Wait until all processes are here."""
    largest(0)


def gather_objects(value: Any) -> list[Any]:
    """Return what each process gives, by rank: numbers, strings, and containers of them."""
    if not is_active():
        return [value]
    found: list[Any] = [None] * world_size()
    with explained("compare"):
        dist.all_gather_object(found, value, group=control_group())
    return found


def gather_on_first(value: Any) -> list[Any] | None:
    """Return what each process gives, by rank, in the first process, and None in the others; see `gather_objects`."""
    if not is_active():
        return [value]
    found: list[Any] | None = [None] * world_size() if rank() == 0 else None
    with explained("gather results"):
        dist.gather_object(value, found, group=control_group())
    return found
