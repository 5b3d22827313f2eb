"""Triton kernels of the backward of `fused_norm`.

    dz = activation'(z) * dy,  dx = gain * dz + slope * (x - center) + constant

dy is the sum of the gradients of the interior and of the padded map, of which every pixel of the pad counts for the
pixel that it shows. Gain, slope and constant of a plane follow from the sums of dz and of dz * (x - mean). These sums
run over the padded map: a pixel of the pad adds what it would add if the map had it there. So only dx needs the
gradient of a pixel as a whole, and only along the edges is it more than one value: a program writes its tile, and then
again those of its pixels that a pad shows. Sums over tiles are written one by one and added up in a fixed order.
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
    is_shown_by_pad,
    kernel_activation,
    load_values,
    map_offsets,
    offsets,
    pad_position,
    pad_source,
    pad_target,
    plane_affine,
    product_about_mean,
    shown_position,
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

# Rows of the table of each plane that the last kernel reads: the affine map, and dx by dz and x.
_TABLE = 6
# Sums that a program of the kernel between adds up at a time.
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
    OF_ROWS: tl.constexpr,
    OF_COLUMNS: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The sum over the pixels of the pad that show pixels (i, j), in a fixed order.

    OF_ROWS and OF_COLUMNS: how many rows and columns of the padded map may show one; the first is that of the map.
    """
    dy = tl.zeros([c.shape[0], i.shape[0], j.shape[0]], tl.float32)
    for m in tl.static_range(0, OF_ROWS):
        if m == 0:
            to_i, row_shown = i, i >= 0
        else:
            to_i, row_shown = pad_target(i, m, height, PAD, PAD_MODE)
        for k in tl.static_range(0, OF_COLUMNS):
            if k == 0:
                to_j, shown = j, j >= 0
            else:
                to_j, shown = pad_target(j, k, width, PAD, PAD_MODE)
            if m + k > 0:
                at = offsets(c, to_i + PAD, to_j + PAD, strides, INDEX)
                dy += load_values(dpadded + at, inside & row_shown[None, :, None] & shown[None, None, :])
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
    """What pixels (i, j) of the pad add to the sums of dz and of dz * (x - center)."""
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
def _store_shown(
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
    OF_ROWS: tl.constexpr,
    OF_COLUMNS: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PIXEL_SHUFFLE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Write dx and dresidual of pixels (i, j), which a pad shows."""
    dy = load_values(dpadded + offsets(c, i + PAD, j + PAD, dpadded_strides, INDEX), inside)
    if dinterior is not None:
        dy += load_values(dinterior + offsets(c, i, j, dinterior_strides, INDEX), inside)
    dy += _pad_gradient(
        dpadded, c, i, j, inside, height, width, dpadded_strides, OF_ROWS, OF_COLUMNS, PAD, PAD_MODE, INDEX
    )
    in_x = map_offsets(c, i, j, x_strides, PIXEL_SHUFFLE, INDEX)
    deviation = load_values(x + in_x, inside) - center[:, None, None]
    z = deviation * scale[:, None, None] + shift[:, None, None]
    dz = activation_gradient(dy, z, activation)
    in_dresidual = offsets(c, i, j, dresidual_strides, INDEX)
    _store_gradients(dx, dresidual, in_x, in_dresidual, dy, dz, deviation, gain, slope, constant, inside, HAS_SUMS)


@triton.jit
def _line(sum_dz, sum_product, count, lost, rstd, weight):
    """Gain, slope and constant of planes of instance norm from their sums, in float32.

    dx = rstd * weight * (dz - mean(dz) - (x - mean) * rstd^2 * mean(dz * (x - mean)))

    The product is taken in an order in which no part is larger than rstd or the result.
    """
    gain = rstd * weight
    slope = -gain * (rstd * (rstd * (sum_product / count)))
    return gain, slope, -gain * (sum_dz / count) - slope * lost


@triton.jit
def _layer_factors(factors, n, pixels, channels, rstd, lost, eps):
    """Write what slope and constant of a sample of MUNIT's layer norm are, but for the sums, in float64.

    dx = rstd * (dw - mean(dw)) - (x - mean) * rstd^2 / ((M - 1) * std) * sum(dw * (x - mean)) with dw = weight * dz,
    over the M values of the sample; where std is 0 it counts as a constant, as in torch, and the slope is 0.
    """
    count = tl.cast(pixels, tl.float64) * channels
    std = 1.0 / rstd - eps
    constant_map = std <= 1e-12 * eps
    slope = -rstd * rstd / ((count - 1.0) * tl.where(constant_map, 1.0, std))
    tl.store(factors + 3 * n, tl.where(constant_map, 0.0, slope))
    tl.store(factors + 3 * n + 1, -rstd / count)
    tl.store(factors + 3 * n + 2, lost)


@triton.jit
def _layer_line(factors, table, n, channels, planes, BLOCK: tl.constexpr):
    """Slope and constant of a sample of layer norm from its factors and the weighted sums of its planes."""
    total_dz = tl.zeros([BLOCK], tl.float32)
    total_product = tl.zeros([BLOCK], tl.float32)
    for first in range(0, channels, BLOCK):
        c = first + tl.arange(0, BLOCK)
        total_dz += table_row(table, 4, n * channels + c, planes, c < channels)
        total_product += table_row(table, 5, n * channels + c, planes, c < channels)
    of_slope = tl.load(factors + 3 * n)
    slope = tl.where(of_slope == 0.0, 0.0, of_slope * tl.sum(total_product, axis=0))
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
    SHOWN: tl.constexpr,
    SHOWN_COLUMNS: tl.constexpr,
):
    """One program reads a tile of x and of its gradient.

    SUMS: the tile's sums are taken, and written to `partials`, or to dweight and dbias, where these are given. APPLY:
    dx and dresidual are written, by the table of planes if there is one, else by the sums of a tile of whole planes,
    else without any. EXACT: tiles cover the map without a rest. TARGETS: how many rows (or columns) of the padded map
    may show one; the pad is not read where it is 1. SHOWN: how many rows a pad shows at most. PAD_COLUMNS and
    SHOWN_COLUMNS: columns that are looked at at a time.
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
        center, lost, scale, shift = plane_affine(
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
            if first_column == 0:  # beside the rows
                for start in range(0, 2 * PAD, PAD_COLUMNS):
                    k = start + tl.arange(0, PAD_COLUMNS)
                    beside = pad_position(k, width, PAD)
                    in_edge = all_inside(in_channels, in_rows, k < 2 * PAD)
                    more_dz, more_product = _sums_of_pad(
                        dpadded, x, c, i, beside, in_edge, height, width,
                        dpadded_strides, x_strides, center, scale, shift, activation,
                        PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                    )  # fmt: skip
                    sum_dz += more_dz
                    sum_product += more_product
            if first_row == 0:  # above and below the columns, and in the corners
                for row in range(0, 2 * PAD):
                    above = pad_position(row + tl.arange(0, 1), height, PAD)
                    in_edge = all_inside(in_channels, above < height + PAD, in_columns)
                    more_dz, more_product = _sums_of_pad(
                        dpadded, x, c, above, j, in_edge, height, width,
                        dpadded_strides, x_strides, center, scale, shift, activation,
                        PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                    )  # fmt: skip
                    sum_dz += more_dz
                    sum_product += more_product
                    if first_column == 0:
                        for start in range(0, 2 * PAD, PAD_COLUMNS):
                            k = start + tl.arange(0, PAD_COLUMNS)
                            beside = pad_position(k, width, PAD)
                            in_corner = all_inside(in_channels, above < height + PAD, k < 2 * PAD)
                            more_dz, more_product = _sums_of_pad(
                                dpadded, x, c, above, beside, in_corner, height, width,
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
                of_sample = _layer_line(factors, table, n, channels, planes, 128)
                slope, constant = (
                    tl.zeros(c.shape, tl.float32) + of_sample[0],
                    tl.zeros(c.shape, tl.float32) + of_sample[1],
                )
            else:
                slope = table_row(table, 4, plane, planes, in_channels)
                constant = table_row(table, 5, plane, planes, in_channels)
        elif HAS_SUMS:
            plane_rstd = load_values(rstd + plane, in_channels)
            channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
            sum_product = product_about_mean(sum_product, sum_dz, lost)
            count = tl.cast(height * width, tl.float32)
            gain, slope, constant = _line(sum_dz, sum_product, count, lost, plane_rstd, channel_weight)
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
                for start in range(0, SHOWN, SHOWN_COLUMNS):
                    shown_j, is_column = shown_position(start + tl.arange(0, SHOWN_COLUMNS), width, PAD, PAD_MODE)
                    is_column = is_column & (shown_j >= first_column) & (shown_j < first_column + COLUMNS)
                    if at_rows:
                        in_edge = all_inside(in_channels, in_rows, is_column)
                        _store_shown(
                            dpadded, dinterior, x, dx, dresidual, c, i, shown_j, in_edge,
                            height, width, dpadded_strides, dinterior_strides, x_strides, dresidual_strides,
                            center, scale, shift, gain, slope, constant, activation,
                            HAS_SUMS, TARGETS, TARGETS, PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                        )  # fmt: skip
                    else:
                        in_edge = all_inside(in_channels, in_rows, is_column)
                        _store_shown(
                            dpadded, dinterior, x, dx, dresidual, c, i, shown_j, in_edge,
                            height, width, dpadded_strides, dinterior_strides, x_strides, dresidual_strides,
                            center, scale, shift, gain, slope, constant, activation,
                            HAS_SUMS, 1, TARGETS, PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                        )  # fmt: skip
            if at_rows:  # but for the columns that have just been written
                not_yet = (j < width) & (is_shown_by_pad(j, width, PAD, PAD_MODE) == 0)
                for k in range(0, SHOWN):
                    row, is_row = shown_position(k, height, PAD, PAD_MODE)
                    if is_row & (row >= first_row) & (row < first_row + ROWS):
                        shown_i = row + tl.arange(0, 1)
                        in_edge = all_inside(in_channels, shown_i < height, not_yet)
                        _store_shown(
                            dpadded, dinterior, x, dx, dresidual, c, shown_i, j, in_edge,
                            height, width, dpadded_strides, dinterior_strides, x_strides, dresidual_strides,
                            center, scale, shift, gain, slope, constant, activation,
                            HAS_SUMS, TARGETS, 1, PAD, PAD_MODE, PIXEL_SHUFFLE, INDEX,
                        )  # fmt: skip


@triton.jit
def _plane_sums(partials, n, c, batch, channels, in_channels, tiles, TILES: tl.constexpr):
    """The sums of dz and of dz * (x - center) of channels c of sample n."""
    at = partials + n * tiles * channels + c
    all_dz = tl.zeros([TILES, c.shape[0]], tl.float32)
    all_product = tl.zeros([TILES, c.shape[0]], tl.float32)
    for first in range(0, tiles, TILES):
        k = first + tl.arange(0, TILES)
        inside = (k < tiles)[:, None] & in_channels[None, :]
        of_tiles = at[None, :] + k[:, None] * channels
        all_dz += tl.load(of_tiles, mask=inside, other=0.0)
        all_product += tl.load(of_tiles + tl.cast(batch, tl.int64) * tiles * channels, mask=inside, other=0.0)
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
    DWEIGHT_OF_SAMPLES: tl.constexpr,
    DBIAS_OF_SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILES: tl.constexpr,
):
    """One program adds up the sums of CHANNELS channels of all samples: dweight, dbias, and the table of planes."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    in_channels = c < channels
    planes = tl.cast(batch, tl.int64) * channels
    total_weight = tl.zeros([CHANNELS], tl.float32)
    total_bias = tl.zeros([CHANNELS], tl.float32)
    for sample in range(0, batch):
        n = tl.cast(sample, tl.int64)
        plane = n * channels + c
        sum_dz, sum_product = _plane_sums(partials, n, c, batch, channels, in_channels, tiles, TILES)
        center, lost, scale, shift = plane_affine(
            mean, rstd, weight, bias, n, c, channels, weight_strides, bias_strides, in_channels, STATISTICS
        )
        channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
        if STATISTICS == "instance":
            plane_rstd = load_values(rstd + plane, in_channels)
            sum_product = product_about_mean(sum_product, sum_dz, lost)
            of_weight = sum_product * plane_rstd
            if table is not None:
                count = tl.cast(height, tl.float32) * width
                gain, slope, constant = _line(sum_dz, sum_product, count, lost, plane_rstd, channel_weight)
                _write_table(table, plane, planes, center, scale, shift, gain, slope, constant, in_channels)
        elif STATISTICS == "layer":
            sum_product = product_about_mean(sum_product, sum_dz, lost)
            sample_mean, sample_rstd = tl.load(mean + n), tl.load(rstd + n)
            gain = tl.cast(sample_rstd, tl.float32) * channel_weight
            of_weight = sum_product * sample_rstd.to(tl.float32)
            if table is not None:
                _write_table(
                    table, plane, planes, center, scale, shift, gain, channel_weight * sum_dz,
                    channel_weight * sum_product, in_channels,
                )  # fmt: skip
                if tl.program_id(0) == 0:
                    sample_lost = sample_mean - sample_mean.to(tl.float32)
                    _layer_factors(
                        factors, n, tl.cast(height, tl.int64) * width, channels, sample_rstd, sample_lost, eps
                    )
        else:
            of_weight = sum_product
        total_weight += of_weight
        total_bias += sum_dz
        if DWEIGHT_OF_SAMPLES:
            store_converted(dweight + plane, of_weight, in_channels)
        if DBIAS_OF_SAMPLES:
            store_converted(dbias + plane, sum_dz, in_channels)
    if dweight is not None and not DWEIGHT_OF_SAMPLES:
        store_converted(dweight + c, total_weight, in_channels)
    if dbias is not None and not DBIAS_OF_SAMPLES:
        store_converted(dbias + c, total_bias, in_channels)


def _pad_targets(pad: int, pad_mode: str) -> int:
    """How many rows of the padded map may show one row of the map."""
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
    """Write the gradients of a dense x, of weight and bias where these are given, and of residual where it is wanted.

    mean and rstd are contiguous; dpadded and dinterior are read with whatever strides they have.
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
    # What a program of whole planes can write alone: a gradient for each sample.
    of_samples = [d is not None and (d.dim() == 2 or n == 1) for d in (dweight, dbias)]
    alone = launch.whole and all(d is None or own for d, own in zip((dweight, dbias), of_samples, strict=True))
    needs_table = statistics != "none" and not launch.whole
    combines = needs_table or (not alone and (dweight is not None or dbias is not None))
    shown = 2 if pad_mode == "replicate" else 2 * pad
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
            dweight if alone else None,
            dbias if alone else None,
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
            SHOWN=shown,
            SHOWN_COLUMNS=launch.columns_at_a_time(shown),
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
            DWEIGHT_OF_SAMPLES=of_samples[0],
            DBIAS_OF_SAMPLES=of_samples[1],
            CHANNELS=together,
            TILES=block,
            num_warps=min(8, warps_for(together * block, 16)),
        )
    if needs_table:
        run(sums=False, apply=True)
