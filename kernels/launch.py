"""Tiles, launch sizes and strides, shared by all launch tables. Importing this module does not need Triton.

A tile is the part of a map (N, C, H, W) that one program of a kernel holds in registers: channels x rows x columns of
one sample, each a power of two. Tables choose tiles by shape, layout and dtype, never by measurement. The same input
thus gives the same bits on the same GPU.
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
        channels: Number of channels, a power of two.
        rows: Number of rows, a power of two.
        columns: Number of columns, a power of two.
        warps: Number of warps of the program.
    """

    channels: int
    rows: int
    columns: int
    warps: int

    def blocks(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the number of tiles that cover a sample, along each dimension."""
        return ceil_div(channels, self.channels), ceil_div(height, self.rows), ceil_div(width, self.columns)


def ceil_div(a: int, b: int) -> int:
    """Return the smallest integer that is at least a / b."""
    return -(-a // b)


def power_of_two(value: int) -> int:
    """Return the smallest power of two that is at least `value`."""
    return 1 << max(value - 1, 0).bit_length()


def warps_for(values: int, values_per_thread: int) -> int:
    """Return the number of warps, a power of two up to 32, whose threads hold about `values_per_thread` values each."""
    return min(32, max(1, power_of_two(values // (WARP * values_per_thread))))


def is_channels_last(x: Tensor) -> bool:
    """Return True if a dense map is stored as (N, H, W, C). A map that is dense in both layouts counts as NCHW."""
    return not x.is_contiguous()


def needs_64_bit_offsets(*maps: Tensor | None) -> bool:
    """Return True if any of these maps has an element 2^31 or more elements after the first element of its sample."""
    return any(
        sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True)) >= 2**31
        for x in maps
        if x is not None and x.numel() > 0
    )


@functools.cache
def _multiprocessors_of(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def multiprocessors(device: torch.device) -> int:
    """Return the number of multiprocessors of a CUDA device, or the number of an H100 for the interpreter (CPU)."""
    if device.type != "cuda":
        return 132
    return _multiprocessors_of(torch.cuda.current_device() if device.index is None else device.index)
