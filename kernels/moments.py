"""Triton kernels for the mean and the standard deviation of planes, which every norm needs.

The mean of a tile is stored as two numbers, the rounded mean and its rounding error, so a mean far from zero loses no
digits. Squares are taken of the deviations from the rounded mean. The tiles of a plane are combined in a fixed order,
relative to the mean of the first tile: the differences from it are exact or small. All of this is computed in float32,
or in float64 for float64 maps. The mean of a plane is always summed in float64.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.kernels.launch import ceil_div, power_of_two, warps_for

# Channels whose partial results one program combines. Partials of channels are neighbors and fill a sector of memory.
_CHANNELS = 8
# Values of a tile, and number of partial results that a program combines at a time.
_VALUES = 4096


@triton.jit
def tile_sum(tile):
    """Sum a tile (channels, rows, columns) over rows and columns, in the order that exchanges the fewest values."""
    flat = tl.reshape(tile, (tile.shape[0], tile.shape[1] * tile.shape[2]), can_reorder=True)
    return tl.sum(flat, axis=1)


@triton.jit
def tile_moments(tile, inside, count):
    """Return the rounded mean, its rounding error and the sum of squared deviations of each channel of a tile.

    `tile` is 0 outside of the mask `inside`, which is None for a full tile. `count` values per channel are inside.
    """
    center = tile_sum(tile) / count
    deviation = tile - center[:, None, None]
    if inside is not None:
        deviation = tl.where(inside, deviation, 0.0)
    rounding = tile_sum(deviation) / count
    squares = tile_sum(deviation * deviation) - count * rounding * rounding
    return center, rounding, tl.where(squares < 0.0, 0.0, squares)


@triton.jit
def reciprocal_deviation(squares, count, eps, LAYER: tl.constexpr):
    """Return rstd of instance norm or of MUNIT's layer norm from a sum of squared deviations, in its dtype.

    If x is float64, eps must be a constant: Triton rounds numbers that are passed at run time to float32.
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
    per_kind,
    channels,
    pixels,
    sample_stride,
    channel_stride,
    pixel_stride,
    segments,
    EPS: tl.constexpr,
    WHOLE: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Take the moments of PIXELS pixels of CHANNELS planes per program.

    WHOLE: These are all pixels. EXACT: The tiles cover the map without masked elements.
    """
    program = tl.program_id(0).to(tl.int64)
    groups = tl.cdiv(channels, CHANNELS)
    segment = program % segments
    n = program // segments // groups
    first_channel = program // segments % groups * CHANNELS
    c = tl.arange(0, CHANNELS)
    p = tl.arange(0, PIXELS)
    x += n * sample_stride + first_channel * channel_stride + segment * PIXELS * pixel_stride
    at = c[:, None, None] * channel_stride + p[None, None, :] * pixel_stride
    if EXACT:
        in_channels, inside = None, None
        tile = tl.load(x + at).to(ACCUMULATE)
        count = tl.full((), PIXELS, ACCUMULATE)
    else:
        left = tl.minimum(pixels - segment * PIXELS, PIXELS).to(tl.int32)
        in_channels = c < (channels - first_channel).to(tl.int32)
        inside = in_channels[:, None, None] & (p < left)[None, None, :]
        tile = tl.load(x + at, mask=inside, other=0.0).to(ACCUMULATE)
        count = left.to(ACCUMULATE)
    center, rounding, squares = tile_moments(tile, inside, count)
    if WHOLE:
        out = n * channels + first_channel + c
        exact = center.to(tl.float64) + rounding
        tl.store(mean + out, exact.to(mean.dtype.element_ty), mask=in_channels)
        deviation = reciprocal_deviation(squares, count, EPS, False)
        tl.store(rstd + out, deviation.to(rstd.dtype.element_ty), mask=in_channels)
    else:
        out = (n * segments + segment) * channels + first_channel + c
        tl.store(partials + out, center, mask=in_channels)
        tl.store(partials + per_kind + out, rounding, mask=in_channels)
        tl.store(partials + 2 * per_kind + out, squares, mask=in_channels)


@triton.jit
def _partial(at, per_kind, k, channels, in_channels, segments, pivot, last, PIXELS: tl.constexpr, PARTS: tl.constexpr):
    """Return mean minus pivot, squares and number of values of partials k of groups, 0 for absent partials."""
    segment = k // PARTS
    inside = (segment < segments)[:, None] & in_channels[None, :]
    at = at[None, :] + (segment * (channels * PARTS) + k % PARTS)[:, None]
    difference = tl.load(at, mask=inside, other=0.0) - pivot[None, :] + tl.load(at + per_kind, mask=inside, other=0.0)
    squares = tl.load(at + 2 * per_kind, mask=inside, other=0.0)
    count = tl.where(segment == segments - 1, last, tl.full(k.shape, PIXELS, last.dtype))[:, None]
    return tl.where(inside, difference, 0.0), squares, tl.where(inside, count, 0.0)


@triton.jit
def combined_moments(
    partials,
    per_kind,
    n,
    c,
    channels,
    in_channels,
    segments,
    pixels,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Return mean (float64) and sum of squared deviations of groups c of sample n, each of PARTS planes in a row."""
    ACCUMULATE: tl.constexpr = partials.dtype.element_ty
    at = partials + n * segments * channels * PARTS + c * PARTS
    pivot = tl.load(at, mask=in_channels, other=0.0)
    last = (pixels - (tl.cast(segments, tl.int64) - 1) * PIXELS).to(ACCUMULATE)
    count = tl.cast(pixels, ACCUMULATE) * PARTS
    total = tl.zeros([BLOCK, c.shape[0]], ACCUMULATE)
    for start in range(0, segments * PARTS, BLOCK):
        k = start + tl.arange(0, BLOCK)
        difference, _, partial_count = _partial(
            at, per_kind, k, channels, in_channels, segments, pivot, last, PIXELS, PARTS
        )
        total += partial_count * difference
    from_pivot = tl.sum(total, axis=0) / count
    total = tl.zeros([BLOCK, c.shape[0]], ACCUMULATE)
    for start in range(0, segments * PARTS, BLOCK):
        k = start + tl.arange(0, BLOCK)
        difference, squares, partial_count = _partial(
            at, per_kind, k, channels, in_channels, segments, pivot, last, PIXELS, PARTS
        )
        difference -= from_pivot[None, :]
        total += squares + partial_count * difference * difference
    return pivot.to(tl.float64) + from_pivot, tl.sum(total, axis=0)


@triton.jit
def _combine_kernel(
    partials,
    per_kind,
    mean,
    rstd,
    channels,
    segments,
    pixels,
    EPS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Combine the partials of CHANNELS channels of a sample per program."""
    n = tl.program_id(0).to(tl.int64) // tl.cdiv(channels, CHANNELS)
    c = tl.program_id(0) % tl.cdiv(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    in_channels = c < channels
    group_mean, squares = combined_moments(
        partials, per_kind, n, c, channels, in_channels, segments, pixels, PIXELS, BLOCK, 1
    )
    deviation = reciprocal_deviation(squares, pixels, EPS, False)
    tl.store(mean + n * channels + c, group_mean.to(mean.dtype.element_ty), mask=in_channels)
    tl.store(rstd + n * channels + c, deviation.to(rstd.dtype.element_ty), mask=in_channels)


@dataclass(frozen=True)
class Partials:
    """Moments of the segments of planes, as the first kernel writes them.

    Attributes:
        data: (kinds, samples, segments, channels): rounded means, their rounding errors, sums of squared deviations.
        planes: Numbers of samples, channels and pixels.
        segments: Number of segments per plane.
        segment_pixels: Pixels of each segment except the last.
        channels: Number of channels whose partials a program combines, a power of two.
        block: Number of segments that a program combines at a time, a power of two.
        warps: Number of warps of such a program.
    """

    data: Tensor
    planes: tuple[int, int, int]
    segments: int
    segment_pixels: int
    channels: int
    block: int
    warps: int

    @property
    def per_kind(self) -> int:
        """Number of partials of each kind."""
        return self.planes[0] * self.segments * self.planes[1]


def _tile(samples: int, channels: int, pixels: int, pixel_stride: int, multiprocessors: int) -> tuple[int, int]:
    """Return channels and pixels of a tile: 4096 values, or a whole plane if there are many planes."""
    if pixel_stride == 1:
        whole = power_of_two(pixels)
        fits = whole <= _VALUES or (whole <= 4 * _VALUES and 2 * samples * channels >= multiprocessors)
        return 1, whole if fits else _VALUES
    tile_channels = min(64, power_of_two(channels))
    return tile_channels, min(power_of_two(pixels), _VALUES // tile_channels)


def _launch(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor | None,
    partials: Partials | None,
    eps: float,
    planes: tuple[int, int, int],
    strides: tuple[int, int, int],
    tile: tuple[int, int],
) -> None:
    samples, channels, pixels = planes
    segments = ceil_div(pixels, tile[1])
    _moments_kernel[(samples * ceil_div(channels, tile[0]) * segments,)](
        x,
        mean,
        rstd,
        None if partials is None else partials.data,
        0 if partials is None else partials.per_kind,
        channels,
        pixels,
        *strides,
        segments,
        EPS=eps,
        WHOLE=partials is None,
        EXACT=channels % tile[0] == 0 and pixels % tile[1] == 0,
        ACCUMULATE=tl.float64 if x.dtype == torch.float64 else tl.float32,
        CHANNELS=tile[0],
        PIXELS=tile[1],
        num_warps=warps_for(tile[0] * tile[1], 32),
    )


def partial_moments(
    x: Tensor, planes: tuple[int, int, int], strides: tuple[int, int, int], multiprocessors: int
) -> Partials:
    """Take the moments of segments of planes. The arguments are those of `moments`."""
    samples, channels, pixels = planes
    tile = _tile(*planes, strides[2], multiprocessors)
    segments = ceil_div(pixels, tile[1])
    together = min(_CHANNELS, power_of_two(channels))
    block = min(power_of_two(segments), _VALUES // together)
    data = x.new_empty(
        (3, samples, segments, channels), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32
    )
    warps = min(8, warps_for(together * block, 16))
    partials = Partials(data, planes, segments, tile[1], together, block, warps)
    _launch(x, None, None, partials, 0.0, planes, strides, tile)
    return partials


def moments(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    *,
    planes: tuple[int, int, int],
    strides: tuple[int, int, int],
    multiprocessors: int,
) -> None:
    """Write mean and rstd of planes.

    Args:
        x: Dense tensor, whose storage is read with `planes` and `strides`.
        mean: Contiguous result, (samples, channels).
        rstd: Contiguous result, (samples, channels).
        eps: Number added to the variance.
        planes: Numbers of samples, channels and pixels.
        strides: Strides of samples, channels and pixels, in elements.
        multiprocessors: Number of multiprocessors of the GPU.
    """
    samples, channels, pixels = planes
    tile = _tile(*planes, strides[2], multiprocessors)
    if tile[1] >= pixels:
        _launch(x, mean, rstd, None, eps, planes, strides, tile)
        return
    partials = partial_moments(x, planes, strides, multiprocessors)
    _combine_kernel[(samples * ceil_div(channels, partials.channels),)](
        partials.data,
        partials.per_kind,
        mean,
        rstd,
        channels,
        partials.segments,
        pixels,
        EPS=eps,
        PIXELS=partials.segment_pixels,
        CHANNELS=partials.channels,
        BLOCK=partials.block,
        num_warps=partials.warps,
    )
