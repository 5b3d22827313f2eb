"""Triton kernels of `weighted_l1` and its backward: all pairs in one launch.

Pairs are cut into segments. A program finds its segment from the number of the first segment of each pair. The sums of
segments are written separately, and a second launch adds them up in order, in float64.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmunit.kernels.launch import ceil_div

# Number of values of a segment, a power of two. Their sum is taken in float32.
SEGMENT = 4096
_WARPS = 8


@triton.jit
def _segment_values(count, segment, SEGMENT: tl.constexpr):
    """Return the positions of the values of a segment, and the mask of those that exist."""
    local = tl.arange(0, SEGMENT)
    first = segment * SEGMENT
    return first + local, local < tl.minimum(count - first, SEGMENT).to(tl.int32)


@triton.jit
def _sums_kernel(inputs, targets, signs, partials, counts, first_segments, PAIRS: tl.constexpr, SEGMENT: tl.constexpr):
    """Sum |input - target| over a segment per program, and store the signs unless `signs` is None for the pair."""
    program = tl.program_id(0)
    for k in tl.static_range(PAIRS):
        if (program >= first_segments[k]) & (program < first_segments[k + 1]):
            at, inside = _segment_values(counts[k], tl.cast(program - first_segments[k], tl.int64), SEGMENT)
            input = tl.load(inputs[k] + at, mask=inside, other=0.0).to(tl.float32)
            target = tl.load(targets[k] + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(partials + program, tl.sum(tl.abs(input - target), axis=0))
            if signs[k] is not None:
                sign = (input > target).to(tl.int8) - (input < target).to(tl.int8)
                tl.store(signs[k] + at, sign, mask=inside)


@triton.jit
def _total_kernel(partials, values, total, weights, counts, first_segments, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    """Add up the segments of each pair, and the weighted values, in one program."""
    weighted = tl.zeros([], tl.float64)
    for k in tl.static_range(PAIRS):
        sums = tl.zeros([BLOCK], tl.float64)
        for first in range(first_segments[k], first_segments[k + 1], BLOCK):
            at = first + tl.arange(0, BLOCK)
            sums += tl.load(partials + at, mask=at < first_segments[k + 1], other=0.0)
        count = tl.cast(counts[k], tl.float64)
        value = tl.where(count > 0.0, tl.sum(sums, axis=0) / tl.where(count > 0.0, count, 1.0), float("nan"))
        weighted += value * weights[k]
        tl.store(values + k, value.to(tl.float32))
    tl.store(total, weighted.to(tl.float32))


@triton.jit
def _backward_kernel(
    dvalues,
    dtotal,
    signs,
    dinputs,
    dtargets,
    weights,
    counts,
    first_segments,
    PAIRS: tl.constexpr,
    SEGMENT: tl.constexpr,
):
    """Write a segment of the gradients of a pair per program. Gradients that are not needed are None."""
    program = tl.program_id(0)
    for k in tl.static_range(PAIRS):
        if (program >= first_segments[k]) & (program < first_segments[k + 1]):
            at, inside = _segment_values(counts[k], tl.cast(program - first_segments[k], tl.int64), SEGMENT)
            slope = tl.load(dtotal).to(tl.float64) * weights[k] + tl.load(dvalues + k)
            slope = (slope / tl.cast(counts[k], tl.float64)).to(tl.float32)
            gradient = tl.load(signs[k] + at, mask=inside, other=0).to(tl.float32) * slope
            if dinputs[k] is not None:
                tl.store(dinputs[k] + at, gradient.to(dinputs[k].dtype.element_ty), mask=inside)
            if dtargets[k] is not None:
                tl.store(dtargets[k] + at, (-gradient).to(dtargets[k].dtype.element_ty), mask=inside)


def _first_segments(counts: Sequence[int]) -> tuple[int, ...]:
    """Return the number of the first segment of each pair, and the number of all segments."""
    firsts = [0]
    for count in counts:
        firsts.append(firsts[-1] + ceil_div(count, SEGMENT))
    return tuple(firsts)


def weighted_l1(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float], keep_signs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, total and signs of pairs whose tensors are dense in the same order."""
    counts = tuple(input.numel() for input in inputs)
    firsts = _first_segments(counts)
    values = inputs[0].new_empty((len(counts),), dtype=torch.float32)
    total = inputs[0].new_empty((), dtype=torch.float32)
    signs = inputs[0].new_empty((sum(counts) if keep_signs else 0,), dtype=torch.int8)
    partials = inputs[0].new_empty((firsts[-1],), dtype=torch.float32)
    if firsts[-1] > 0:
        _sums_kernel[(firsts[-1],)](
            tuple(inputs),
            tuple(targets),
            tuple(signs.split(counts)) if keep_signs else (None,) * len(counts),
            partials,
            counts,
            firsts,
            PAIRS=len(counts),
            SEGMENT=SEGMENT,
            num_warps=_WARPS,
        )
    _total_kernel[(1,)](
        partials, values, total, tuple(weights), counts, firsts, PAIRS=len(counts), BLOCK=1024, num_warps=_WARPS
    )
    return values, total, signs


def weighted_l1_backward(
    dvalues: Tensor,
    dtotal: Tensor,
    signs: Tensor,
    counts: Sequence[int],
    weights: Sequence[float],
    dinputs: Sequence[Tensor | None],
    dtargets: Sequence[Tensor | None],
) -> None:
    """Write the gradients of pairs of `counts` values, dense in the order of their signs, except None."""
    firsts = _first_segments(counts)
    if firsts[-1] > 0:
        _backward_kernel[(firsts[-1],)](
            dvalues,
            dtotal,
            tuple(signs.split(tuple(counts))),
            tuple(dinputs),
            tuple(dtargets),
            tuple(weights),
            tuple(counts),
            firsts,
            PAIRS=len(counts),
            SEGMENT=SEGMENT,
            num_warps=_WARPS,
        )
