"""Triton kernels of `fused_norm`: norm, activation, residual add and padding.

If a program holds whole planes, one kernel does everything. Otherwise the first kernel takes the moments of segments,
the second combines them into a table with the affine map of each plane, and the third reads x again and writes the
result.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.kernels.fused_norm_launch import choose_launch
from fastmunit.kernels.fused_norm_maps import (
    activate,
    affine,
    all_inside,
    coefficients,
    kernel_activation,
    load_values,
    map_offsets,
    offsets,
    pad_position,
    pad_source,
    plane_affine,
    table_row,
    tile_positions,
)
from fastmunit.kernels.launch import ceil_div, is_channels_last, multiprocessors, needs_64_bit_offsets
from fastmunit.kernels.moments import Partials, combined_moments, partial_moments, reciprocal_deviation, tile_moments


@triton.jit
def _finish(value, center, scale, shift, activation, residual, at, inside):
    """Return the activation of the affine map of `value`, plus the residual at offsets `at`."""
    z = (value - center[:, None, None]) * scale[:, None, None] + shift[:, None, None]
    y = activate(z, activation)
    if residual is not None:
        y += load_values(residual + at, inside)
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
    activation,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PIXEL_SHUFFLE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Write pixels (i, j) of the pad, which are outside of the map in at least one direction."""
    if PAD_MODE == "zero":
        y = tl.zeros(inside.shape, tl.float32)
    else:
        source_i = pad_source(i, height, PAD_MODE)
        source_j = pad_source(j, width, PAD_MODE)
        value = load_values(x + map_offsets(c, source_i, source_j, x_strides, PIXEL_SHUFFLE, INDEX), inside)
        at = offsets(c, source_i, source_j, residual_strides, INDEX)
        y = _finish(value, center, scale, shift, activation, residual, at, inside)
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
    table,
    activation,
    eps,
    batch,
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
    EXACT: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PIXEL_SHUFFLE: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PAD_COLUMNS: tl.constexpr,
):
    """Write one tile per program. The first tiles of a map write its pad too.

    WHOLE: The tile holds whole planes. The program computes and writes their mean and rstd. Otherwise it reads the
    affine maps of its planes from the table. Without a table, mean and rstd are given, or there are no statistics.
    EXACT: The tiles cover the map without masked elements. PAD_COLUMNS: Number of columns of the pad that are written
    at a time. Rows are written one by one.
    """
    n, first_channel, first_row, first_column = tile_positions(channels, height, width, CHANNELS, ROWS, COLUMNS)
    c = first_channel + tl.arange(0, CHANNELS)
    i = first_row + tl.arange(0, ROWS)
    j = first_column + tl.arange(0, COLUMNS)
    if EXACT:
        in_channels, in_rows, in_columns = None, None, None
    else:
        in_channels, in_rows, in_columns = c < channels, i < height, j < width
    inside = all_inside(in_channels, in_rows, in_columns)
    x += n * x_strides[0]
    padded += n * padded_strides[0]
    if residual is not None:
        residual += n * residual_strides[0]

    value = load_values(x + map_offsets(c, i, j, x_strides, PIXEL_SHUFFLE, INDEX), inside)
    plane = n * channels + c
    if WHOLE:
        count = tl.cast(height * width, tl.float32)
        rounded, rest, squares = tile_moments(value, inside, count)
        group_mean = rounded.to(tl.float64) + rest
        group_rstd = reciprocal_deviation(squares, count, eps, False)
        tl.store(mean + plane, group_mean, mask=in_channels)
        tl.store(rstd + plane, group_rstd.to(tl.float64), mask=in_channels)
        channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
        channel_bias = coefficients(bias, n, c, bias_strides, in_channels, 0.0)
        center, _, scale, shift = affine(group_mean, group_rstd, channel_weight, channel_bias)
    elif table is None:
        center, _, scale, shift = plane_affine(
            mean, rstd, weight, bias, n, c, channels, weight_strides, bias_strides, in_channels, STATISTICS
        )
    else:
        planes = tl.cast(batch, tl.int64) * channels
        center = table_row(table, 0, plane, planes, in_channels)
        scale = table_row(table, 1, plane, planes, in_channels)
        shift = table_row(table, 2, plane, planes, in_channels)
    at = offsets(c, i, j, residual_strides, INDEX)
    y = _finish(value, center, scale, shift, activation, residual, at, inside)
    at = offsets(c, i + PAD, j + PAD, padded_strides, INDEX)
    tl.store(padded + at, y.to(padded.dtype.element_ty), mask=inside)

    if PAD > 0:
        if first_column == 0:  # left and right of the rows
            for start in range(0, 2 * PAD, PAD_COLUMNS):
                k = start + tl.arange(0, PAD_COLUMNS)
                pad_j = pad_position(k, width, PAD)
                in_edge = all_inside(in_channels, in_rows, k < 2 * PAD)
                _write_pad(
                    x, residual, padded, c, i, pad_j, in_edge, height, width,
                    x_strides, residual_strides, padded_strides, center, scale, shift, activation,
                    PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                )  # fmt: skip
        if first_row == 0:  # above and below the columns, and in the corners
            for row in range(0, 2 * PAD):
                pad_i = pad_position(row + tl.arange(0, 1), height, PAD)
                in_edge = all_inside(in_channels, pad_i < height + PAD, in_columns)
                _write_pad(
                    x, residual, padded, c, pad_i, j, in_edge, height, width,
                    x_strides, residual_strides, padded_strides, center, scale, shift, activation,
                    PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                )  # fmt: skip
                if first_column == 0:
                    for start in range(0, 2 * PAD, PAD_COLUMNS):
                        k = start + tl.arange(0, PAD_COLUMNS)
                        pad_j = pad_position(k, width, PAD)
                        in_corner = all_inside(in_channels, pad_i < height + PAD, k < 2 * PAD)
                        _write_pad(
                            x, residual, padded, c, pad_i, pad_j, in_corner, height, width,
                            x_strides, residual_strides, padded_strides, center, scale, shift, activation,
                            PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                        )  # fmt: skip


@triton.jit
def _write_affine(table, planes, mean, rstd, weight, bias, n, c, channels, weight_strides, bias_strides, in_channels):
    """Write center, scale and shift of channels to the table."""
    channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
    channel_bias = coefficients(bias, n, c, bias_strides, in_channels, 0.0)
    center, _, scale, shift = affine(mean, rstd, channel_weight, channel_bias)
    at = table + n * channels + c
    tl.store(at, center, mask=in_channels)
    tl.store(at + planes, scale, mask=in_channels)
    tl.store(at + 2 * planes, shift, mask=in_channels)


@triton.jit
def _forward_combine_kernel(
    partials,
    per_kind,
    weight,
    bias,
    mean,
    rstd,
    table,
    eps,
    batch,
    channels,
    segments,
    pixels,
    weight_strides,
    bias_strides,
    LAYER: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Combine the partial moments of CHANNELS groups, or of one sample, per program, and write the affine maps.

    A group has PARTS planes of x. With a pixel-unshuffled x, these are the neighboring channels of a plane of the
    result.
    """
    planes = tl.cast(batch, tl.int64) * channels
    if LAYER:
        n = tl.program_id(0).to(tl.int64)
        group = tl.arange(0, 1)
        group_mean, squares = combined_moments(
            partials, per_kind, n, group, 1, group < 1, segments, pixels, PIXELS, BLOCK, 1
        )
        group_rstd = reciprocal_deviation(squares.to(tl.float64), pixels, eps, True)
        tl.store(mean + n + group, group_mean)
        tl.store(rstd + n + group, group_rstd)
        for first in range(0, channels, CHANNELS):
            c = first + tl.arange(0, CHANNELS)
            _write_affine(
                table, planes, group_mean, group_rstd, weight, bias, n, c, channels, weight_strides, bias_strides,
                c < channels,
            )  # fmt: skip
    else:
        n = tl.program_id(0).to(tl.int64) // tl.cdiv(channels, CHANNELS)
        c = tl.program_id(0) % tl.cdiv(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
        in_channels = c < channels
        group_mean, squares = combined_moments(
            partials, per_kind, n, c, channels, in_channels, segments, pixels, PIXELS, BLOCK, PARTS
        )
        group_rstd = reciprocal_deviation(squares, tl.cast(pixels, tl.float32) * PARTS, eps, False).to(tl.float64)
        tl.store(mean + n * channels + c, group_mean, mask=in_channels)
        tl.store(rstd + n * channels + c, group_rstd, mask=in_channels)
        _write_affine(
            table, planes, group_mean, group_rstd, weight, bias, n, c, channels, weight_strides, bias_strides,
            in_channels,
        )  # fmt: skip


def coefficient_strides(data: Tensor | None) -> tuple[int, int]:
    """Return the strides of sample and channel of a weight or bias, (C,) or (N, C)."""
    if data is None:
        return 0, 0
    return (0, data.stride(0)) if data.dim() == 1 else (data.stride(0), data.stride(1))


def map_strides(x: Tensor | None) -> tuple[int, ...]:
    """Return the strides of sample, channel, row and column."""
    return (0, 0, 0, 0) if x is None else x.stride()


def _partial_moments(x: Tensor, options: FusedNormOptions) -> Partials:
    """Return the moments of the segments of each group. A group is a run of planes in the memory order of x."""
    n, c, h, w = x.shape
    if options.statistics == "layer":
        planes, strides = (n, 1, c * h * w), (c * h * w, c * h * w, 1)
    elif is_channels_last(x):
        planes, strides = (n, c, h * w), (c * h * w, 1, c)
    else:  # the four channels of a plane of the result follow each other in memory
        c, pixels = (c // 4, 4 * h * w) if options.pixel_shuffle else (c, h * w)
        planes, strides = (n, c, pixels), (c * pixels, pixels, 1)
    return partial_moments(x, planes, strides, multiprocessors(x.device))


def _affine_table(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    options: FusedNormOptions,
    channels: int,
) -> Tensor:
    """Write mean and rstd, and return center, scale and shift of each plane, (3, N, C)."""
    layer = options.statistics == "layer"
    partials = _partial_moments(x, options)
    n = x.shape[0]
    table = x.new_empty((3, n, channels), dtype=torch.float32)
    channels_per_program = 128 if layer else partials.channels
    _forward_combine_kernel[(n if layer else n * ceil_div(channels, channels_per_program),)](
        partials.data,
        partials.per_kind,
        weight,
        bias,
        mean,
        rstd,
        table,
        options.eps,
        n,
        channels,
        partials.segments,
        partials.planes[2],
        coefficient_strides(weight),
        coefficient_strides(bias),
        LAYER=layer,
        PIXELS=partials.segment_pixels,
        CHANNELS=channels_per_program,
        BLOCK=partials.block,
        PARTS=1 if layer else partials.planes[1] // channels,
        num_warps=partials.warps,
    )
    return table


def fused_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    padded: Tensor,
    mean: Tensor,
    rstd: Tensor,
    options: FusedNormOptions,
    *,
    given: bool = False,
) -> None:
    """Write the padded result of a dense x in its layout, and mean and rstd in float64, which are read if `given`."""
    if padded.numel() == 0:
        return
    n, c, h, w = options.result_shape(x.shape)
    channels_last = is_channels_last(x)
    taken = "none" if given else options.statistics
    launch = choose_launch((n, c, h, w), x.element_size(), channels_last, taken, multiprocessors(x.device))
    table = None
    if taken != "none" and not launch.whole:
        table = _affine_table(x, weight, bias, mean, rstd, options, c)
    _forward_kernel[(launch.programs,)](
        x,
        weight,
        bias,
        residual,
        padded,
        mean,
        rstd,
        table,
        kernel_activation(options),
        options.eps,
        n,
        c,
        h,
        w,
        map_strides(x),
        coefficient_strides(weight),
        coefficient_strides(bias),
        map_strides(residual),
        map_strides(padded),
        STATISTICS=options.statistics,
        WHOLE=launch.whole,
        EXACT=launch.exact,
        PAD=options.pad,
        PAD_MODE=options.pad_mode,
        PIXEL_SHUFFLE=options.pixel_shuffle,
        INDEX=tl.int64 if needs_64_bit_offsets(x, residual, padded) else tl.int32,
        CHANNELS=launch.tile.channels,
        ROWS=launch.tile.rows,
        COLUMNS=launch.tile.columns,
        PAD_COLUMNS=launch.columns_at_a_time(2 * options.pad),
        num_warps=launch.tile.warps,
    )
