"""Contract of `fused_norm` and of its backward."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastmunit.ops import library
from fastmunit.ops.layout import dense, dense_format

_OPTIONS = "str statistics, str activation, float negative_slope, int pad, str pad_mode, float eps, bool pixel_shuffle"
_SCHEMA = (
    f"(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, {_OPTIONS}) "
    "-> (Tensor padded, Tensor mean, Tensor rstd)"
)
_BACKWARD_SCHEMA = (
    "(Tensor? dpadded, Tensor? dinterior, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
    f"bool wants_weight, bool wants_bias, bool wants_residual, {_OPTIONS}) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)"
)


def _result_shape(x: Tensor, pixel_shuffle: bool) -> tuple[int, int, int, int]:
    """(N, C, H, W) of the result before the pad."""
    n, c, h, w = x.shape
    return (n, c // 4, 2 * h, 2 * w) if pixel_shuffle else (n, c, h, w)


def _fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    statistics: str,
    activation: str,
    negative_slope: float,
    pad: int,
    pad_mode: str,
    eps: float,
    pixel_shuffle: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n, c, h, w = _result_shape(x, pixel_shuffle)
    padded = torch.empty(
        (n, c, h + 2 * pad, w + 2 * pad), dtype=x.dtype, device=x.device, memory_format=dense_format(x)
    )
    group = {"instance": (n, c), "layer": (n,), "none": (0,)}[statistics]
    mean, rstd = (x.new_empty(group, dtype=torch.float64) for _ in range(2))
    return padded, mean, rstd


def _backward_fake(
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
    statistics: str,
    activation: str,
    negative_slope: float,
    pad: int,
    pad_mode: str,
    eps: float,
    pixel_shuffle: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    memory_format = dense_format(x)
    dx = torch.empty_like(x, memory_format=memory_format)
    dweight, dbias = (
        parameter.new_empty(parameter.shape)
        if wanted and parameter is not None
        else x.new_empty((0,), dtype=torch.float64)
        for parameter, wanted in ((weight, wants_weight), (bias, wants_bias))
    )
    if wants_residual:
        shape = _result_shape(x, pixel_shuffle)
        dresidual = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    else:
        dresidual = x.new_empty((0,), dtype=torch.float64)
    return dx, dweight, dbias, dresidual


_OPTION_NAMES = ("statistics", "activation", "negative_slope", "pad", "pad_mode", "eps", "pixel_shuffle")


def _triton(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    from fastmunit.kernels.fused_norm import fused_norm

    results = _fake(x, weight, bias, residual, *options)
    fused_norm(dense(x), weight, bias, residual, *results, **dict(zip(_OPTION_NAMES, options, strict=True)))
    return results


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
    gradients = _backward_fake(dpadded, dinterior, x, mean, rstd, weight, bias, *wants, *options)
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
        **dict(zip(_OPTION_NAMES, options, strict=True)),
    )
    return gradients


_OPS = {
    implementation: library.define_with_backward(
        "fused_norm", implementation, _SCHEMA, _fake, _BACKWARD_SCHEMA, _backward_fake
    )
    for implementation in ("native", "triton")
}
for _device_type in ("cpu", "cuda"):
    library.kernel("fused_norm_triton", _device_type, _triton)
    library.kernel("fused_norm_backward_triton", _device_type, _triton_backward)


def _save(ctx: Any, implementation: str, inputs: tuple[Any, ...], mean: Tensor, rstd: Tensor) -> None:
    x, weight, bias, residual, *options = inputs
    ctx.implementation = implementation
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    # needs_input_grad is read here: a Function compiled by torch.compile knows it in forward alone.
    parameters = (weight, bias, residual)
    ctx.wants = tuple(
        tensor is not None and needed for tensor, needed in zip(parameters, ctx.needs_input_grad[2:5], strict=True)
    )
    ctx.options = options


def _gradients(ctx: Any, dpadded: Tensor | None, dinterior: Tensor | None) -> tuple[Tensor | None, ...]:
    x, mean, rstd, weight, bias = ctx.saved_tensors
    if dpadded is None and dinterior is None:
        return (None,) * (5 + len(ctx.options))
    op = _OPS[ctx.implementation][1]
    inputs = (dpadded, dinterior, x, mean, rstd, weight, bias, *ctx.wants, *ctx.options)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # the derivative of this derivative is asked for
        dx, dweight, dbias, dresidual = op(*inputs)
    else:
        with library.below_autograd():
            dx, dweight, dbias, dresidual = op(*inputs)
    wanted = (
        gradient if wants else None for gradient, wants in zip((dweight, dbias, dresidual), ctx.wants, strict=True)
    )
    return (
        None,  # of the implementation
        dx,
        *wanted,
        *(None,) * len(ctx.options),
    )


class _Padded(torch.autograd.Function):
    """The derivative of the op, whose result is the padded map."""

    @staticmethod
    def forward(ctx: Any, implementation: str, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        with library.below_autograd():
            padded, mean, rstd = _OPS[implementation][0](*inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, rstd)
        _save(ctx, implementation, inputs, mean, rstd)
        return padded, mean, rstd

    @staticmethod
    def backward(ctx: Any, dpadded: Tensor | None, *statistics: None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, dpadded, None)


class _PaddedAndInterior(torch.autograd.Function):
    """The padded map and its interior view, each with a gradient of its own, which backward reads as it comes."""

    @staticmethod
    def forward(ctx: Any, implementation: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        with library.below_autograd():
            padded, mean, rstd = _OPS[implementation][0](*inputs)
        ctx.set_materialize_grads(False)
        _save(ctx, implementation, inputs, mean, rstd)
        return padded, _interior(padded, inputs[7])

    @staticmethod
    def backward(ctx: Any, dpadded: Tensor | None, dinterior: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, dpadded, dinterior)


for _implementation in _OPS:
    library.autograd(library.op_name("fused_norm", _implementation), partial(_Padded.apply, _implementation))


def _interior(padded: Tensor, pad: int) -> Tensor:
    return padded[:, :, pad:-pad, pad:-pad]


def fused_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    statistics: str,
    activation: str,
    negative_slope: float,
    pad: int,
    pad_mode: str,
    eps: float,
    pixel_shuffle: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Normalisation, activation, residual and pad; see `fastmunit.functional.fused_norm`, which checks the arguments.

    Returns:
        padded, contiguous in the layout of x, and its interior view; without pad the same tensor twice.
    """
    op = _OPS[implementation][0]
    inputs = (x, weight, bias, residual, statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle)
    if torch.compiler.is_compiling():
        # A compiled graph takes the op and the view apart: it would fill the gradient of an interior that nothing uses
        # with zeros, and it fuses the sum of two gradients by itself.
        padded = op(*inputs)[0]
    elif torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, weight, bias, residual)
    ):
        if pad:
            padded, interior = _PaddedAndInterior.apply(implementation, *inputs)
            return padded, interior
        padded = op(*inputs)[0]
    else:
        with library.below_autograd():
            padded = op(*inputs)[0]
    return padded, _interior(padded, pad) if pad else padded
