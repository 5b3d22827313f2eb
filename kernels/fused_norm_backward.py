"""Triton kernels of the backward of `fused_norm`.

    dz = activation'(z) * dy,  dx = gain * dz + slope * (x - center) + constant

dy is the sum of the gradients of the interior and of the padded map, the latter gathered from all pixels of the pad
that show a pixel. Gain, slope and constant of a plane follow from the sums of dz and of dz * (x - mean). Sums over
tiles are written one by one and added up in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.kernels.fused_norm import coefficient_strides, map_strides, result_shape
from fastmunit.kernels.fused_norm_launch import backward_launch
from fastmunit.kernels.fused_norm_maps import (
    activation_gradient,
    affine,
    all_inside,
    coefficients,
    group_statistics,
    map_offsets,
    offsets,
    pad_target,
    product_about_mean,
    store_float64,
    tile_positions,
)
from fastmunit.kernels.launch import ceil_div, is_channels_last, multiprocessors, needs_64_bit_offsets, power_of_two
from fastmunit.kernels.moments import tile_sum


@triton.jit
def _gather(
    dpadded,
    c,
    i,
    j,
    in_channels,
    in_rows,
    in_columns,
    height,
    width,
    strides,
    at_row_edge,
    at_column_edge,
    TARGETS: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The adjoint of the pad: for each pixel the sum over the pixels of dpadded that show it, in a fixed order.

    TARGETS: how many rows (or columns) may show one. The flags say whether the tile reaches pixels that a pad shows.
    """
    inside = all_inside(in_channels, in_rows, in_columns)
    dy = tl.load(dpadded + offsets(c, i + PAD, j + PAD, strides, INDEX), mask=inside, other=0.0).to(tl.float32)
    if TARGETS > 1:
        if at_column_edge:
            for k in tl.static_range(1, TARGETS):
                to_j, is_shown = pad_target(j, k, width, PAD, PAD_MODE)
                at = offsets(c, i + PAD, to_j + PAD, strides, INDEX)
                inside = all_inside(in_channels, in_rows, in_columns & is_shown)
                dy += tl.load(dpadded + at, mask=inside, other=0.0).to(tl.float32)
        if at_row_edge:
            for m in tl.static_range(1, TARGETS):
                to_i, is_shown_row = pad_target(i, m, height, PAD, PAD_MODE)
                at = offsets(c, to_i + PAD, j + PAD, strides, INDEX)
                inside = all_inside(in_channels, in_rows & is_shown_row, in_columns)
                dy += tl.load(dpadded + at, mask=inside, other=0.0).to(tl.float32)
                for k in tl.static_range(1, TARGETS):
                    to_j, is_shown = pad_target(j, k, width, PAD, PAD_MODE)
                    at = offsets(c, to_i + PAD, to_j + PAD, strides, INDEX)
                    inside = all_inside(in_channels, in_rows & is_shown_row, in_columns & is_shown)
                    dy += tl.load(dpadded + at, mask=inside, other=0.0).to(tl.float32)
    return dy


@triton.jit
def _line(sum_dz, sum_product, count, mean, center, rstd, weight):
    """Gain, slope and constant of planes of instance norm from their sums, in float64.

    dx = rstd * weight * (dz - mean(dz) - (x - mean) * rstd^2 * mean(dz * (x - mean)))
    """
    gain = rstd * weight
    slope = -gain * rstd * rstd * sum_product / count
    return gain, slope, -gain * sum_dz / count - slope * (mean - center)


@triton.jit
def _layer_line(
    sums_dz, sums_product, weight, n, channels, pixels, mean, rstd, eps, weight_strides, BLOCK: tl.constexpr
):
    """Slope and constant of a sample of MUNIT's layer norm from the sums of its planes, in float64.

    dx = rstd * (dw - mean(dw)) - (x - mean) * rstd^2 / ((M - 1) * std) * sum(dw * (x - mean)) with dw = weight * dz,
    over the M values of the sample; where std is 0 it counts as a constant, as in torch.
    """
    total_dz = tl.zeros([BLOCK], tl.float64)
    total_product = tl.zeros([BLOCK], tl.float64)
    for first in range(0, channels, BLOCK):
        c = first + tl.arange(0, BLOCK)
        in_channels = c < channels
        channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
        total_dz += channel_weight * tl.load(sums_dz + n * channels + c, mask=in_channels, other=0.0)
        total_product += channel_weight * tl.load(sums_product + n * channels + c, mask=in_channels, other=0.0)
    count = (pixels * channels).to(tl.float64)
    std = 1.0 / rstd - eps
    constant_map = std <= 1e-12 * eps
    slope = -rstd * rstd * tl.sum(total_product, axis=0) / ((count - 1.0) * tl.where(constant_map, 1.0, std))
    slope = tl.where(constant_map, 0.0, slope)
    return slope, -rstd * tl.sum(total_dz, axis=0) / count - slope * (mean - mean.to(tl.float32))


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
    sums,
    dweight,
    dbias,
    negative_slope,
    eps,
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
    PASS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TARGETS: tl.constexpr,
    PAD: tl.constexpr,
    PAD_MODE: tl.constexpr,
    PHASES: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program reads a tile of x and of its gradient.

    PASS "sums" writes the tile's sums to `partials`; "apply" writes dx and dresidual by the sums of whole planes;
    "whole" does both for a tile of whole planes, as does "none", where dx needs no sums. dweight and dbias are those
    that "whole" can write alone, of each sample.
    """
    n, first_channel, first_row, first_column = tile_positions(channels, height, width, CHANNELS, ROWS, COLUMNS)
    c = first_channel + tl.arange(0, CHANNELS)
    i = first_row + tl.arange(0, ROWS)
    j = first_column + tl.arange(0, COLUMNS)
    in_channels, in_rows, in_columns = c < channels, i < height, j < width
    inside = all_inside(in_channels, in_rows, in_columns)

    dy = tl.zeros(inside.shape, tl.float32)
    if dpadded is not None:
        dy += _gather(
            dpadded + n * dpadded_strides[0], c, i, j, in_channels, in_rows, in_columns, height, width, dpadded_strides,
            (first_row <= PAD) | (first_row + ROWS >= height - PAD),
            (first_column <= PAD) | (first_column + COLUMNS >= width - PAD),
            TARGETS, PAD, PAD_MODE, INDEX,
        )  # fmt: skip
    if dinterior is not None:
        at = n * dinterior_strides[0] + offsets(c, i, j, dinterior_strides, INDEX)
        dy += tl.load(dinterior + at, mask=inside, other=0.0).to(tl.float32)

    group_mean, group_rstd = group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS)
    channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
    channel_bias = coefficients(bias, n, c, bias_strides, in_channels, 0.0)
    center, scale, shift = affine(group_mean, group_rstd, channel_weight, channel_bias)
    in_x = n * x_strides[0] + map_offsets(c, i, j, x_strides, PHASES, INDEX)
    value = tl.load(x + in_x, mask=inside, other=0.0).to(tl.float32)
    deviation = value - center[:, None, None]
    z = deviation * scale[:, None, None] + shift[:, None, None]
    dz = activation_gradient(dy, z, negative_slope, ACTIVATION)

    plane = n * channels + c
    planes = tl.cast(batch, tl.int64) * channels
    if PASS != "apply":
        sum_dz = tile_sum(dz)
        sum_product = tile_sum(tl.where(inside, dz * deviation, 0.0))
        if partials is not None:
            tiles = tl.cdiv(height, ROWS) * tl.cdiv(width, COLUMNS)
            tile = first_row // ROWS * tl.cdiv(width, COLUMNS) + first_column // COLUMNS
            tl.store(partials + plane * tiles + tile, sum_dz, mask=in_channels)
            tl.store(partials + (planes + plane) * tiles + tile, sum_product, mask=in_channels)
    if PASS == "whole":
        plane_dz = sum_dz.to(tl.float64)
        plane_product = product_about_mean(sum_product.to(tl.float64), plane_dz, group_mean, center)
        if dweight is not None:
            store_float64(dweight + plane, plane_product * group_rstd, in_channels)
        if dbias is not None:
            store_float64(dbias + plane, plane_dz, in_channels)
    if PASS == "apply":
        plane_dz = tl.load(sums + plane, mask=in_channels, other=0.0)
        plane_product = tl.load(sums + planes + plane, mask=in_channels, other=0.0)
    if PASS != "sums":
        if STATISTICS == "instance":
            gain, slope, constant = _line(
                plane_dz, plane_product, height * width, group_mean, center, group_rstd, channel_weight
            )
            gain, slope, constant = gain.to(tl.float32), slope.to(tl.float32), constant.to(tl.float32)
            dx_tile = gain[:, None, None] * dz + (slope[:, None, None] * deviation + constant[:, None, None])
        elif STATISTICS == "layer":
            sample_mean, sample_rstd = tl.load(mean + n), tl.load(rstd + n)
            slope, constant = _layer_line(
                sums, sums + planes, weight, n, channels, tl.cast(height, tl.int64) * width, sample_mean, sample_rstd,
                eps, weight_strides, 128,
            )  # fmt: skip
            gain = (sample_rstd * channel_weight).to(tl.float32)[:, None, None]
            dx_tile = gain * dz + (slope.to(tl.float32) * deviation + constant.to(tl.float32))
        else:
            dx_tile = scale[:, None, None] * dz
        tl.store(dx + in_x, dx_tile.to(dx.dtype.element_ty), mask=inside)
        if dresidual is not None:
            at = n * dresidual_strides[0] + offsets(c, i, j, dresidual_strides, INDEX)
            tl.store(dresidual + at, dy.to(dresidual.dtype.element_ty), mask=inside)


@triton.jit
def _combine_kernel(
    partials,
    sums,
    mean,
    rstd,
    dweight,
    dbias,
    batch,
    channels,
    tiles,
    STATISTICS: tl.constexpr,
    DWEIGHT_OF_SAMPLES: tl.constexpr,
    DBIAS_OF_SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILES: tl.constexpr,
):
    """One program adds up the partial sums of CHANNELS channels of all samples, and dweight and dbias from these.

    sums: of dz and of dz * (x - mean), (2, batch, channels) in float64; None where they are not needed.
    """
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    in_channels = c < channels
    planes = tl.cast(batch, tl.int64) * channels
    total_weight = tl.zeros([CHANNELS], tl.float64)
    total_bias = tl.zeros([CHANNELS], tl.float64)
    for n in range(0, batch):
        plane = tl.cast(n, tl.int64) * channels + c
        all_dz = tl.zeros([CHANNELS, TILES], tl.float64)
        all_product = tl.zeros([CHANNELS, TILES], tl.float64)
        for first in range(0, tiles, TILES):
            k = first + tl.arange(0, TILES)
            inside = in_channels[:, None] & (k < tiles)[None, :]
            at = partials + plane[:, None] * tiles + k[None, :]
            all_dz += tl.load(at, mask=inside, other=0.0)
            all_product += tl.load(at + planes * tiles, mask=inside, other=0.0)
        group_mean, group_rstd = group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS)
        sum_dz = tl.sum(all_dz, axis=1)
        center = group_mean.to(tl.float32)
        sum_product = product_about_mean(tl.sum(all_product, axis=1), sum_dz, group_mean, center)
        if sums is not None:
            tl.store(sums + plane, sum_dz, mask=in_channels)
            tl.store(sums + planes + plane, sum_product, mask=in_channels)
        total_weight += sum_product * group_rstd
        total_bias += sum_dz
        if DWEIGHT_OF_SAMPLES:
            store_float64(dweight + plane, sum_product * group_rstd, in_channels)
        if DBIAS_OF_SAMPLES:
            store_float64(dbias + plane, sum_dz, in_channels)
    if dweight is not None and not DWEIGHT_OF_SAMPLES:
        store_float64(dweight + c, total_weight, in_channels)
    if dbias is not None and not DBIAS_OF_SAMPLES:
        store_float64(dbias + c, total_bias, in_channels)


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
    *,
    statistics: str,
    activation: str,
    negative_slope: float,
    pad: int,
    pad_mode: str,
    eps: float,
    phases: bool,
) -> None:
    """Write the gradients of a dense x, of weight and bias where these are given, and of residual where it is wanted.

    mean and rstd are contiguous; dpadded and dinterior are read with whatever strides they have.
    """
    if x.numel() == 0:
        for empty_sum in (dweight, dbias):
            if empty_sum is not None:
                empty_sum.zero_()
        return
    shape = n, c, h, w = result_shape(x, phases)
    targets = _pad_targets(pad, pad_mode) if dpadded is not None else 1
    launch = backward_launch(
        shape, x.element_size(), is_channels_last(x), statistics, multiprocessors(x.device), targets
    )
    tile = launch.tile
    _, row_blocks, column_blocks = tile.blocks(c, h, w)
    tiles = row_blocks * column_blocks
    of_samples = [parameter is not None and (parameter.dim() == 2 or n == 1) for parameter in (weight, bias)]
    written = [given is None or own for given, own in zip((weight, bias), of_samples, strict=True)]
    combines = not launch.whole and (statistics != "none" or weight is not None or bias is not None)
    combines = combines or not all(written)
    partials = x.new_empty((2 * n * c * tiles,), dtype=torch.float32) if combines else None
    sums = x.new_empty((2 * n * c,), dtype=torch.float64) if statistics != "none" and not launch.whole else None

    def run(which: str) -> None:
        alone = which == "whole" and not combines
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
            partials,
            sums,
            dweight if alone else None,
            dbias if alone else None,
            negative_slope,
            eps,
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
            PASS=which,
            ACTIVATION=activation,
            TARGETS=targets,
            PAD=pad,
            PAD_MODE=pad_mode,
            PHASES=phases,
            INDEX=tl.int64 if needs_64_bit_offsets(x, dpadded, dinterior) else tl.int32,
            CHANNELS=tile.channels,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            num_warps=tile.warps,
        )

    first = "whole" if launch.whole else "none" if statistics == "none" else "sums"
    run(first)
    if combines:
        _combine_kernel[(ceil_div(c, 8),)](
            partials,
            sums,
            mean,
            rstd,
            dweight,
            dbias,
            n,
            c,
            tiles,
            STATISTICS=statistics,
            DWEIGHT_OF_SAMPLES=of_samples[0],
            DBIAS_OF_SAMPLES=of_samples[1],
            CHANNELS=8,
            TILES=min(64, power_of_two(tiles)),
            num_warps=4,
        )
    if first == "sums":
        run("apply")
