"""Triton kernel of `fused_norm`: normalisation, activation, residual and pad, written once."""

import triton
import triton.language as tl
from torch import Tensor

from fastmunit.kernels.fused_norm_launch import forward_launch
from fastmunit.kernels.fused_norm_maps import (
    activate,
    affine,
    all_inside,
    coefficients,
    group_statistics,
    map_offsets,
    offsets,
    pad_positions,
    pad_source,
    tile_positions,
)
from fastmunit.kernels.launch import is_channels_last, multiprocessors, needs_64_bit_offsets
from fastmunit.kernels.moments import moments, reciprocal_deviation, tile_moments


@triton.jit
def _finish(value, center, scale, shift, negative_slope, residual, at, inside, ACTIVATION: tl.constexpr):
    """The activation of the affine map of values, plus the residual at offsets `at`."""
    z = (value - center[:, None, None]) * scale[:, None, None] + shift[:, None, None]
    y = activate(z, negative_slope, ACTIVATION)
    if residual is not None:
        y += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    return y


@triton.jit
def _write_pad(
    x,
    residual,
    padded,
    c,
    i,
    j,
    inside,
    height,
    width,
    x_strides,
    residual_strides,
    padded_strides,
    center,
    scale,
    shift,
    negative_slope,
    ACTIVATION: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PHASES: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Write pixels (i, j) of the pad, which lie outside of the map in one direction at least."""
    if PAD_MODE == "zero":
        y = tl.zeros(inside.shape, tl.float32)
    else:
        source_i = pad_source(i, height, PAD_MODE)
        source_j = pad_source(j, width, PAD_MODE)
        value = tl.load(x + map_offsets(c, source_i, source_j, x_strides, PHASES, INDEX), mask=inside, other=0.0)
        at = offsets(c, source_i, source_j, residual_strides, INDEX)
        y = _finish(value.to(tl.float32), center, scale, shift, negative_slope, residual, at, inside, ACTIVATION)
    at = offsets(c, i + PAD, j + PAD, padded_strides, INDEX)
    tl.store(padded + at, y.to(padded.dtype.element_ty), mask=inside)


@triton.jit
def _forward_kernel(
    x,
    weight,
    bias,
    residual,
    padded,
    mean,
    rstd,
    negative_slope,
    eps,
    channels,
    height,
    width,
    x_strides,
    weight_strides,
    bias_strides,
    residual_strides,
    padded_strides,
    STATISTICS: tl.constexpr,
    WHOLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PHASES: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PAD_LENGTH: tl.constexpr,
):
    """One program writes a tile, and the pads beside the map's first tiles.

    WHOLE: the tile holds whole planes, whose mean and rstd it takes and writes; else it reads them.
    """
    n, first_channel, first_row, first_column = tile_positions(channels, height, width, CHANNELS, ROWS, COLUMNS)
    c = first_channel + tl.arange(0, CHANNELS)
    i = first_row + tl.arange(0, ROWS)
    j = first_column + tl.arange(0, COLUMNS)
    in_channels, in_rows, in_columns = c < channels, i < height, j < width
    inside = all_inside(in_channels, in_rows, in_columns)
    x += n * x_strides[0]
    padded += n * padded_strides[0]
    if residual is not None:
        residual += n * residual_strides[0]

    value = tl.load(x + map_offsets(c, i, j, x_strides, PHASES, INDEX), mask=inside, other=0.0).to(tl.float32)
    if WHOLE:
        count = height * width
        rounded, lost, squares = tile_moments(value, inside, count)
        group_mean = rounded.to(tl.float64) + lost
        group_rstd = reciprocal_deviation(squares.to(tl.float64), count, eps, False)
        tl.store(mean + n * channels + c, group_mean, mask=in_channels)
        tl.store(rstd + n * channels + c, group_rstd, mask=in_channels)
    else:
        group_mean, group_rstd = group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS)
    channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
    channel_bias = coefficients(bias, n, c, bias_strides, in_channels, 0.0)
    center, scale, shift = affine(group_mean, group_rstd, channel_weight, channel_bias)
    at = offsets(c, i, j, residual_strides, INDEX)
    y = _finish(value, center, scale, shift, negative_slope, residual, at, inside, ACTIVATION)
    at = offsets(c, i + PAD, j + PAD, padded_strides, INDEX)
    tl.store(padded + at, y.to(padded.dtype.element_ty), mask=inside)

    if PAD > 0:
        pad_i, in_pad_i = pad_positions(height, PAD, PAD_LENGTH)
        pad_j, in_pad_j = pad_positions(width, PAD, PAD_LENGTH)
        if first_row == 0:  # above and below the columns
            _write_pad(
                x, residual, padded, c, pad_i, j, all_inside(in_channels, in_pad_i, in_columns), height, width,
                x_strides, residual_strides, padded_strides, center, scale, shift, negative_slope,
                ACTIVATION, PAD, PAD_MODE, PHASES, INDEX,
            )  # fmt: skip
        if first_column == 0:  # beside the rows
            _write_pad(
                x, residual, padded, c, i, pad_j, all_inside(in_channels, in_rows, in_pad_j), height, width,
                x_strides, residual_strides, padded_strides, center, scale, shift, negative_slope,
                ACTIVATION, PAD, PAD_MODE, PHASES, INDEX,
            )  # fmt: skip
        if (first_row == 0) & (first_column == 0):  # the corners
            _write_pad(
                x, residual, padded, c, pad_i, pad_j, all_inside(in_channels, in_pad_i, in_pad_j), height, width,
                x_strides, residual_strides, padded_strides, center, scale, shift, negative_slope,
                ACTIVATION, PAD, PAD_MODE, PHASES, INDEX,
            )  # fmt: skip


def coefficient_strides(data: Tensor | None) -> tuple[int, int]:
    """Strides of sample and channel of a weight or bias, (C,) or (N, C)."""
    if data is None:
        return 0, 0
    return (0, data.stride(0)) if data.dim() == 1 else (data.stride(0), data.stride(1))


def map_strides(x: Tensor | None) -> tuple[int, ...]:
    """Strides of sample, channel, row and column."""
    return (0, 0, 0, 0) if x is None else x.stride()


def result_shape(x: Tensor, phases: bool) -> tuple[int, int, int, int]:
    """(N, C, H, W) of the result before the pad."""
    n, c, h, w = x.shape
    return (n, c // 4, 2 * h, 2 * w) if phases else (n, c, h, w)


def _statistics(x: Tensor, mean: Tensor, rstd: Tensor, statistics: str, eps: float, phases: bool) -> None:
    """Write mean and rstd; groups are runs of planes as x lies in memory."""
    n, c, h, w = x.shape
    if statistics == "layer":
        planes, strides = (n, 1, c * h * w), (c * h * w, c * h * w, 1)
    elif is_channels_last(x):
        planes, strides = (n, c, h * w), (c * h * w, 1, c)
    else:  # the four phases of a plane lie one behind the other
        c, pixels = (c // 4, 4 * h * w) if phases else (c, h * w)
        planes, strides = (n, c, pixels), (c * pixels, pixels, 1)
    moments(
        x, mean, rstd, eps, planes=planes, strides=strides, layer=statistics == "layer",
        multiprocessors=multiprocessors(x.device),
    )  # fmt: skip


def fused_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    padded: Tensor,
    mean: Tensor,
    rstd: Tensor,
    *,
    statistics: str,
    activation: str,
    negative_slope: float,
    pad: int,
    pad_mode: str,
    eps: float,
    phases: bool,
) -> None:
    """Write the padded result of a dense x, in its layout, and mean and rstd in float64."""
    if padded.numel() == 0:
        return
    n, c, h, w = result_shape(x, phases)
    channels_last = is_channels_last(x)
    launch = forward_launch((n, c, h, w), x.element_size(), channels_last, statistics, multiprocessors(x.device))
    if statistics != "none" and not launch.whole:
        _statistics(x, mean, rstd, statistics, eps, phases)
    _forward_kernel[(launch.programs,)](
        x,
        weight,
        bias,
        residual,
        padded,
        mean,
        rstd,
        negative_slope,
        eps,
        c,
        h,
        w,
        map_strides(x),
        coefficient_strides(weight),
        coefficient_strides(bias),
        map_strides(residual),
        map_strides(padded),
        STATISTICS=statistics,
        WHOLE=launch.whole,
        ACTIVATION=activation,
        PAD=pad,
        PAD_MODE=pad_mode,
        PHASES=phases,
        INDEX=tl.int64 if needs_64_bit_offsets(x, residual, padded) else tl.int32,
        CHANNELS=launch.tile.channels,
        ROWS=launch.tile.rows,
        COLUMNS=launch.tile.columns,
        PAD_LENGTH=launch.pad_length(pad),
        num_warps=launch.tile.warps,
    )
