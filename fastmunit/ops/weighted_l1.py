"""Contract of `weighted_l1` and of its backward."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastmunit.ops import library
from fastmunit.ops.layout import dense_format

MAX_PAIRS = 16

# signs: those of all differences, pair after pair, each in the memory order of its input; empty without keep_signs.
# Backward needs them.
_SCHEMA = (
    "(Tensor[] inputs, Tensor[] targets, float[] weights, bool keep_signs) "
    "-> (Tensor values, Tensor total, Tensor signs)"
)
# The gradients of those inputs, then of those targets, that `wanted` has true for. Of inputs and targets it takes
# shapes, dtypes and layouts; it reads none of their data.
_BACKWARD_SCHEMA = (
    "(Tensor dvalues, Tensor dtotal, Tensor signs, Tensor[] inputs, Tensor[] targets, float[] weights, bool[] wanted) "
    "-> Tensor[]"
)


def _fake(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float], keep_signs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    double = any(x.dtype == torch.float64 for x in (*inputs, *targets))
    dtype = torch.float64 if double else torch.float32
    count = sum(input.numel() for input in inputs) if keep_signs else 0
    return (
        inputs[0].new_empty((len(inputs),), dtype=dtype),
        inputs[0].new_empty((), dtype=dtype),
        inputs[0].new_empty((count,), dtype=torch.int8),
    )


def _backward_fake(
    dvalues: Tensor,
    dtotal: Tensor,
    signs: Tensor,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    wanted: Sequence[bool],
) -> list[Tensor]:
    formats = [dense_format(input) for input in inputs]
    return [
        torch.empty_like(x, memory_format=memory_format)
        for x, memory_format, want in zip((*inputs, *targets), formats * 2, wanted, strict=True)
        if want
    ]


def _triton(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float], keep_signs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from fastmunit.kernels.weighted_l1 import weighted_l1

    formats = [dense_format(input) for input in inputs]
    inputs, targets = (
        [x.contiguous(memory_format=memory_format) for x, memory_format in zip(side, formats, strict=True)]
        for side in (inputs, targets)
    )
    return weighted_l1(inputs, targets, weights, keep_signs)


def _triton_backward(
    dvalues: Tensor,
    dtotal: Tensor,
    signs: Tensor,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    wanted: Sequence[bool],
) -> list[Tensor]:
    from fastmunit.kernels.weighted_l1 import weighted_l1_backward

    gradients = _backward_fake(dvalues, dtotal, signs, inputs, targets, weights, wanted)
    given = iter(gradients)
    dinputs, dtargets = (
        [next(given) if want else None for want in side] for side in (wanted[: len(inputs)], wanted[len(inputs) :])
    )
    counts = [input.numel() for input in inputs]
    weighted_l1_backward(dvalues.contiguous(), dtotal, signs, counts, weights, dinputs, dtargets)
    return gradients


_OPS = {
    implementation: library.define_with_backward(
        "weighted_l1", implementation, _SCHEMA, _fake, _BACKWARD_SCHEMA, _backward_fake
    )
    for implementation in ("native", "triton")
}
for _device_type in ("cpu", "cuda"):
    library.kernel("weighted_l1_triton", _device_type, _triton)
    library.kernel("weighted_l1_backward_triton", _device_type, _triton_backward)


class _WeightedL1(torch.autograd.Function):
    """The op on its tensors one by one: autograd does not look into lists."""

    @staticmethod
    def forward(
        ctx: Any, implementation: str, weights: Sequence[float], keep_signs: bool, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        pairs = len(weights)
        with library.below_autograd():
            values, total, signs = _OPS[implementation][0](tensors[:pairs], tensors[pairs:], weights, keep_signs)
        ctx.implementation = implementation
        ctx.weights = weights
        ctx.keep_signs = keep_signs
        ctx.mark_non_differentiable(signs)
        ctx.save_for_backward(signs, *tensors)
        return values, total, signs

    @staticmethod
    def backward(ctx: Any, dvalues: Tensor, dtotal: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.keep_signs:
            raise RuntimeError("fastmunit.weighted_l1 was called with keep_signs=False, which leaves out its gradient")
        signs, *tensors = ctx.saved_tensors
        pairs = len(ctx.weights)
        wanted = ctx.needs_input_grad[3:]
        op = _OPS[ctx.implementation][1]
        gradients = iter(op(dvalues, dtotal, signs, tensors[:pairs], tensors[pairs:], ctx.weights, wanted))
        return None, None, None, *(next(gradients) if want else None for want in wanted)


def _differentiable(
    implementation: str,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    keep_signs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    values, total, signs = _WeightedL1.apply(implementation, weights, keep_signs, *inputs, *targets)
    return values, total, signs


for _implementation in _OPS:
    library.autograd(library.op_name("weighted_l1", _implementation), partial(_differentiable, _implementation))


def weighted_l1(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float], implementation: str
) -> tuple[Tensor, Tensor]:
    """Mean absolute difference of each pair, and their weighted sum; see `fastmunit.functional.weighted_l1`.

    Args:
        inputs: 1 to `MAX_PAIRS` tensors of any shapes and strides, in float16, bfloat16, float32 or float64.
        targets: As many tensors, each of the shape of its input.
        weights: As many numbers.
        implementation: "native" or "triton".

    Returns:
        values (K,) and total (), in float32; in float64 where any input or target is.
    """
    keep_signs = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *targets))
    values, total, _ = _OPS[implementation][0](inputs, targets, weights, keep_signs)
    return values, total
