"""Functions shared by the Triton kernels of fused_norm: positions, padding, affine maps and activations.

Positions are vectors c of channels, i of rows and j of columns in the map before padding. Values are tiles (channels,
rows, columns). The mask None means that the whole tile is inside. Loads and stores then have no predicates, which
otherwise are a third of the instructions of a tile.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fastmunit.fused_norm_options import FusedNormOptions


class KernelActivation(NamedTuple):
    """The activation as an argument of a kernel: its name is a constant, its slope a number."""

    name: Any
    negative_slope: float


def kernel_activation(options: FusedNormOptions) -> KernelActivation:
    """Return the activation of the options as an argument of a kernel."""
    return KernelActivation(tl.constexpr(options.activation), options.negative_slope)


@triton.jit
def tile_positions(channels, height, width, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the sample n (64 bits) and the first channel, row and column of this program's tile."""
    program = tl.program_id(0)
    column_blocks = tl.cdiv(width, COLUMNS)
    row_blocks = tl.cdiv(height, ROWS)
    channel_blocks = tl.cdiv(channels, CHANNELS)
    first_column = program % column_blocks * COLUMNS
    program = program // column_blocks
    first_row = program % row_blocks * ROWS
    program = program // row_blocks
    first_channel = program % channel_blocks * CHANNELS
    return (program // channel_blocks).to(tl.int64), first_channel, first_row, first_column


@triton.jit
def offsets(c, i, j, strides, INDEX: tl.constexpr):
    """Return offsets in a sample of a map with `strides` of sample, channel, row and column."""
    channel_offsets = c.to(INDEX) * strides[1]
    row_offsets = i.to(INDEX) * strides[2]
    column_offsets = j.to(INDEX) * strides[3]
    return channel_offsets[:, None, None] + row_offsets[None, :, None] + column_offsets[None, None, :]


@triton.jit
def pixel_shuffled_offsets(c, i, j, strides, INDEX: tl.constexpr):
    """Return offsets in a pixel-unshuffled map: pixel (2 i + a, 2 j + b) of channel c is (i, j) of 4 c + 2 a + b."""
    channel_offsets = c.to(INDEX) * 4 * strides[1]
    row_offsets = (i % 2).to(INDEX) * 2 * strides[1] + (i // 2).to(INDEX) * strides[2]
    column_offsets = (j % 2).to(INDEX) * strides[1] + (j // 2).to(INDEX) * strides[3]
    return channel_offsets[:, None, None] + row_offsets[None, :, None] + column_offsets[None, None, :]


@triton.jit
def map_offsets(c, i, j, strides, PIXEL_SHUFFLE: tl.constexpr, INDEX: tl.constexpr):
    """Return `pixel_shuffled_offsets` if PIXEL_SHUFFLE, or else `offsets`."""
    if PIXEL_SHUFFLE:
        at = pixel_shuffled_offsets(c, i, j, strides, INDEX)
    else:
        at = offsets(c, i, j, strides, INDEX)
    return at


@triton.jit
def all_inside(in_channels, in_rows, in_columns):
    """Return the mask of a tile from the masks of its three dimensions. None means that all elements are inside."""
    inside = None
    if in_channels is not None:
        inside = in_channels[:, None, None]
    if in_rows is not None:
        if inside is None:
            inside = in_rows[None, :, None]
        else:
            inside = inside & in_rows[None, :, None]
    if in_columns is not None:
        if inside is None:
            inside = in_columns[None, None, :]
        else:
            inside = inside & in_columns[None, None, :]
    return inside


@triton.jit
def load_values(at, inside):
    """Load values in float32, 0 outside of the mask."""
    if inside is None:
        value = tl.load(at)
    else:
        value = tl.load(at, mask=inside, other=0.0)
    return value.to(tl.float32)


@triton.jit
def pad_source(i, size, PAD_MODE: tl.constexpr):
    """Return the source row (or column) in a map of `size` rows of row i of a reflect or replicate pad."""
    if PAD_MODE == "reflect":
        i = tl.where(i < 0, -i, i)
        i = tl.where(i < size, i, 2 * (size - 1) - i)
    else:
        i = tl.minimum(tl.maximum(i, 0), size - 1)
    return i


@triton.jit
def pad_target(i, k: tl.constexpr, size, PAD: tl.constexpr, PAD_MODE: tl.constexpr):
    """Return the k-th row (or column) of the pad that can have the source row i, and a mask of the rows i that it has.

    k counts from 1 to 2 in reflect mode, and from 1 to 2 PAD in replicate mode.
    """
    if PAD_MODE == "reflect":
        if k == 1:
            target, is_target = -i, (i >= 1) & (i <= PAD)
        else:
            target, is_target = 2 * (size - 1) - i, (i <= size - 2) & (i >= size - 1 - PAD)
    elif k <= PAD:
        target, is_target = i - k, i == 0
    else:
        target, is_target = i + (k - PAD), i == size - 1
    return target, is_target


@triton.jit
def pad_position(k, size, PAD: tl.constexpr):
    """Return the position of row (or column) k of the 2 PAD rows of a pad."""
    return tl.where(k < PAD, k - PAD, k - PAD + size)


@triton.jit
def is_pad_source(i, size, PAD: tl.constexpr, PAD_MODE: tl.constexpr):
    """Return a mask of the rows (or columns) i that are sources of the pad."""
    if PAD_MODE == "reflect":
        is_source = ((i >= 1) & (i <= PAD)) | ((i >= size - 1 - PAD) & (i <= size - 2))
    else:
        is_source = (i == 0) | (i == size - 1)
    return is_source


@triton.jit
def pad_source_position(k, size, PAD: tl.constexpr, PAD_MODE: tl.constexpr):
    """Return the k-th source row (or column) of the pad, and a mask of the k that have one. No row is repeated.

    There are at most 2 PAD in reflect mode, and at most 2 in replicate mode.
    """
    if PAD_MODE == "reflect":
        i = tl.where(k < PAD, k + 1, size - 1 - 2 * PAD + k)
        inside = (k < PAD) | ((k < 2 * PAD) & ((i > PAD) | (i < 1)))
    else:
        i = tl.where(k == 0, 0, size - 1)
        inside = (k == 0) | ((k == 1) & (size > 1))
    return i, inside


@triton.jit
def store_converted(at, value, mask):
    """Store values in the dtype of `at`, via float32, the only dtype from which Triton converts to 16-bit types."""
    if at.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    tl.store(at, value.to(at.dtype.element_ty), mask=mask)


@triton.jit
def coefficients(data, n, c, strides, in_channels, absent):
    """Return the weight or bias of channels in float32, or `absent` if there is none."""
    if data is None:
        value = tl.full(c.shape, absent, tl.float32)
    else:
        at = data + n * strides[0] + c.to(tl.int64) * strides[1]
        value = load_values(at, in_channels)
    return value


@triton.jit
def affine(mean, rstd, weight, bias):
    """Return center, its rounding error, scale and shift of z = (x - center) * scale + shift in float32.

    The center is the float64 mean, rounded, near which the difference is exact. The rounding error is part of the
    shift, unless scale is infinite: 0 times infinity is NaN, and so is a difference of infinities.
    """
    center = mean.to(tl.float32)
    rounding = (mean - center).to(tl.float32)
    scale = rstd.to(tl.float32) * weight
    shift = tl.where(tl.abs(scale) == float("inf"), bias, bias - rounding * scale)
    return center, rounding, scale, shift


@triton.jit
def product_about_mean(product, sum_dz, rounding):
    """Return the sum of dz * (x - mean) from the sum of dz * (x - center). Infinite sums are not changed."""
    return tl.where(tl.abs(sum_dz) == float("inf"), product, product - rounding * sum_dz)


@triton.jit
def group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS: tl.constexpr):
    """Load mean and rstd of channels in float64, which are stored per channel or per sample."""
    if STATISTICS == "instance":
        at = n * channels + c
        if in_channels is None:
            group_mean, group_rstd = tl.load(mean + at), tl.load(rstd + at)
        else:
            group_mean = tl.load(mean + at, mask=in_channels, other=0.0)
            group_rstd = tl.load(rstd + at, mask=in_channels, other=1.0)
    else:
        group_mean = tl.zeros(c.shape, tl.float64) + tl.load(mean + n)
        group_rstd = tl.zeros(c.shape, tl.float64) + tl.load(rstd + n)
    return group_mean, group_rstd


@triton.jit
def plane_affine(
    mean, rstd, weight, bias, n, c, channels, weight_strides, bias_strides, in_channels, STATISTICS: tl.constexpr
):
    """Return center, its rounding error, scale and shift of channels, from statistics, weight and bias."""
    channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
    channel_bias = coefficients(bias, n, c, bias_strides, in_channels, 0.0)
    if STATISTICS == "none":
        zero = tl.zeros(c.shape, tl.float32)
        center, rounding, scale, shift = zero, zero, channel_weight, channel_bias
    else:
        group_mean, group_rstd = group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS)
        center, rounding, scale, shift = affine(group_mean, group_rstd, channel_weight, channel_bias)
    return center, rounding, scale, shift


@triton.jit
def table_row(table, kind: tl.constexpr, plane, planes, in_channels):
    """Load the float32 values of one kind from a table (kinds, planes)."""
    return load_values(table + kind * planes + plane, in_channels)


@triton.jit
def activate(z, activation):
    """Return the activation of z. NaN stays NaN."""
    if activation.name == "relu":
        z = tl.where(z <= 0.0, 0.0, z)
    elif activation.name == "leaky_relu":
        z = tl.where(z > 0.0, z, z * activation.negative_slope)
    return z


@triton.jit
def activation_gradient(dy, z, activation):
    """Return the gradient with respect to z. It follows torch if z is NaN or 0."""
    if activation.name == "relu":
        dy = tl.where(z <= 0.0, 0.0, dy)
    elif activation.name == "leaky_relu":
        dy = tl.where(z > 0.0, dy, dy * activation.negative_slope)
    return dy
