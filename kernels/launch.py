"""What all launch tables share; importing it needs no Triton.

A tile is the part of a map (N, C, H, W) that one program of a kernel holds in registers: channels x rows x columns of
one sample, each a power of two. Tables choose tiles by shape, layout and dtype, never by measurement, so that the same
input gives the same bits on the same GPU.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

WARP = 32


@dataclass(frozen=True)
class Tile:
    """The part of a map that one program holds.

    Attributes:
        channels: Channels, a power of two, as rows and columns.
        rows: Rows.
        columns: Columns.
        warps: Warps of the program.
    """

    channels: int
    rows: int
    columns: int
    warps: int

    def blocks(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """How many tiles cover a sample, along each dimension."""
        return ceil_div(channels, self.channels), ceil_div(height, self.rows), ceil_div(width, self.columns)


def ceil_div(a: int, b: int) -> int:
    """The smallest integer that is at least a / b."""
    return -(-a // b)


def power_of_two(value: int) -> int:
    """The smallest power of two that is at least value."""
    return 1 << max(value - 1, 0).bit_length()


def warps_for(values: int, of_each_thread: int) -> int:
    """Warps, a power of two up to 32, of which each thread holds about as many values of a tile as is said."""
    return min(32, max(1, power_of_two(values // (WARP * of_each_thread))))


def is_channels_last(x: Tensor) -> bool:
    """Whether a dense map lies in memory as (N, H, W, C); one that may be read either way counts as NCHW."""
    return not x.is_contiguous()


def needs_64_bit_offsets(*maps: Tensor | None) -> bool:
    """Whether an element of some sample of these maps lies 2^31 or more elements behind the sample's first."""
    return any(
        sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True)) >= 2**31
        for x in maps
        if x is not None and x.numel() > 0
    )


@functools.cache
def _multiprocessors_of(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; those of an H100 for the interpreter, which runs on the CPU."""
    if device.type != "cuda":
        return 132
    return _multiprocessors_of(torch.cuda.current_device() if device.index is None else device.index)
