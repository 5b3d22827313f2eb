"""The op `weighted_l1` and its backward op."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastmunit.ops import library
from fastmunit.ops.layout import dense_format

# Number of pairs that fit in the arguments of a kernel. csrc/weighted_l1/weighted_l1.h has the same value.
MAX_PAIRS = 16

# `signs` holds the signs of all differences, pair after pair, each in the memory order of its input. Backward needs
# them. They are empty without keep_signs.
_SCHEMA = (
    "(Tensor[] inputs, Tensor[] targets, float[] weights, bool keep_signs) "
    "-> (Tensor values, Tensor total, Tensor signs)"
)
# `wants` says for each input, then for each target, if its gradient is computed. The op reads the shapes, dtypes and
# layouts of inputs and targets, not their data.
_BACKWARD_SCHEMA = (
    "(Tensor dvalues, Tensor dtotal, Tensor signs, Tensor[] inputs, Tensor[] targets, float[] weights, bool[] wants) "
    "-> Tensor[]"
)


def _empty_results(
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


def _empty_gradients(
    dvalues: Tensor,
    dtotal: Tensor,
    signs: Tensor,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    wants: Sequence[bool],
) -> list[Tensor]:
    formats = [dense_format(input) for input in inputs]
    return [
        torch.empty_like(x, memory_format=memory_format)
        for x, memory_format, want in zip((*inputs, *targets), formats * 2, wants, strict=True)
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
    wants: Sequence[bool],
) -> list[Tensor]:
    from fastmunit.kernels.weighted_l1 import weighted_l1_backward

    gradients = _empty_gradients(dvalues, dtotal, signs, inputs, targets, weights, wants)
    given = iter(gradients)
    dinputs, dtargets = (
        [next(given) if want else None for want in side] for side in (wants[: len(inputs)], wants[len(inputs) :])
    )
    counts = [input.numel() for input in inputs]
    weighted_l1_backward(dvalues.contiguous(), dtotal, signs, counts, weights, dinputs, dtargets)
    return gradients


_OPS = {
    implementation: library.define_with_backward(
        "weighted_l1", implementation, _SCHEMA, _empty_results, _BACKWARD_SCHEMA, _empty_gradients
    )
    for implementation in ("native", "triton")
}
for _device_type in ("cpu", "cuda"):
    library.kernel("weighted_l1_triton", _device_type, _triton)
    library.kernel("weighted_l1_backward_triton", _device_type, _triton_backward)


class _WeightedL1(torch.autograd.Function):
    """The op with its tensors as separate arguments, because autograd does not look into lists."""

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
        ctx.set_materialize_grads(False)  # zeros for the signs would be as large as these
        ctx.save_for_backward(signs, *tensors)
        return values, total, signs

    @staticmethod
    def backward(ctx: Any, dvalues: Tensor | None, dtotal: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if not ctx.keep_signs:
            raise RuntimeError("fastmunit.weighted_l1 was called with keep_signs=False, which leaves out its gradient")
        signs, *tensors = ctx.saved_tensors
        pairs = len(ctx.weights)
        _, _, _, *wants = ctx.needs_input_grad
        if dvalues is None:
            if dtotal is None:
                return None, None, None, *(None for _ in wants)
            dvalues = dtotal.new_zeros(pairs)
        if dtotal is None:
            dtotal = dvalues.new_zeros(())
        op = _OPS[ctx.implementation][1]
        gradients = iter(op(dvalues, dtotal, signs, tensors[:pairs], tensors[pairs:], ctx.weights, wants))
        return None, None, None, *(next(gradients) if want else None for want in wants)


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
    """Run the op on arguments that `fastmunit.functional.weighted_l1` has checked.

    Returns:
        values (K,) and total (), in float32, or in float64 if any input or target is float64.
    """
    keep_signs = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *targets))
    values, total, _ = _OPS[implementation][0](inputs, targets, weights, keep_signs)
    return values, total
