"""Triton kernels of `instance_norm_stats` and its backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.kernels.launch import ceil_div, is_channels_last, multiprocessors, power_of_two, warps_for
from fastmunit.kernels.moments import moments


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
    """Write a tile of CHANNELS by PIXELS of one sample per program."""
    groups = tl.cdiv(channels, CHANNELS)
    tiles = tl.cdiv(pixels, PIXELS)
    program = tl.program_id(0).to(tl.int64)
    n = program // (groups * tiles)
    first_channel = program // tiles % groups * CHANNELS
    first_pixel = program % tiles * PIXELS
    c = tl.arange(0, CHANNELS)
    p = tl.arange(0, PIXELS)
    in_channels = c < (channels - first_channel).to(tl.int32)
    inside = in_channels[:, None] & (p < tl.minimum(pixels - first_pixel, PIXELS).to(tl.int32))[None, :]
    plane = n * channels + first_channel + c
    slope = tl.load(rstd + plane, mask=in_channels, other=0.0)
    slope = -tl.load(drstd + plane, mask=in_channels, other=0.0) * slope * slope * slope / pixels
    constant = tl.load(dmean + plane, mask=in_channels, other=0.0) / pixels
    center = tl.load(mean + plane, mask=in_channels, other=0.0)
    first = n * sample_stride + first_channel * channel_stride + first_pixel * pixel_stride
    at = c[:, None] * channel_stride + p[None, :] * pixel_stride
    value = tl.load(x + first + at, mask=inside, other=0.0).to(ACCUMULATE)
    value = constant[:, None] + slope[:, None] * (value - center[:, None])
    tl.store(dx + first + at, value.to(dx.dtype.element_ty), mask=inside)


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Return the strides of sample, channel and pixel of a dense NCHW or channels_last map."""
    _, channels, height, width = x.shape
    pixels = height * width
    return (channels * pixels, 1, channels) if is_channels_last(x) else (channels * pixels, pixels, 1)


def _tile(channels: int, pixels: int, channels_last: bool) -> tuple[int, int]:
    """Return channels and pixels of a tile of about 4096 values, longer along neighboring addresses."""
    if channels_last:
        tile_channels = min(64, power_of_two(channels))
        return tile_channels, min(power_of_two(pixels), 4096 // tile_channels)
    return 1, min(4096, power_of_two(pixels))


def instance_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and rstd, each (N, C), of a dense NCHW or channels_last x (N, C, H, W)."""
    samples, channels, height, width = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean = torch.empty((samples, channels), dtype=dtype, device=x.device)
    rstd = torch.empty_like(mean)
    if mean.numel() > 0:
        moments(
            x,
            mean,
            rstd,
            eps,
            planes=(samples, channels, height * width),
            strides=_strides(x),
            multiprocessors=multiprocessors(x.device),
        )
    return mean, rstd


def instance_norm_stats_backward(dmean: Tensor, drstd: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Return the gradient of a dense x, in its layout. The other arguments are (N, C) and contiguous."""
    samples, channels, height, width = x.shape
    dx = torch.empty_like(x)
    if dx.numel() > 0:
        tile_channels, tile_pixels = _tile(channels, height * width, is_channels_last(x))
        grid = (samples * ceil_div(channels, tile_channels) * ceil_div(height * width, tile_pixels),)
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
            ACCUMULATE=tl.float64 if x.dtype == torch.float64 else tl.float32,
            CHANNELS=tile_channels,
            PIXELS=tile_pixels,
            num_warps=warps_for(tile_channels * tile_pixels, 16),
        )
    return dx
