"""The op `gan_loss` and its backward op."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastmunit.ops import library
from fastmunit.ops.layout import dense, dense_format

# Number of maps that fit in the arguments of a kernel. csrc/gan_loss/gan_loss.h has the same value.
MAX_MAPS = 32
# The targets by their numbers in the schema; GanTarget in csrc/gan_loss/torch/bindings.h.
TARGETS = ("fake", "real", "generator", "fake_real")
GAN_TYPES = ("lsgan", "nsgan", "hinge")

_SCHEMA = "(Tensor[] outputs, int[] targets, float[] weights, str gan_type) -> (Tensor values, Tensor total)"
# `wants` says for each output if its gradient is computed.
_BACKWARD_SCHEMA = (
    "(Tensor dvalues, Tensor dtotal, Tensor[] outputs, int[] targets, float[] weights, str gan_type, bool[] wants) "
    "-> Tensor[]"
)


def _empty_results(
    outputs: Sequence[Tensor], targets: Sequence[int], weights: Sequence[float], gan_type: str
) -> tuple[Tensor, Tensor]:
    double = any(output.dtype == torch.float64 for output in outputs)
    dtype = torch.float64 if double else torch.float32
    return outputs[0].new_empty((len(outputs),), dtype=dtype), outputs[0].new_empty((), dtype=dtype)


def _empty_gradients(
    dvalues: Tensor,
    dtotal: Tensor,
    outputs: Sequence[Tensor],
    targets: Sequence[int],
    weights: Sequence[float],
    gan_type: str,
    wants: Sequence[bool],
) -> list[Tensor]:
    return [
        torch.empty_like(output, memory_format=dense_format(output))
        for output, want in zip(outputs, wants, strict=True)
        if want
    ]


def _triton(
    outputs: Sequence[Tensor], targets: Sequence[int], weights: Sequence[float], gan_type: str
) -> tuple[Tensor, Tensor]:
    from fastmunit.kernels.gan_loss import gan_loss

    names = [TARGETS[target] for target in targets]
    return gan_loss([dense(output) for output in outputs], names, weights, gan_type)


def _triton_backward(
    dvalues: Tensor,
    dtotal: Tensor,
    outputs: Sequence[Tensor],
    targets: Sequence[int],
    weights: Sequence[float],
    gan_type: str,
    wants: Sequence[bool],
) -> list[Tensor]:
    from fastmunit.kernels.gan_loss import gan_loss_backward

    gradients = _empty_gradients(dvalues, dtotal, outputs, targets, weights, gan_type, wants)
    wanted = [k for k, want in enumerate(wants) if want]
    if wanted:
        names = [TARGETS[targets[k]] for k in wanted]
        maps = [dense(outputs[k]) for k in wanted]
        slopes = dvalues.contiguous() if len(wanted) == len(outputs) else dvalues[wanted]
        gan_loss_backward(slopes, dtotal, maps, names, [weights[k] for k in wanted], gan_type, gradients)
    return gradients


_OPS = {
    implementation: library.define_with_backward(
        "gan_loss", implementation, _SCHEMA, _empty_results, _BACKWARD_SCHEMA, _empty_gradients
    )
    for implementation in ("native", "triton")
}
for _device_type in ("cpu", "cuda"):
    library.kernel("gan_loss_triton", _device_type, _triton)
    library.kernel("gan_loss_backward_triton", _device_type, _triton_backward)


class _GANLoss(torch.autograd.Function):
    """The op with its tensors as separate arguments, because autograd does not look into lists."""

    @staticmethod
    def forward(
        ctx: Any,
        implementation: str,
        targets: Sequence[int],
        weights: Sequence[float],
        gan_type: str,
        *outputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with library.below_autograd():
            values, total = _OPS[implementation][0](outputs, targets, weights, gan_type)
        ctx.implementation = implementation
        ctx.arguments = targets, weights, gan_type
        ctx.save_for_backward(*outputs)
        return values, total

    @staticmethod
    def backward(ctx: Any, dvalues: Tensor, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        _, _, _, _, *wants = ctx.needs_input_grad
        op = _OPS[ctx.implementation][1]
        gradients = iter(op(dvalues, dtotal, ctx.saved_tensors, *ctx.arguments, wants))
        return None, None, None, None, *(next(gradients) if want else None for want in wants)


def _differentiable(
    implementation: str,
    outputs: Sequence[Tensor],
    targets: Sequence[int],
    weights: Sequence[float],
    gan_type: str,
) -> tuple[Tensor, Tensor]:
    values, total = _GANLoss.apply(implementation, targets, weights, gan_type, *outputs)
    return values, total


for _implementation in _OPS:
    library.autograd(library.op_name("gan_loss", _implementation), partial(_differentiable, _implementation))


def gan_loss(
    outputs: Sequence[Tensor], targets: Sequence[str], weights: Sequence[float], gan_type: str, implementation: str
) -> tuple[Tensor, Tensor]:
    """Run the op on arguments that `fastmunit.functional.gan_loss` has checked.

    Returns:
        values (K,) and total (), in float32, or in float64 if any output is float64.
    """
    values, total = _OPS[implementation][0](outputs, [TARGETS.index(target) for target in targets], weights, gan_type)
    return values, total
