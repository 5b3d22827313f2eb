"""What the Triton kernels of fused_norm share: positions in maps, pads, the affine map of each plane, the activation.

Positions are vectors c of channels, i of rows and j of columns, counted in the map before the pad; values are tiles
(channels, rows, columns).
"""

import triton
import triton.language as tl


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
def phase_offsets(c, i, j, strides, INDEX: tl.constexpr):
    """The same for a map whose pixel (2 i + a, 2 j + b) of channel c is value (i, j) of channel 4 c + 2 a + b."""
    of_channels = c.to(INDEX) * 4 * strides[1]
    of_rows = (i % 2).to(INDEX) * 2 * strides[1] + (i // 2).to(INDEX) * strides[2]
    of_columns = (j % 2).to(INDEX) * strides[1] + (j // 2).to(INDEX) * strides[3]
    return of_channels[:, None, None] + of_rows[None, :, None] + of_columns[None, None, :]


@triton.jit
def map_offsets(c, i, j, strides, PHASES: tl.constexpr, INDEX: tl.constexpr):
    """`phase_offsets` where PHASES, else `offsets`."""
    if PHASES:
        at = phase_offsets(c, i, j, strides, INDEX)
    else:
        at = offsets(c, i, j, strides, INDEX)
    return at


@triton.jit
def all_inside(in_channels, in_rows, in_columns):
    """The mask of a tile from those of its sides."""
    return in_channels[:, None, None] & in_rows[None, :, None] & in_columns[None, None, :]


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
def pad_positions(size, PAD: tl.constexpr, LENGTH: tl.constexpr):
    """The 2 PAD rows (or columns) of a pad, and which of LENGTH, a power of two, they are."""
    k = tl.arange(0, LENGTH)
    return tl.where(k < PAD, k - PAD, k - PAD + size), k < 2 * PAD


@triton.jit
def load_float64(at, mask):
    """Values in float64, by way of float32 where they are narrower: 16-bit types convert to and from that alone."""
    value = tl.load(at, mask=mask, other=0.0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32).to(tl.float64)
    return value


@triton.jit
def store_float64(at, value, mask):
    """Store float64 values in the dtype of what `at` points to, by way of float32 where that is narrower."""
    if at.dtype.element_ty == tl.float64:
        tl.store(at, value, mask=mask)
    else:
        tl.store(at, value.to(tl.float32).to(at.dtype.element_ty), mask=mask)


@triton.jit
def coefficients(data, n, c, strides, in_channels, absent):
    """Weight or bias of channels in float64; `absent` where there is none."""
    if data is None:
        value = tl.full(c.shape, absent, tl.float64)
    else:
        at = data + n * strides[0] + c.to(tl.int64) * strides[1]
        value = load_float64(at, in_channels)
    return value


@triton.jit
def affine(mean, rstd, weight, bias):
    """Center, scale and shift of z = (x - center) * scale + shift in float32.

    The center is the rounded mean, near which the difference is exact; what rounding took is part of the shift, unless
    scale is infinite: then it would make NaN of a rounding of 0, or take infinities from each other.
    """
    center = mean.to(tl.float32)
    scale = rstd * weight
    rounded = scale.to(tl.float32)
    shift = tl.where(tl.abs(rounded) == float("inf"), bias, bias - (mean - center) * scale)
    return center, rounded, shift.to(tl.float32)


@triton.jit
def product_about_mean(product, sum_dz, mean, center):
    """The sum of dz * (x - mean) from that of dz * (x - center); infinite sums stay as they are."""
    return tl.where(tl.abs(sum_dz) == float("inf"), product, product - (mean - center) * sum_dz)


@triton.jit
def group_statistics(mean, rstd, n, c, channels, in_channels, STATISTICS: tl.constexpr):
    """Mean and rstd of channels in float64: stored per channel, per sample, or 0 and 1."""
    if STATISTICS == "instance":
        at = n * channels + c
        group_mean = tl.load(mean + at, mask=in_channels, other=0.0)
        group_rstd = tl.load(rstd + at, mask=in_channels, other=1.0)
    elif STATISTICS == "layer":
        group_mean = tl.zeros(c.shape, tl.float64) + tl.load(mean + n)
        group_rstd = tl.zeros(c.shape, tl.float64) + tl.load(rstd + n)
    else:
        group_mean = tl.zeros(c.shape, tl.float64)
        group_rstd = tl.full(c.shape, 1.0, tl.float64)
    return group_mean, group_rstd


@triton.jit
def activate(z, negative_slope, ACTIVATION: tl.constexpr):
    """The activation of z; NaN stays NaN."""
    if ACTIVATION == "relu":
        z = tl.where(z <= 0.0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        z = tl.where(z > 0.0, z, z * negative_slope)
    return z


@triton.jit
def activation_gradient(dy, z, negative_slope, ACTIVATION: tl.constexpr):
    """The gradient with respect to z; where z is NaN or 0, torch's convention."""
    if ACTIVATION == "relu":
        dy = tl.where(z <= 0.0, 0.0, dy)
    elif ACTIVATION == "leaky_relu":
        dy = tl.where(z > 0.0, dy, dy * negative_slope)
    return dy
