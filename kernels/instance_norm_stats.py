"""Triton kernels of `instance_norm_stats` and its backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward_kernel(
    x,
    mean,
    rstd,
    eps,
    channels,
    pixels,
    sample_stride,
    channel_stride,
    pixel_stride,
    ACCUMULATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One program reads all pixels of CHANNELS planes of one sample, in tiles of PIXELS."""
    groups = tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0).to(tl.int64)
    n = program // groups
    c = (program % groups) * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.arange(0, PIXELS)
    planes = x + n * sample_stride + c[:, None] * channel_stride
    in_channels = (c < channels)[:, None]

    # Everything is taken from the mean of the first tile, so that a mean far from zero costs no digits.
    inside = in_channels & (p < pixels)[None, :]
    tile = tl.load(planes + p[None, :].to(tl.int64) * pixel_stride, mask=inside, other=0.0).to(ACCUMULATE)
    shift = tl.sum(tile, axis=1) / tl.minimum(pixels, PIXELS)

    offset = tl.zeros([CHANNELS], ACCUMULATE)
    squares = tl.zeros([CHANNELS], ACCUMULATE)
    for first in range(0, pixels, PIXELS):
        at = first + p
        inside = in_channels & (at < pixels)[None, :]
        tile = tl.load(planes + at[None, :].to(tl.int64) * pixel_stride, mask=inside, other=0.0).to(ACCUMULATE)
        tile = tl.where(inside, tile - shift[:, None], 0.0)
        count = tl.minimum(pixels - first, PIXELS)
        tile_offset = tl.sum(tile, axis=1) / count
        deviations = tl.where(inside, tile - tile_offset[:, None], 0.0)
        difference = tile_offset - offset
        share = count.to(ACCUMULATE) / (first + count)
        offset += difference * share
        squares += tl.sum(deviations * deviations, axis=1) + difference * difference * share * first

    out = n * channels + c
    tl.store(mean + out, shift + offset, mask=c < channels)
    tl.store(rstd + out, 1.0 / tl.sqrt(squares / pixels + eps), mask=c < channels)


@triton.jit
def _backward_kernel(
    dmean,
    drstd,
    x,
    mean,
    rstd,
    dx,
    channels,
    pixels,
    sample_stride,
    channel_stride,
    pixel_stride,
    ACCUMULATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One program writes a tile of CHANNELS by PIXELS of one sample."""
    groups = tl.cdiv(channels, CHANNELS)
    tiles = tl.cdiv(pixels, PIXELS)
    program = tl.program_id(0).to(tl.int64)
    n = program // (groups * tiles)
    c = (program // tiles % groups) * CHANNELS + tl.arange(0, CHANNELS)
    p = (program % tiles) * PIXELS + tl.arange(0, PIXELS)
    inside = (c < channels)[:, None] & (p < pixels)[None, :]
    plane = n * channels + c
    slope = tl.load(rstd + plane, mask=c < channels, other=0.0)
    slope = -tl.load(drstd + plane, mask=c < channels, other=0.0) * slope * slope * slope / pixels
    constant = tl.load(dmean + plane, mask=c < channels, other=0.0) / pixels
    centre = tl.load(mean + plane, mask=c < channels, other=0.0)
    at = n * sample_stride + c[:, None] * channel_stride + p[None, :] * pixel_stride
    value = tl.load(x + at, mask=inside, other=0.0).to(ACCUMULATE)
    value = constant[:, None] + slope[:, None] * (value - centre[:, None])
    tl.store(dx + at, value.to(dx.dtype.element_ty), mask=inside)


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of sample, channel and pixel of a dense NCHW or channels_last map."""
    _, channels, height, width = x.shape
    pixels = height * width
    if x.is_contiguous():
        return channels * pixels, pixels, 1
    return channels * pixels, 1, channels


def _tile(x: Tensor) -> tuple[int, int]:
    """Channels and pixels of a tile, the larger side along neighbouring addresses."""
    pixels = triton.next_power_of_2(x.shape[2] * x.shape[3])
    if x.is_contiguous():
        return 1, min(4096, pixels)
    return min(32, triton.next_power_of_2(x.shape[1])), min(128, pixels)


def _accumulate(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def instance_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and rstd, (N, C) each, of a dense NCHW or channels_last x (N, C, H, W)."""
    samples, channels, height, width = x.shape
    dtype, accumulate = _accumulate(x)
    mean = torch.empty((samples, channels), dtype=dtype, device=x.device)
    rstd = torch.empty_like(mean)
    if mean.numel() > 0:
        tile_channels, tile_pixels = _tile(x)
        grid = (samples * triton.cdiv(channels, tile_channels),)
        _forward_kernel[grid](
            x,
            mean,
            rstd,
            eps,
            channels,
            height * width,
            *_strides(x),
            ACCUMULATE=accumulate,
            CHANNELS=tile_channels,
            PIXELS=tile_pixels,
        )
    return mean, rstd


def instance_norm_stats_backward(dmean: Tensor, drstd: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Gradient with respect to a dense x, in its layout; the other arguments are (N, C), contiguous."""
    samples, channels, height, width = x.shape
    dx = torch.empty_like(x)
    if dx.numel() > 0:
        tile_channels, tile_pixels = _tile(x)
        grid = (samples * triton.cdiv(channels, tile_channels) * triton.cdiv(height * width, tile_pixels),)
        _backward_kernel[grid](
            dmean,
            drstd,
            x,
            mean,
            rstd,
            dx,
            channels,
            height * width,
            *_strides(x),
            ACCUMULATE=_accumulate(x)[1],
            CHANNELS=tile_channels,
            PIXELS=tile_pixels,
        )
    return dx
