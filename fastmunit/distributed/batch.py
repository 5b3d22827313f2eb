"""Shares of a batch, and random numbers for a whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmunit.distributed.collectives import all_gather
from fastmunit.distributed.processes import has_group, is_active, rank, world_size
from fastmunit.errors import ConfigError


def positions(count: int, parts: int = 1, of_rank: int | None = None) -> list[int]:
    """Return the indices of a process's samples in a batch.

    The batch consists of `parts` equal parts in a row, and the process has a share of each part: with one part, a slice
    of the batch.

    Args:
        count: Number of samples in the whole batch.
        parts: Number of parts that are computed one after the other or used in different ways.
        of_rank: Rank of the process; None for this one.

    Raises:
        ConfigError: If the parts do not divide by the number of processes.
    """
    require_divisible(count, parts)
    number = rank() if of_rank is None else of_rank
    part = count // parts
    size = part // world_size()
    return [first + number * size + k for first in range(0, count, part) for k in range(size)]


def require_divisible(count: int, parts: int = 1, processes: int | None = None) -> None:
    """Raise ConfigError if a batch of `count` samples in `parts` parts does not divide by the number of processes.

    `processes` is their number if the training has not started yet.
    """
    processes = world_size() if processes is None else processes
    unit = parts * processes
    if count % unit == 0:
        return
    nearest = [size for size in (count // unit * unit, (count // unit + 1) * unit) if size > 0]
    divided = f"{processes} process{'es' if processes > 1 else ''}" + (f" with {parts} parts each" if parts > 1 else "")
    raise ConfigError(
        f"batch_size {count} counts the images of all processes and does not divide equally by {divided}: set it to "
        f"{' or '.join(map(str, nearest))}."
    )


def share(batch: Tensor, parts: int = 1) -> Tensor:
    """Return this process's samples of a whole batch (N, ...). See `positions`."""
    if not is_active():
        return batch
    if parts == 1:
        size = len(batch) // world_size()
        require_divisible(len(batch))
        return batch.narrow(0, rank() * size, size)
    return batch[positions(len(batch), parts)]


def gather(mine: Tensor, parts: int = 1) -> Tensor:
    """Return the whole batch, given the `share` of every process."""
    if not is_active():
        return mine
    whole = torch.cat(all_gather(mine))
    order = [place for number in range(world_size()) for place in positions(len(whole), parts, number)]
    result = torch.empty_like(whole)
    result[order] = whole
    return result


def draw(sample: Callable[[int], Tensor], count: int, parts: int = 1) -> Tensor:
    """Draw random numbers for the whole batch and return this process's share. All processes keep one random state.

    Args:
        sample: Function that draws a tensor (number, ...) for a number of samples.
        count: Number of samples of this process.
        parts: See `positions`.
    """
    return share(sample(count * world_size()), parts)


def apart(generator: torch.Generator | None) -> torch.Generator | None:
    """Return a generator for draws that not all processes make, such as those for a sample grid.

    After `setup`, None becomes a copy of torch's global generator. The global generator itself stays the same in all
    processes.
    """
    if generator is not None or not has_group():
        return generator
    copy = torch.Generator()
    copy.set_state(torch.get_rng_state())
    return copy
