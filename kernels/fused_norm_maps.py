"""What the Triton kernels of fused_norm share: positions in maps, pads, the affine map of each plane, the activation.

Positions are vectors c of channels, i of rows and j of columns, counted in the map before the pad; values are tiles
(channels, rows, columns). A mask that is None means that all of a tile is inside: loads and stores are then free of
predicates, which are a third of the instructions of a tile that has them.
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
    """The sample n (64 bits) and the first channel, row and column of this program's tile; columns run fastest."""
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
    """Offsets in a sample of a map with `strides` of sample, channel, row and column."""
    of_channels = c.to(INDEX) * strides[1]
    of_rows = i.to(INDEX) * strides[2]
    of_columns = j.to(INDEX) * strides[3]
    return of_channels[:, None, None] + of_rows[None, :, None] + of_columns[None, None, :]


@triton.jit
def pixel_shuffled_offsets(c, i, j, strides, INDEX: tl.constexpr):
    """The same for a map whose pixel (2 i + a, 2 j + b) of channel c is value (i, j) of channel 4 c + 2 a + b."""
    of_channels = c.to(INDEX) * 4 * strides[1]
    of_rows = (i % 2).to(INDEX) * 2 * strides[1] + (i // 2).to(INDEX) * strides[2]
    of_columns = (j % 2).to(INDEX) * strides[1] + (j // 2).to(INDEX) * strides[3]
    return of_channels[:, None, None] + of_rows[None, :, None] + of_columns[None, None, :]


@triton.jit
def map_offsets(c, i, j, strides, PIXEL_SHUFFLE: tl.constexpr, INDEX: tl.constexpr):
    """`pixel_shuffled_offsets` where PIXEL_SHUFFLE, else `offsets`."""
    if PIXEL_SHUFFLE:
        at = pixel_shuffled_offsets(c, i, j, strides, INDEX)
    else:
        at = offsets(c, i, j, strides, INDEX)
    return at


@triton.jit
def all_inside(in_channels, in_rows, in_columns):
    """The mask of a tile from those of its sides, each of which may be None; None where all are."""
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
    """Values in float32, 0 where they are not inside."""
    if inside is None:
        value = tl.load(at)
    else:
        value = tl.load(at, mask=inside, other=0.0)
    return value.to(tl.float32)


@triton.jit
def pad_source(i, size, PAD_MODE: tl.constexpr):
    """The row (or column) among `size` ones that row i of a reflect or replicate pad shows."""
    if PAD_MODE == "reflect":
        i = tl.where(i < 0, -i, i)
        i = tl.where(i < size, i, 2 * (size - 1) - i)
    else:
        i = tl.minimum(tl.maximum(i, 0), size - 1)
    return i


@triton.jit
def pad_target(i, k: tl.constexpr, size, PAD: tl.constexpr, PAD_MODE: tl.constexpr):
    """The k-th row (or column) of the pad that may show row i, and whether it does.

    k counts from 1 to 2 in reflect mode, to 2 PAD in replicate mode.
    """
    if PAD_MODE == "reflect":
        if k == 1:
            target, is_shown = -i, (i >= 1) & (i <= PAD)
        else:
            target, is_shown = 2 * (size - 1) - i, (i <= size - 2) & (i >= size - 1 - PAD)
    elif k <= PAD:
        target, is_shown = i - k, i == 0
    else:
        target, is_shown = i + (k - PAD), i == size - 1
    return target, is_shown


@triton.jit
def pad_position(k, size, PAD: tl.constexpr):
    """Row (or column) k of the 2 PAD ones of a pad."""
    return tl.where(k < PAD, k - PAD, k - PAD + size)


@triton.jit
def is_shown_by_pad(i, size, PAD: tl.constexpr, PAD_MODE: tl.constexpr):
    """Whether a pad shows rows (or columns) i."""
    if PAD_MODE == "reflect":
        shown = ((i >= 1) & (i <= PAD)) | ((i >= size - 1 - PAD) & (i <= size - 2))
    else:
        shown = (i == 0) | (i == size - 1)
    return shown


@triton.jit
def shown_position(k, size, PAD: tl.constexpr, PAD_MODE: tl.constexpr):
    """Row (or column) k of those that a pad shows, and whether there is one; each is there once.

    There are 2 PAD at most in reflect mode, 2 in replicate mode.
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
    """Store values in the dtype of what `at` points to, by way of float32: 16-bit types convert from that alone."""
    if at.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    tl.store(at, value.to(at.dtype.element_ty), mask=mask)


@triton.jit
def coefficients(data, n, c, strides, in_channels, absent):
    """Weight or bias of channels in float32; `absent` where there is none."""
    if data is None:
        value = tl.full(c.shape, absent, tl.float32)
    else:
        at = data + n * strides[0] + c.to(tl.int64) * strides[1]
        value = load_values(at, in_channels)
    return value


@triton.jit
def affine(mean, rstd, weight, bias):
    """Center, what it lost, scale and shift of z = (x - center) * scale + shift in float32; mean is in float64.

    The center is the rounded mean, near which the difference is exact; what rounding took is part of the shift, unless
    scale is infinite: then it would make NaN of a rounding of 0, or take infinities from each other.
    """
    center = mean.to(tl.float32)
    lost = (mean - center).to(tl.float32)
    scale = rstd.to(tl.float32) * weight
    shift = tl.where(tl.abs(scale) == float("inf"), bias, bias - lost * scale)
    return center, lost, scale, shift


@triton.jit
def product_about_mean(product, sum_dz, lost):
    """The sum of dz * (x - mean) from that of dz * (x - center); infinite sums stay as they are."""
    return tl.where(tl.abs(sum_dz) == float("inf"), product, product - lost * sum_dz)


@triton.jit
def group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS: tl.constexpr):
    """Mean and rstd of channels in float64: stored per channel, or per sample."""
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
    """Center, what it lost, scale and shift of channels, from the statistics and the coefficients."""
    channel_weight = coefficients(weight, n, c, weight_strides, in_channels, 1.0)
    channel_bias = coefficients(bias, n, c, bias_strides, in_channels, 0.0)
    if STATISTICS == "none":
        zero = tl.zeros(c.shape, tl.float32)
        center, lost, scale, shift = zero, zero, channel_weight, channel_bias
    else:
        group_mean, group_rstd = group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS)
        center, lost, scale, shift = affine(group_mean, group_rstd, channel_weight, channel_bias)
    return center, lost, scale, shift


@triton.jit
def table_row(table, kind: tl.constexpr, plane, planes, in_channels):
    """Float32 values of a kind for planes from a table (kinds, planes) of them."""
    return load_values(table + kind * planes + plane, in_channels)


@triton.jit
def activate(z, activation):
    """The activation of z; NaN stays NaN."""
    if activation.name == "relu":
        z = tl.where(z <= 0.0, 0.0, z)
    elif activation.name == "leaky_relu":
        z = tl.where(z > 0.0, z, z * activation.negative_slope)
    return z


@triton.jit
def activation_gradient(dy, z, activation):
    """The gradient with respect to z; where z is NaN or 0, torch's convention."""
    if activation.name == "relu":
        dy = tl.where(z <= 0.0, 0.0, dy)
    elif activation.name == "leaky_relu":
        dy = tl.where(z > 0.0, dy, dy * activation.negative_slope)
    return dy
