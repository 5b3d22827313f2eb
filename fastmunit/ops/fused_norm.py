"""The op `fused_norm`, its backward op, and the op with given statistics, `fused_norm_with_statistics`."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.ops import library
from fastmunit.ops.layout import dense, dense_format

_OPTIONS = library.schema_of(FusedNormOptions)
_SCHEMA = (
    f"(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, {_OPTIONS}) "
    "-> (Tensor padded, Tensor mean, Tensor rstd)"
)
_BACKWARD_SCHEMA = (
    "(Tensor? dpadded, Tensor? dinterior, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
    f"bool wants_weight, bool wants_bias, bool wants_residual, {_OPTIONS}) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)"
)
_GIVEN_SCHEMA = (
    f"(Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, Tensor? residual, {_OPTIONS}) -> Tensor"
)


class _Wants(NamedTuple):
    """The gradients, besides the gradient of x, that a call of the backward op computes. The others are empty."""

    weight: bool
    bias: bool
    residual: bool


def _empty_padded(x: Tensor, options: FusedNormOptions) -> Tensor:
    n, c, h, w = options.result_shape(x.shape)
    size = (n, c, h + 2 * options.pad, w + 2 * options.pad)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=dense_format(x))


def _empty_results(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the results of the op: its fake kernel, and the memory that the Triton kernels write to."""
    fused = FusedNormOptions(*options)
    n, c, _, _ = fused.result_shape(x.shape)
    group = {"instance": (n, c), "layer": (n,), "none": (0,)}[fused.statistics]
    mean, rstd = (x.new_empty(group, dtype=torch.float64) for _ in range(2))
    return _empty_padded(x, fused), mean, rstd


def _empty_result_with_statistics(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    *options: Any,
) -> Tensor:
    return _empty_padded(x, FusedNormOptions(*options))


def _empty_gradients(
    dpadded: Tensor | None,
    dinterior: Tensor | None,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wants_weight: bool,
    wants_bias: bool,
    wants_residual: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate the results of the backward op."""
    memory_format = dense_format(x)
    nothing = partial(x.new_empty, (0,), dtype=torch.float64)
    dx = torch.empty_like(x, memory_format=memory_format)
    dweight, dbias = (
        parameter.new_empty(parameter.shape) if wants and parameter is not None else nothing()
        for parameter, wants in ((weight, wants_weight), (bias, wants_bias))
    )
    if wants_residual:
        shape = FusedNormOptions(*options).result_shape(x.shape)
        dresidual = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    else:
        dresidual = nothing()
    return dx, dweight, dbias, dresidual


def _triton(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    from fastmunit.kernels.fused_norm import fused_norm

    results = _empty_results(x, weight, bias, residual, *options)
    fused_norm(dense(x), weight, bias, residual, *results, FusedNormOptions(*options))
    return results


def _triton_with_statistics(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    *options: Any,
) -> Tensor:
    from fastmunit.kernels.fused_norm import fused_norm

    fused = FusedNormOptions(*options)
    padded = _empty_padded(x, fused)
    fused_norm(dense(x), weight, bias, residual, padded, mean, rstd, fused, given=True)
    return padded


def _triton_backward(
    dpadded: Tensor | None,
    dinterior: Tensor | None,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wants_weight: bool,
    wants_bias: bool,
    wants_residual: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from fastmunit.kernels.fused_norm_backward import fused_norm_backward

    wants = (wants_weight, wants_bias, wants_residual)
    gradients = _empty_gradients(dpadded, dinterior, x, mean, rstd, weight, bias, *wants, *options)
    dx, dweight, dbias, dresidual = gradients
    fused_norm_backward(
        dpadded,
        dinterior,
        dense(x),
        mean,
        rstd,
        weight,
        bias,
        dx,
        dweight if wants_weight and weight is not None else None,
        dbias if wants_bias and bias is not None else None,
        dresidual if wants_residual else None,
        FusedNormOptions(*options),
    )
    return gradients


_OPS = {
    implementation: library.define_with_backward(
        "fused_norm", implementation, _SCHEMA, _empty_results, _BACKWARD_SCHEMA, _empty_gradients
    )
    for implementation in ("native", "triton")
}


def _register_with_statistics(implementation: str) -> library.Op:
    name = library.op_name("fused_norm_with_statistics", implementation)
    op = library.define(name, _GIVEN_SCHEMA, _empty_result_with_statistics)
    library.without_derivative(name, op, 'call fused_norm with implementation="reference" (or "auto") for gradients')
    return op


_WITH_STATISTICS = {implementation: _register_with_statistics(implementation) for implementation in _OPS}
for _device_type in ("cpu", "cuda"):
    library.kernel("fused_norm_triton", _device_type, _triton)
    library.kernel("fused_norm_with_statistics_triton", _device_type, _triton_with_statistics)
    library.kernel("fused_norm_backward_triton", _device_type, _triton_backward)


def _forward(
    ctx: Any,
    implementation: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: FusedNormOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the op and save what backward needs."""
    with library.below_autograd():
        padded, mean, rstd = _OPS[implementation][0](x, weight, bias, residual, *options)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    ctx.implementation = implementation
    ctx.options = options
    # needs_input_grad is read here because a Function that torch.compile traces knows it in forward only.
    _, _, needs_weight, needs_bias, needs_residual, _ = ctx.needs_input_grad
    ctx.wants = _Wants(
        weight is not None and needs_weight, bias is not None and needs_bias, residual is not None and needs_residual
    )
    return padded, mean, rstd


def _backward(ctx: Any, dpadded: Tensor | None, dinterior: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradients of the arguments of `_forward` after ctx."""
    if dpadded is None and dinterior is None:
        return (None,) * 6
    wants = ctx.wants
    op = _OPS[ctx.implementation][1]
    inputs = (dpadded, dinterior, *ctx.saved_tensors, *wants, *ctx.options)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # the result may be differentiated again
        dx, dweight, dbias, dresidual = op(*inputs)
    else:
        with library.below_autograd():
            dx, dweight, dbias, dresidual = op(*inputs)
    return (
        None,
        dx,
        dweight if wants.weight else None,
        dbias if wants.bias else None,
        dresidual if wants.residual else None,
        None,
    )


class _Padded(torch.autograd.Function):
    """The derivative of the op, whose differentiable result is the padded map."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        padded, mean, rstd = _forward(ctx, *inputs)
        ctx.mark_non_differentiable(mean, rstd)
        return padded, mean, rstd

    @staticmethod
    def backward(ctx: Any, dpadded: Tensor | None, *statistics: None) -> tuple[Tensor | None, ...]:
        return _backward(ctx, dpadded, None)


class _PaddedAndInterior(torch.autograd.Function):
    """The padded map and its interior view, whose gradients go into one backward op in their own layouts."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        padded = _forward(ctx, *inputs)[0]
        return padded, _interior(padded, ctx.options.pad)

    @staticmethod
    def backward(ctx: Any, dpadded: Tensor | None, dinterior: Tensor | None) -> tuple[Tensor | None, ...]:
        return _backward(ctx, dpadded, dinterior)


def _differentiable(
    implementation: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    results: tuple[Tensor, Tensor, Tensor] = _Padded.apply(
        implementation, x, weight, bias, residual, FusedNormOptions(*options)
    )
    return results


for _implementation in _OPS:
    library.autograd(library.op_name("fused_norm", _implementation), partial(_differentiable, _implementation))


def _interior(padded: Tensor, pad: int) -> Tensor:
    return padded[:, :, pad:-pad, pad:-pad]


def fused_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: FusedNormOptions,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Run the op on arguments that `fastmunit.functional.fused_norm` has checked.

    Returns:
        padded, contiguous in the layout of x, and its interior view, or the same tensor twice without a pad.
    """
    op = _OPS[implementation][0]
    tensors = (x, weight, bias, residual)
    if torch.compiler.is_compiling():
        # A compiled graph gets the op and the view separately. It would fill the gradient of an unused interior with
        # zeros, and it fuses the sum of the two gradients by itself.
        padded = op(*tensors, *options)[0]
    elif torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        if options.pad:
            padded, interior = _PaddedAndInterior.apply(implementation, *tensors, options)
            return padded, interior
        padded = op(*tensors, *options)[0]
    else:
        with library.below_autograd():
            padded = op(*tensors, *options)[0]
    return padded, _interior(padded, options.pad) if options.pad else padded


def fused_norm_with_statistics(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: FusedNormOptions,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Run the op with given statistics, without a derivative, on arguments that the public function has checked.

    Returns:
        padded and its interior view, as `fused_norm` does.
    """
    op = _WITH_STATISTICS[implementation]
    mean, rstd = (statistic.to(torch.float64).contiguous() for statistic in (mean, rstd))
    if torch.compiler.is_compiling():
        padded = op(x, mean, rstd, weight, bias, residual, *options)
    else:
        with library.below_autograd():
            padded = op(x, mean, rstd, weight, bias, residual, *options)
    return padded, _interior(padded, options.pad) if options.pad else padded
