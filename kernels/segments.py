"""Sums over the segments of a list of tensors: all tensors in one launch.

Tensors are cut into segments. A program finds its segment from the number of the first segment of each tensor. The sums
of segments are written separately, and a second launch adds them up in order, in float64.
"""

from collections.abc import Sequence

import triton
import triton.language as tl

from fastmunit.kernels.launch import ceil_div


@triton.jit
def segment_values(count, segment, SEGMENT: tl.constexpr):
    """Return the positions of the values of a segment, and the mask of those that exist."""
    local = tl.arange(0, SEGMENT)
    first = segment * SEGMENT
    return first + local, local < tl.minimum(count - first, SEGMENT).to(tl.int32)


@triton.jit
def sum_of_segments(partials, first_segment, end_segment, averaged, BLOCK: tl.constexpr):
    """Return the sum of partial sums divided by `averaged`, in float64; NaN if that is 0."""
    sums = tl.zeros([BLOCK], tl.float64)
    for first in range(first_segment, end_segment, BLOCK):
        at = first + tl.arange(0, BLOCK)
        sums += tl.load(partials + at, mask=at < end_segment, other=0.0)
    count = tl.cast(averaged, tl.float64)
    return tl.where(count > 0.0, tl.sum(sums, axis=0) / tl.where(count > 0.0, count, 1.0), float("nan"))


@triton.jit
def total_kernel(partials, values, total, weights, averaged, first_segments, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Add up the segments of each tensor, and the weighted values, in one program."""
    weighted = tl.zeros([], tl.float64)
    for k in tl.static_range(COUNT):
        value = sum_of_segments(partials, first_segments[k], first_segments[k + 1], averaged[k], BLOCK)
        weighted += value * weights[k]
        tl.store(values + k, value.to(tl.float32))
    tl.store(total, weighted.to(tl.float32))


@triton.jit
def slope_of(dvalues, dtotal, k, weight, averaged):
    """Return the gradient of the sum over tensor k."""
    slope = tl.load(dtotal).to(tl.float64) * weight + tl.load(dvalues + k)
    return (slope / tl.cast(averaged, tl.float64)).to(tl.float32)


def first_segments(counts: Sequence[int], segment: int) -> tuple[int, ...]:
    """Return the number of the first segment of each tensor, and the number of all segments."""
    firsts = [0]
    for count in counts:
        firsts.append(firsts[-1] + ceil_div(count, segment))
    return tuple(firsts)
