"""Triton kernels of the backward of `fused_norm`.

    dz = activation'(z) * dy,  dx = gain * dz + slope * (x - center) + constant

dy is the sum of the gradients of the interior and of the padded map. The gradient of a pixel of the pad is added to its
source pixel in the map. Gain, slope and constant of a plane follow from the sums of dz and of dz * (x - mean). These
sums run over the padded map: a pixel of the pad adds the same term as if it were a pixel of the map. Only dx needs the
whole gradient of a pixel, and this is a sum of several values only along the edges: a program writes its tile, and then
writes the source pixels of the pad again. Sums over tiles are written separately and added up in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.kernels.fused_norm import coefficient_strides, map_strides
from fastmunit.kernels.fused_norm_launch import choose_launch
from fastmunit.kernels.fused_norm_maps import (
    activation_gradient,
    all_inside,
    coefficients,
    is_pad_source,
    kernel_activation,
    load_values,
    map_offsets,
    offsets,
    pad_position,
    pad_source,
    pad_source_position,
    pad_target,
    plane_affine,
    product_about_mean,
    store_converted,
    table_row,
    tile_positions,
)
from fastmunit.kernels.launch import (
    ceil_div,
    is_channels_last,
    multiprocessors,
    needs_64_bit_offsets,
    power_of_two,
    warps_for,
)
from fastmunit.kernels.moments import tile_sum

# Values per plane in the table that the last kernel reads: three of the affine map, and gain, slope and constant.
_TABLE = 6
# Number of partial sums that a program of the combining kernel adds up at a time.
_COMBINED = 4096


@triton.jit
def _pad_gradient(
    dpadded,
    c,
    i,
    j,
    inside,
    height,
    width,
    strides,
    ROW_TARGETS: tl.constexpr,
    COLUMN_TARGETS: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Sum the gradients of the pixels of the pad whose source is pixel (i, j), in a fixed order.

    ROW_TARGETS and COLUMN_TARGETS: Maximum number of rows and columns of the padded map with the same source. The first
    of them is the row or column of the map itself.
    """
    dy = tl.zeros([c.shape[0], i.shape[0], j.shape[0]], tl.float32)
    for m in tl.static_range(0, ROW_TARGETS):
        if m == 0:
            to_i, row_is_target = i, i >= 0
        else:
            to_i, row_is_target = pad_target(i, m, height, PAD, PAD_MODE)
        for k in tl.static_range(0, COLUMN_TARGETS):
            if k == 0:
                to_j, is_target = j, j >= 0
            else:
                to_j, is_target = pad_target(j, k, width, PAD, PAD_MODE)
            if m + k > 0:
                at = offsets(c, to_i + PAD, to_j + PAD, strides, INDEX)
                dy += load_values(dpadded + at, inside & row_is_target[None, :, None] & is_target[None, None, :])
    return dy


@triton.jit
def _sums_of_pad(
    dpadded,
    x,
    c,
    i,
    j,
    inside,
    height,
    width,
    dpadded_strides,
    x_strides,
    center,
    scale,
    shift,
    activation,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PIXEL_SHUFFLE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Return the terms of pixels (i, j) of the pad in the sums of dz and of dz * (x - center)."""
    source_i = pad_source(i, height, PAD_MODE)
    source_j = pad_source(j, width, PAD_MODE)
    dy = load_values(dpadded + offsets(c, i + PAD, j + PAD, dpadded_strides, INDEX), inside)
    value = load_values(x + map_offsets(c, source_i, source_j, x_strides, PIXEL_SHUFFLE, INDEX), inside)
    deviation = value - center[:, None, None]
    z = deviation * scale[:, None, None] + shift[:, None, None]
    dz = activation_gradient(dy, z, activation)
    return tile_sum(dz), tile_sum(tl.where(inside, dz * deviation, 0.0))


@triton.jit
def _store_gradients(
    dx,
    dresidual,
    in_x,
    in_dresidual,
    dy,
    dz,
    deviation,
    gain,
    slope,
    constant,
    inside,
    HAS_SUMS: tl.constexpr,
):
    """Write dx and dresidual of a tile."""
    dx_tile = gain[:, None, None] * dz
    if HAS_SUMS:
        dx_tile += slope[:, None, None] * deviation + constant[:, None, None]
    tl.store(dx + in_x, dx_tile.to(dx.dtype.element_ty), mask=inside)
    if dresidual is not None:
        tl.store(dresidual + in_dresidual, dy.to(dresidual.dtype.element_ty), mask=inside)


@triton.jit
def _store_sources(
    dpadded,
    dinterior,
    x,
    dx,
    dresidual,
    c,
    i,
    j,
    inside,
    height,
    width,
    dpadded_strides,
    dinterior_strides,
    x_strides,
    dresidual_strides,
    center,
    scale,
    shift,
    gain,
    slope,
    constant,
    activation,
    HAS_SUMS: tl.constexpr,
    ROW_TARGETS: tl.constexpr,
    COLUMN_TARGETS: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PIXEL_SHUFFLE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Write dx and dresidual of pixels (i, j), which are sources of the pad."""
    dy = load_values(dpadded + offsets(c, i + PAD, j + PAD, dpadded_strides, INDEX), inside)
    if dinterior is not None:
        dy += load_values(dinterior + offsets(c, i, j, dinterior_strides, INDEX), inside)
    dy += _pad_gradient(
        dpadded, c, i, j, inside, height, width, dpadded_strides, ROW_TARGETS, COLUMN_TARGETS, PAD, PAD_MODE, INDEX
    )
    in_x = map_offsets(c, i, j, x_strides, PIXEL_SHUFFLE, INDEX)
    deviation = load_values(x + in_x, inside) - center[:, None, None]
    z = deviation * scale[:, None, None] + shift[:, None, None]
    dz = activation_gradient(dy, z, activation)
    in_dresidual = offsets(c, i, j, dresidual_strides, INDEX)
    _store_gradients(dx, dresidual, in_x, in_dresidual, dy, dz, deviation, gain, slope, constant, inside, HAS_SUMS)


@triton.jit
def _gradient_coefficients(sum_dz, sum_product, count, rounding, rstd, weight):
    """Return gain, slope and constant of planes of instance norm from their sums, in float32.

    dx = rstd * weight * (dz - mean(dz) - (x - mean) * rstd^2 * mean(dz * (x - mean)))

    The factors are multiplied in an order in which no intermediate value is larger than rstd or the result.
    """
    gain = rstd * weight
    slope = -gain * (rstd * (rstd * (sum_product / count)))
    return gain, slope, -gain * (sum_dz / count) - slope * rounding


@triton.jit
def _layer_factors(factors, n, pixels, channels, rstd, rounding, eps):
    """Write the factors by which the sums of a sample of MUNIT's layer norm are multiplied, in float64.

    dx = rstd * (dw - mean(dw)) - (x - mean) * rstd^2 / ((M - 1) * std) * sum(dw * (x - mean)) with dw = weight * dz,
    over the M values of the sample. If std is 0, it is treated as a constant, as in torch, and the slope is 0.
    """
    count = tl.cast(pixels, tl.float64) * channels
    std = 1.0 / rstd - eps
    constant_map = std <= 1e-12 * eps
    slope = -rstd * rstd / ((count - 1.0) * tl.where(constant_map, 1.0, std))
    tl.store(factors + 3 * n, tl.where(constant_map, 0.0, slope))
    tl.store(factors + 3 * n + 1, -rstd / count)
    tl.store(factors + 3 * n + 2, rounding)


@triton.jit
def _layer_gradient_coefficients(factors, table, n, channels, planes, BLOCK: tl.constexpr):
    """Return slope and constant of a sample of layer norm from its factors and the weighted sums of its planes."""
    total_dz = tl.zeros([BLOCK], tl.float32)
    total_product = tl.zeros([BLOCK], tl.float32)
    for first in range(0, channels, BLOCK):
        c = first + tl.arange(0, BLOCK)
        total_dz += table_row(table, 4, n * channels + c, planes, c < channels)
        total_product += table_row(table, 5, n * channels + c, planes, c < channels)
    slope_factor = tl.load(factors + 3 * n)
    slope = tl.where(slope_factor == 0.0, 0.0, slope_factor * tl.sum(total_product, axis=0))
    constant = tl.load(factors + 3 * n + 1) * tl.sum(total_dz, axis=0) - slope * tl.load(factors + 3 * n + 2)
    return slope.to(tl.float32), constant.to(tl.float32)


@triton.jit
def _backward_kernel(
    dpadded,
    dinterior,
    x,
    mean,
    rstd,
    weight,
    bias,
    dx,
    dresidual,
    partials,
    table,
    factors,
    dweight,
    dbias,
    activation,
    batch,
    channels,
    height,
    width,
    dpadded_strides,
    dinterior_strides,
    x_strides,
    weight_strides,
    bias_strides,
    dresidual_strides,
    STATISTICS: tl.constexpr,
    SUMS: tl.constexpr,
    APPLY: tl.constexpr,
    EXACT: tl.constexpr,
    TARGETS: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PIXEL_SHUFFLE: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PAD_COLUMNS: tl.constexpr,
    SOURCES: tl.constexpr,
    SOURCE_COLUMNS: tl.constexpr,
):
    """Read a tile of x and of its gradient per program.

    SUMS: Take the sums of the tile, and write them to `partials`, or to dweight and dbias if these are given. APPLY:
        Write dx and dresidual, from the table of planes if there is one, or else from the sums of a tile of whole
        planes, or without statistics from no sums. EXACT: The tiles cover the map without masked elements. TARGETS:
        Maximum number of rows (or columns) of the padded map with the same source. The pad is not read if it is 1.
        SOURCES: Maximum number of source rows of the pad. PAD_COLUMNS and SOURCE_COLUMNS: Number of columns that are
        processed at a time.
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
    if APPLY:
        dx += n * x_strides[0]
        if dresidual is not None:
            dresidual += n * dresidual_strides[0]
    if dpadded is not None:
        dpadded += n * dpadded_strides[0]
        dy = load_values(dpadded + offsets(c, i + PAD, j + PAD, dpadded_strides, INDEX), inside)
        if dinterior is not None:
            dinterior += n * dinterior_strides[0]
            dy += load_values(dinterior + offsets(c, i, j, dinterior_strides, INDEX), inside)
    else:
        dinterior += n * dinterior_strides[0]
        dy = load_values(dinterior + offsets(c, i, j, dinterior_strides, INDEX), inside)
    in_x = map_offsets(c, i, j, x_strides, PIXEL_SHUFFLE, INDEX)
    value = load_values(x + in_x, inside)

    plane = n * channels + c
    planes = tl.cast(batch, tl.int64) * channels
    if table is None:
        center, rounding, scale, shift = plane_affine(
            mean, rstd, weight, bias, n, c, channels, weight_strides, bias_strides, in_channels, STATISTICS
        )
    else:
        center = table_row(table, 0, plane, planes, in_channels)
        scale = table_row(table, 1, plane, planes, in_channels)
        shift = table_row(table, 2, plane, planes, in_channels)
    deviation = value - center[:, None, None]
    z = deviation * scale[:, None, None] + shift[:, None, None]
    dz = activation_gradient(dy, z, activation)

    if SUMS:
        sum_dz = tile_sum(dz)
        product = dz * deviation
        if inside is not None:
            product = tl.where(inside, product, 0.0)
        sum_product = tile_sum(product)
        if TARGETS > 1:
            if first_column == 0:  # left and right of the rows
                for start in range(0, 2 * PAD, PAD_COLUMNS):
                    k = start + tl.arange(0, PAD_COLUMNS)
                    pad_j = pad_position(k, width, PAD)
                    in_edge = all_inside(in_channels, in_rows, k < 2 * PAD)
                    more_dz, more_product = _sums_of_pad(
                        dpadded, x, c, i, pad_j, in_edge, height, width,
                        dpadded_strides, x_strides, center, scale, shift, activation,
                        PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                    )  # fmt: skip
                    sum_dz += more_dz
                    sum_product += more_product
            if first_row == 0:  # above and below the columns, and in the corners
                for row in range(0, 2 * PAD):
                    pad_i = pad_position(row + tl.arange(0, 1), height, PAD)
                    in_edge = all_inside(in_channels, pad_i < height + PAD, in_columns)
                    more_dz, more_product = _sums_of_pad(
                        dpadded, x, c, pad_i, j, in_edge, height, width,
                        dpadded_strides, x_strides, center, scale, shift, activation,
                        PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                    )  # fmt: skip
                    sum_dz += more_dz
                    sum_product += more_product
                    if first_column == 0:
                        for start in range(0, 2 * PAD, PAD_COLUMNS):
                            k = start + tl.arange(0, PAD_COLUMNS)
                            pad_j = pad_position(k, width, PAD)
                            in_corner = all_inside(in_channels, pad_i < height + PAD, k < 2 * PAD)
                            more_dz, more_product = _sums_of_pad(
                                dpadded, x, c, pad_i, pad_j, in_corner, height, width,
                                dpadded_strides, x_strides, center, scale, shift, activation,
                                PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                            )  # fmt: skip
                            sum_dz += more_dz
                            sum_product += more_product
        if partials is not None:
            tiles = tl.cdiv(height, ROWS) * tl.cdiv(width, COLUMNS)
            tile = first_row // ROWS * tl.cdiv(width, COLUMNS) + first_column // COLUMNS
            at = partials + (n * tiles + tile) * channels + c
            tl.store(at, sum_dz, mask=in_channels)
            tl.store(at + planes * tiles, sum_product, mask=in_channels)
    if APPLY:
        HAS_SUMS: tl.constexpr = STATISTICS != "none"
        if table is not None:
            gain = table_row(table, 3, plane, planes, in_channels)
            if STATISTICS == "layer":
                layer_slope, layer_constant = _layer_gradient_coefficients(factors, table, n, channels, planes, 128)
                slope, constant = (
                    tl.zeros(c.shape, tl.float32) + layer_slope,
                    tl.zeros(c.shape, tl.float32) + layer_constant,
                )
            else:
                slope = table_row(table, 4, plane, planes, in_channels)
                constant = table_row(table, 5, plane, planes, in_channels)
        elif HAS_SUMS:
            plane_rstd = load_values(rstd + plane, in_channels)
            channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
            sum_product = product_about_mean(sum_product, sum_dz, rounding)
            count = tl.cast(height * width, tl.float32)
            gain, slope, constant = _gradient_coefficients(
                sum_dz, sum_product, count, rounding, plane_rstd, channel_weight
            )
            if dweight is not None:
                store_converted(dweight + plane, sum_product * plane_rstd, in_channels)
            if dbias is not None:
                store_converted(dbias + plane, sum_dz, in_channels)
        else:
            gain, slope, constant = scale, scale, scale
        in_dresidual = offsets(c, i, j, dresidual_strides, INDEX)
        _store_gradients(dx, dresidual, in_x, in_dresidual, dy, dz, deviation, gain, slope, constant, inside, HAS_SUMS)
        if TARGETS > 1:
            at_rows = (first_row <= PAD) | (first_row + ROWS >= height - PAD)
            at_columns = (first_column <= PAD) | (first_column + COLUMNS >= width - PAD)
            if at_rows | at_columns:
                tl.debug_barrier()  # other threads have written these pixels
            if at_columns:
                for start in range(0, SOURCES, SOURCE_COLUMNS):
                    source_j, is_column = pad_source_position(
                        start + tl.arange(0, SOURCE_COLUMNS), width, PAD, PAD_MODE
                    )
                    is_column = is_column & (source_j >= first_column) & (source_j < first_column + COLUMNS)
                    if at_rows:
                        in_edge = all_inside(in_channels, in_rows, is_column)
                        _store_sources(
                            dpadded, dinterior, x, dx, dresidual, c, i, source_j, in_edge,
                            height, width, dpadded_strides, dinterior_strides, x_strides, dresidual_strides,
                            center, scale, shift, gain, slope, constant, activation,
                            HAS_SUMS, TARGETS, TARGETS, PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                        )  # fmt: skip
                    else:
                        in_edge = all_inside(in_channels, in_rows, is_column)
                        _store_sources(
                            dpadded, dinterior, x, dx, dresidual, c, i, source_j, in_edge,
                            height, width, dpadded_strides, dinterior_strides, x_strides, dresidual_strides,
                            center, scale, shift, gain, slope, constant, activation,
                            HAS_SUMS, 1, TARGETS, PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                        )  # fmt: skip
            if at_rows:  # except for the columns that have just been written
                not_yet = (j < width) & (is_pad_source(j, width, PAD, PAD_MODE) == 0)
                for k in range(0, SOURCES):
                    row, is_row = pad_source_position(k, height, PAD, PAD_MODE)
                    if is_row & (row >= first_row) & (row < first_row + ROWS):
                        source_i = row + tl.arange(0, 1)
                        in_edge = all_inside(in_channels, source_i < height, not_yet)
                        _store_sources(
                            dpadded, dinterior, x, dx, dresidual, c, source_i, j, in_edge,
                            height, width, dpadded_strides, dinterior_strides, x_strides, dresidual_strides,
                            center, scale, shift, gain, slope, constant, activation,
                            HAS_SUMS, TARGETS, 1, PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                        )  # fmt: skip


@triton.jit
def _plane_sums(partials, n, c, batch, channels, in_channels, tiles, TILES: tl.constexpr):
    """Return the sums of dz and of dz * (x - center) of channels c of sample n."""
    at = partials + n * tiles * channels + c
    all_dz = tl.zeros([TILES, c.shape[0]], tl.float32)
    all_product = tl.zeros([TILES, c.shape[0]], tl.float32)
    for first in range(0, tiles, TILES):
        k = first + tl.arange(0, TILES)
        inside = (k < tiles)[:, None] & in_channels[None, :]
        at_tiles = at[None, :] + k[:, None] * channels
        all_dz += tl.load(at_tiles, mask=inside, other=0.0)
        all_product += tl.load(at_tiles + tl.cast(batch, tl.int64) * tiles * channels, mask=inside, other=0.0)
    return tl.sum(all_dz, axis=0), tl.sum(all_product, axis=0)


@triton.jit
def _write_table(table, plane, planes, center, scale, shift, gain, slope, constant, in_channels):
    tl.store(table + plane, center, mask=in_channels)
    tl.store(table + planes + plane, scale, mask=in_channels)
    tl.store(table + 2 * planes + plane, shift, mask=in_channels)
    tl.store(table + 3 * planes + plane, gain, mask=in_channels)
    tl.store(table + 4 * planes + plane, slope, mask=in_channels)
    tl.store(table + 5 * planes + plane, constant, mask=in_channels)


@triton.jit
def _backward_combine_kernel(
    partials,
    table,
    factors,
    mean,
    rstd,
    weight,
    bias,
    dweight,
    dbias,
    eps,
    batch,
    channels,
    height,
    width,
    tiles,
    weight_strides,
    bias_strides,
    STATISTICS: tl.constexpr,
    DWEIGHT_PER_SAMPLE: tl.constexpr,
    DBIAS_PER_SAMPLE: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Add up the sums of CHANNELS channels of all samples per program, and write dweight, dbias and the table."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    in_channels = c < channels
    planes = tl.cast(batch, tl.int64) * channels
    total_weight = tl.zeros([CHANNELS], tl.float32)
    total_bias = tl.zeros([CHANNELS], tl.float32)
    for sample in range(0, batch):
        n = tl.cast(sample, tl.int64)
        plane = n * channels + c
        sum_dz, sum_product = _plane_sums(partials, n, c, batch, channels, in_channels, tiles, TILES)
        center, rounding, scale, shift = plane_affine(
            mean, rstd, weight, bias, n, c, channels, weight_strides, bias_strides, in_channels, STATISTICS
        )
        channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
        if STATISTICS == "instance":
            plane_rstd = load_values(rstd + plane, in_channels)
            sum_product = product_about_mean(sum_product, sum_dz, rounding)
            plane_dweight = sum_product * plane_rstd
            if table is not None:
                count = tl.cast(height, tl.float32) * width
                gain, slope, constant = _gradient_coefficients(
                    sum_dz, sum_product, count, rounding, plane_rstd, channel_weight
                )
                _write_table(table, plane, planes, center, scale, shift, gain, slope, constant, in_channels)
        elif STATISTICS == "layer":
            sum_product = product_about_mean(sum_product, sum_dz, rounding)
            sample_mean, sample_rstd = tl.load(mean + n), tl.load(rstd + n)
            gain = tl.cast(sample_rstd, tl.float32) * channel_weight
            plane_dweight = sum_product * sample_rstd.to(tl.float32)
            if table is not None:
                _write_table(
                    table, plane, planes, center, scale, shift, gain, channel_weight * sum_dz,
                    channel_weight * sum_product, in_channels,
                )  # fmt: skip
                if tl.program_id(0) == 0:
                    sample_rounding = sample_mean - sample_mean.to(tl.float32)
                    _layer_factors(
                        factors, n, tl.cast(height, tl.int64) * width, channels, sample_rstd, sample_rounding, eps
                    )
        else:
            plane_dweight = sum_product
        total_weight += plane_dweight
        total_bias += sum_dz
        if DWEIGHT_PER_SAMPLE:
            store_converted(dweight + plane, plane_dweight, in_channels)
        if DBIAS_PER_SAMPLE:
            store_converted(dbias + plane, sum_dz, in_channels)
    if dweight is not None and not DWEIGHT_PER_SAMPLE:
        store_converted(dweight + c, total_weight, in_channels)
    if dbias is not None and not DBIAS_PER_SAMPLE:
        store_converted(dbias + c, total_bias, in_channels)


def _pad_targets(pad: int, pad_mode: str) -> int:
    """Return the maximum number of rows of the padded map with the same source row."""
    return {"zero": 1, "reflect": 3 if pad else 1, "replicate": 1 + 2 * pad}[pad_mode]


def fused_norm_backward(
    dpadded: Tensor | None,
    dinterior: Tensor | None,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor,
    dweight: Tensor | None,
    dbias: Tensor | None,
    dresidual: Tensor | None,
    options: FusedNormOptions,
) -> None:
    """Write the gradients of a dense x, and those of weight, bias and residual that are given.

    mean and rstd are contiguous. dpadded and dinterior may have any strides.
    """
    if x.numel() == 0:
        for empty_sum in (dweight, dbias):
            if empty_sum is not None:
                empty_sum.zero_()
        return
    n, c, h, w = options.result_shape(x.shape)
    statistics, pad, pad_mode = options.statistics, options.pad, options.pad_mode
    launch = choose_launch((n, c, h, w), x.element_size(), is_channels_last(x), statistics, multiprocessors(x.device))
    tile = launch.tile
    _, row_blocks, column_blocks = tile.blocks(c, h, w)
    tiles = row_blocks * column_blocks
    # A program with whole planes can write a gradient per sample without the combining kernel.
    per_sample = [d is not None and (d.dim() == 2 or n == 1) for d in (dweight, dbias)]
    one_kernel = launch.whole and all(d is None or own for d, own in zip((dweight, dbias), per_sample, strict=True))
    needs_table = statistics != "none" and not launch.whole
    combines = needs_table or (not one_kernel and (dweight is not None or dbias is not None))
    sources = 2 if pad_mode == "replicate" else 2 * pad
    partials = x.new_empty((2 * n * c * tiles,), dtype=torch.float32) if combines else None
    table = x.new_empty((_TABLE * n * c,), dtype=torch.float32) if needs_table else None
    factors = x.new_empty((3 * n,), dtype=torch.float64) if needs_table and statistics == "layer" else None

    def run(sums: bool, apply: bool) -> None:
        _backward_kernel[(launch.programs,)](
            dpadded,
            dinterior,
            x,
            mean,
            rstd,
            weight,
            bias,
            dx,
            dresidual,
            partials if sums else None,
            table if apply else None,
            factors if apply else None,
            dweight if one_kernel else None,
            dbias if one_kernel else None,
            kernel_activation(options),
            n,
            c,
            h,
            w,
            map_strides(dpadded),
            map_strides(dinterior),
            map_strides(x),
            coefficient_strides(weight),
            coefficient_strides(bias),
            map_strides(dresidual),
            STATISTICS=statistics,
            SUMS=sums,
            APPLY=apply,
            EXACT=launch.exact,
            TARGETS=_pad_targets(pad, pad_mode) if dpadded is not None else 1,
            PAD=pad,
            PAD_MODE=pad_mode,
            PIXEL_SHUFFLE=options.pixel_shuffle,
            INDEX=tl.int64 if needs_64_bit_offsets(x, dpadded, dinterior) else tl.int32,
            CHANNELS=tile.channels,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            PAD_COLUMNS=launch.columns_at_a_time(2 * pad),
            SOURCES=sources,
            SOURCE_COLUMNS=launch.columns_at_a_time(sources),
            num_warps=tile.warps,
        )

    run(sums=launch.whole or combines, apply=not needs_table)
    if combines:
        together = min(8, power_of_two(c))
        block = min(power_of_two(tiles), _COMBINED // together)
        _backward_combine_kernel[(ceil_div(c, together),)](
            partials,
            table,
            factors,
            mean,
            rstd,
            weight,
            bias,
            dweight,
            dbias,
            options.eps,
            n,
            c,
            h,
            w,
            tiles,
            coefficient_strides(weight),
            coefficient_strides(bias),
            STATISTICS=statistics,
            DWEIGHT_PER_SAMPLE=per_sample[0],
            DBIAS_PER_SAMPLE=per_sample[1],
            CHANNELS=together,
            TILES=block,
            num_warps=min(8, warps_for(together * block, 16)),
        )
    if needs_table:
        run(sums=False, apply=True)
