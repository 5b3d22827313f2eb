"""Triton kernels of `weighted_l1` and its backward: all pairs in one launch.

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
SEGMENT = 4096
_WARPS = 8


@triton.jit
def _sums_kernel(inputs, targets, signs, partials, counts, first_segments, PAIRS: tl.constexpr, SEGMENT: tl.constexpr):
    """Sum |input - target| over a segment per program, and store the signs unless `signs` is None for the pair."""
    program = tl.program_id(0)
    for k in tl.static_range(PAIRS):
        if (program >= first_segments[k]) & (program < first_segments[k + 1]):
            at, inside = segment_values(counts[k], tl.cast(program - first_segments[k], tl.int64), SEGMENT)
            input = tl.load(inputs[k] + at, mask=inside, other=0.0).to(tl.float32)
            target = tl.load(targets[k] + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(partials + program, tl.sum(tl.abs(input - target), axis=0))
            if signs[k] is not None:
                sign = (input > target).to(tl.int8) - (input < target).to(tl.int8)
                tl.store(signs[k] + at, sign, mask=inside)


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
            at, inside = segment_values(counts[k], tl.cast(program - first_segments[k], tl.int64), SEGMENT)
            slope = slope_of(dvalues, dtotal, k, weights[k], counts[k])
            gradient = tl.load(signs[k] + at, mask=inside, other=0).to(tl.float32) * slope
            if dinputs[k] is not None:
                tl.store(dinputs[k] + at, gradient.to(dinputs[k].dtype.element_ty), mask=inside)
            if dtargets[k] is not None:
                tl.store(dtargets[k] + at, (-gradient).to(dtargets[k].dtype.element_ty), mask=inside)


def weighted_l1(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float], keep_signs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, total and signs of pairs whose tensors are dense in the same order."""
    counts = tuple(input.numel() for input in inputs)
    firsts = first_segments_of(counts, SEGMENT)
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
    total_kernel[(1,)](
        partials, values, total, tuple(weights), counts, firsts, COUNT=len(counts), BLOCK=1024, num_warps=_WARPS
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
    firsts = first_segments_of(counts, SEGMENT)
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
