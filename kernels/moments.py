"""Triton kernels for the mean and the deviation of groups of values, which every norm needs.

A tile's mean is kept as two float32 numbers, the rounded mean and what it lost, so that a mean far from zero costs no
digits; squares are taken of the deviations from the rounded mean. Tiles are combined in float64, in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.kernels.launch import WARP, ceil_div, power_of_two, warps_for


@triton.jit
def tile_sum(tile):
    """Sums over rows and columns of a tile (channels, rows, columns)."""
    return tl.sum(tl.sum(tile, axis=2), axis=1)


@triton.jit
def tile_moments(tile, inside, count):
    """Of each channel of a tile: the rounded mean, what it lost, and the sum of squared deviations.

    `tile` is 0 where `inside` is not; `count` values of each channel are inside.
    """
    center = tile_sum(tile) / count
    deviation = tl.where(inside, tile - center[:, None, None], 0.0)
    lost = tile_sum(deviation) / count
    squares = tile_sum(deviation * deviation) - count * lost * lost
    return center, lost, tl.where(squares < 0.0, 0.0, squares)


@triton.jit
def reciprocal_deviation(squares, count, eps, LAYER: tl.constexpr):
    """Rstd from a sum of squared deviations in float64: of instance norm, or of MUNIT's layer norm.

    Where x is float64, eps must be a constant: a number that is passed at run time has been rounded to float32.
    """
    if LAYER:
        deviation = tl.sqrt(squares / (count - 1.0)) + eps
    else:
        deviation = tl.sqrt(squares / count + eps)
    return 1.0 / deviation


@triton.jit
def _moments_kernel(
    x,
    mean,
    rstd,
    partials,
    channels,
    pixels,
    sample_stride,
    channel_stride,
    pixel_stride,
    segments,
    EPS: tl.constexpr,
    LAYER: tl.constexpr,
    WHOLE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One program takes the moments of PIXELS pixels of CHANNELS planes; WHOLE where these are all pixels."""
    program = tl.program_id(0).to(tl.int64)
    groups = tl.cdiv(channels, CHANNELS)
    segment = program % segments
    n = program // segments // groups
    first_channel = program // segments % groups * CHANNELS
    c = tl.arange(0, CHANNELS)
    p = tl.arange(0, PIXELS)
    left = tl.minimum(pixels - segment * PIXELS, PIXELS).to(tl.int32)
    in_channels = c < (channels - first_channel).to(tl.int32)
    inside = in_channels[:, None, None] & (p < left)[None, None, :]
    x += n * sample_stride + first_channel * channel_stride + segment * PIXELS * pixel_stride
    at = c[:, None, None] * channel_stride + p[None, None, :] * pixel_stride
    tile = tl.load(x + at, mask=inside, other=0.0).to(ACCUMULATE)
    count = left.to(ACCUMULATE)
    center, lost, squares = tile_moments(tile, inside, count)
    out = n * channels + first_channel + c
    if WHOLE:
        exact = center.to(tl.float64) + lost
        deviation = reciprocal_deviation(squares.to(tl.float64), count.to(tl.float64), EPS, LAYER)
        tl.store(mean + out, exact.to(mean.dtype.element_ty), mask=in_channels)
        tl.store(rstd + out, deviation.to(rstd.dtype.element_ty), mask=in_channels)
    else:
        out = 3 * (out * segments + segment)
        tl.store(partials + out, center, mask=in_channels)
        tl.store(partials + out + 1, lost, mask=in_channels)
        tl.store(partials + out + 2, squares, mask=in_channels)


@triton.jit
def _partial(partials, group, k, of_each_group, segments, pixels, PIXELS: tl.constexpr):
    """Count, mean and squares of partials k of a group in float64; 0 values beyond the last."""
    inside = k < of_each_group
    at = partials + 3 * (group * of_each_group + k)
    count = tl.minimum(pixels - (k % segments) * PIXELS, PIXELS).to(tl.float64)
    mean = tl.load(at, mask=inside, other=0.0).to(tl.float64) + tl.load(at + 1, mask=inside, other=0.0)
    return tl.where(inside, count, 0.0), mean, tl.load(at + 2, mask=inside, other=0.0).to(tl.float64)


@triton.jit
def _combine_kernel(
    partials,
    mean,
    rstd,
    of_each_group,
    segments,
    pixels,
    EPS: tl.constexpr,
    LAYER: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program combines the partials of one group, whose planes have `segments` each."""
    group = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float64)
    weighted = tl.zeros([BLOCK], tl.float64)
    for first in range(0, of_each_group, BLOCK):
        k = first + tl.arange(0, BLOCK)
        count, tile_mean, _ = _partial(partials, group, k, of_each_group, segments, pixels, PIXELS)
        total += count
        weighted += count * tile_mean
    values = tl.sum(total, axis=0)
    group_mean = tl.sum(weighted, axis=0) / values
    squares = tl.zeros([BLOCK], tl.float64)
    for first in range(0, of_each_group, BLOCK):
        k = first + tl.arange(0, BLOCK)
        count, tile_mean, tile_squares = _partial(partials, group, k, of_each_group, segments, pixels, PIXELS)
        difference = tile_mean - group_mean
        squares += tile_squares + tl.where(count > 0.0, count * difference * difference, 0.0)
    deviation = reciprocal_deviation(tl.sum(squares, axis=0), values, EPS, LAYER)
    tl.store(mean + group, group_mean.to(mean.dtype.element_ty))
    tl.store(rstd + group, deviation.to(rstd.dtype.element_ty))


def _tile(samples: int, channels: int, pixels: int, pixel_stride: int, multiprocessors: int) -> tuple[int, int]:
    """Channels and pixels of a tile: 4096 values, or a whole plane where planes are many."""
    if pixel_stride == 1:
        whole = power_of_two(pixels)
        fits = whole <= 4096 or (whole <= 16384 and 2 * samples * channels >= multiprocessors)
        return 1, whole if fits else 4096
    tile_channels = min(64, power_of_two(channels))
    return tile_channels, min(power_of_two(pixels), 4096 // tile_channels)


def moments(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    *,
    planes: tuple[int, int, int],
    strides: tuple[int, int, int],
    layer: bool,
    multiprocessors: int,
) -> None:
    """Write mean and rstd of groups of values.

    Args:
        x: A dense tensor; its storage is read by `planes` and `strides`.
        mean: Contiguous, of as many values as there are groups; a group is that many planes in a row.
        rstd: As mean.
        eps: Added to the variance, or to the standard deviation where `layer`.
        planes: Samples, channels and pixels.
        strides: Of samples, channels and pixels, in elements.
        layer: Whether rstd is that of MUNIT's layer norm: 1 / (unbiased std + eps).
        multiprocessors: Of the GPU.
    """
    samples, channels, pixels = planes
    double = x.dtype == torch.float64
    tile_channels, tile_pixels = _tile(samples, channels, pixels, strides[2], multiprocessors)
    segments = ceil_div(pixels, tile_pixels)
    of_each_group = samples * channels * segments // mean.numel()
    partials = x.new_empty(
        0 if of_each_group == 1 else (3 * samples * channels * segments),
        dtype=torch.float64 if double else torch.float32,
    )
    _moments_kernel[(samples * ceil_div(channels, tile_channels) * segments,)](
        x,
        mean,
        rstd,
        partials,
        channels,
        pixels,
        *strides,
        segments,
        EPS=eps,
        LAYER=layer,
        WHOLE=of_each_group == 1,
        ACCUMULATE=tl.float64 if double else tl.float32,
        CHANNELS=tile_channels,
        PIXELS=tile_pixels,
        num_warps=warps_for(tile_channels * tile_pixels, 16),
    )
    if of_each_group == 1:
        return
    block = min(1024, power_of_two(of_each_group))
    _combine_kernel[(mean.numel(),)](
        partials,
        mean,
        rstd,
        of_each_group,
        segments,
        pixels,
        EPS=eps,
        LAYER=layer,
        PIXELS=tile_pixels,
        BLOCK=block,
        num_warps=max(1, min(4, block // WARP)),
    )
