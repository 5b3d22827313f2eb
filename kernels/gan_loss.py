"""Triton kernels of `gan_loss` and its backward: all maps in one launch.

kernels/segments.py says how the sums are taken.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.kernels.segments import first_segments as first_segments_of
from fastmunit.kernels.segments import segment_values, slope_of, total_kernel

# Number of values of a segment, a power of two. Their sum is taken in float32.
SEGMENT = 1024
_WARPS = 4


@triton.jit
def _loss(x, real, LINEAR: tl.constexpr, GAN_TYPE: tl.constexpr):
    """Return the loss of each output; csrc/gan_loss/element.h has the same formulas. `real` is a mask."""
    z = tl.where(real, -x, x)
    if GAN_TYPE == "lsgan":
        difference = tl.where(real, x - 1.0, x)
        loss = difference * difference
    elif GAN_TYPE == "nsgan":
        e = tl.exp(-tl.abs(x))
        u = 1.0 + e
        # log(1 + e) with the digits that u has lost; Kahan.
        log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
        loss = tl.where(z > 0.0, z, 0.0) + log1p
        # torch multiplies x by 0 here: an infinite output gives NaN, except if it is +inf and the target fake.
        loss = tl.where(real | (x < 0.0), loss + 0.0 * x, loss)
    elif LINEAR:
        loss = z
    else:
        margin = 1.0 + z
        loss = tl.where(margin <= 0.0, 0.0, margin)
    return loss


@triton.jit
def _gradient(x, real, slope, LINEAR: tl.constexpr, GAN_TYPE: tl.constexpr):
    """Return slope times the derivative of each loss."""
    z = tl.where(real, -x, x)
    signed_slope = tl.where(real, -slope, slope)
    if GAN_TYPE == "lsgan":
        gradient = slope * (2.0 * tl.where(real, x - 1.0, x))
    elif GAN_TYPE == "nsgan":
        e = tl.exp(-tl.abs(x))
        gradient = signed_slope * (tl.where(z < 0.0, e, 1.0) / (1.0 + e))
    elif LINEAR:
        gradient = signed_slope
    else:
        gradient = tl.where(1.0 + z <= 0.0, 0.0, signed_slope)
    return gradient


@triton.jit
def _gan_sums_kernel(
    outputs,
    partials,
    counts,
    first_reals,
    first_segments,
    LINEAR: tl.constexpr,
    MAPS: tl.constexpr,
    SEGMENT: tl.constexpr,
    GAN_TYPE: tl.constexpr,
):
    """Sum the losses of a segment per program."""
    program = tl.program_id(0)
    for k in tl.static_range(MAPS):
        if (program >= first_segments[k]) & (program < first_segments[k + 1]):
            at, inside = segment_values(counts[k], tl.cast(program - first_segments[k], tl.int64), SEGMENT)
            x = tl.load(outputs[k] + at, mask=inside, other=0.0).to(tl.float32)
            loss = _loss(x, at >= first_reals[k], LINEAR[k], GAN_TYPE)
            tl.store(partials + program, tl.sum(tl.where(inside, loss, 0.0), axis=0))


@triton.jit
def _gan_backward_kernel(
    dvalues,
    dtotal,
    outputs,
    gradients,
    weights,
    averaged,
    counts,
    first_reals,
    first_segments,
    LINEAR: tl.constexpr,
    MAPS: tl.constexpr,
    SEGMENT: tl.constexpr,
    GAN_TYPE: tl.constexpr,
):
    """Write a segment of the gradient of a map per program."""
    program = tl.program_id(0)
    for k in tl.static_range(MAPS):
        if (program >= first_segments[k]) & (program < first_segments[k + 1]):
            at, inside = segment_values(counts[k], tl.cast(program - first_segments[k], tl.int64), SEGMENT)
            slope = slope_of(dvalues, dtotal, k, weights[k], averaged[k])
            x = tl.load(outputs[k] + at, mask=inside, other=0.0).to(tl.float32)
            gradient = _gradient(x, at >= first_reals[k], slope, LINEAR[k], GAN_TYPE)
            tl.store(gradients[k] + at, gradient.to(gradients[k].dtype.element_ty), mask=inside)


def _split(outputs: Sequence[Tensor], targets: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the number of values of each map, that of its first value with the target real, and that of a mean."""
    counts = tuple(output.numel() for output in outputs)
    parts = {"fake": 1, "fake_real": 2}
    firsts = tuple(
        count // parts[target] if target in parts else 0 for count, target in zip(counts, targets, strict=True)
    )
    averaged = (count // 2 if target == "fake_real" else count for count, target in zip(counts, targets, strict=True))
    return [counts, firsts, tuple(averaged)]


def gan_loss(
    outputs: Sequence[Tensor], targets: Sequence[str], weights: Sequence[float], gan_type: str
) -> tuple[Tensor, Tensor]:
    """Return values and total of dense maps."""
    counts, first_reals, averaged = _split(outputs, targets)
    firsts = first_segments_of(counts, SEGMENT)
    values = outputs[0].new_empty((len(counts),), dtype=torch.float32)
    total = outputs[0].new_empty((), dtype=torch.float32)
    partials = outputs[0].new_empty((firsts[-1],), dtype=torch.float32)
    if firsts[-1] > 0:
        _gan_sums_kernel[(firsts[-1],)](
            tuple(outputs),
            partials,
            counts,
            first_reals,
            firsts,
            LINEAR=tuple(target == "generator" for target in targets),
            MAPS=len(counts),
            SEGMENT=SEGMENT,
            GAN_TYPE=gan_type,
            num_warps=_WARPS,
        )
    total_kernel[(1,)](
        partials, values, total, tuple(weights), averaged, firsts, COUNT=len(counts), BLOCK=128, num_warps=_WARPS
    )
    return values, total


def gan_loss_backward(
    dvalues: Tensor,
    dtotal: Tensor,
    outputs: Sequence[Tensor],
    targets: Sequence[str],
    weights: Sequence[float],
    gan_type: str,
    gradients: Sequence[Tensor],
) -> None:
    """Write the gradients of dense maps into `gradients`, dense in the same order."""
    counts, first_reals, averaged = _split(outputs, targets)
    firsts = first_segments_of(counts, SEGMENT)
    if firsts[-1] > 0:
        _gan_backward_kernel[(firsts[-1],)](
            dvalues,
            dtotal,
            tuple(outputs),
            tuple(gradients),
            tuple(weights),
            averaged,
            counts,
            first_reals,
            firsts,
            LINEAR=tuple(target == "generator" for target in targets),
            MAPS=len(counts),
            SEGMENT=SEGMENT,
            GAN_TYPE=gan_type,
            num_warps=_WARPS,
        )
