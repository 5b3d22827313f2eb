"""The op `phase_kernels` and its backward op: the kernels that `upsample_conv2d` convolves with, made from its weight.

They are linear in weight and bias, so backward needs no tensors but their gradients, and one result may serve several
convolutions and several backward passes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastmunit.ops import library
from fastmunit.ops.layout import dense_format
from fastmunit.ops.phase_taps import EDGES, border_width, edge_neighbors, tap_sums

# Results that do not exist are empty: borders without `has_borders`, bias without a bias.
_SCHEMA = (
    "(Tensor weight, Tensor? bias, ScalarType dtype, bool channels_last, bool has_borders, bool unshuffled) "
    "-> (Tensor phases, Tensor borders, Tensor bias)"
)
# Gradients are made in the dtypes and in the layout that the arguments name. `wants` says which; the others are empty.
_BACKWARD_SCHEMA = (
    "(Tensor? dphases, Tensor? dborders, Tensor? dbias, SymInt[] weight_shape, ScalarType weight_dtype, "
    "bool weight_channels_last, ScalarType bias_dtype, bool has_borders, bool unshuffled, bool[] wants) "
    "-> (Tensor dweight, Tensor dbias)"
)


def _empty_results(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, channels_last: bool, has_borders: bool, unshuffled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    o, c, k, _ = weight.shape
    taps = (k + 1) // 2
    border_shape = (EDGES, border_width(k) * o, edge_neighbors(k) * k * c) if has_borders else (0,)
    return (
        torch.empty((4 * o, c, taps, taps), dtype=dtype, device=weight.device, memory_format=_format(channels_last)),
        weight.new_empty(border_shape, dtype=dtype),
        weight.new_empty(0 if bias is None else 4 * o, dtype=dtype),
    )


def _empty_gradients(
    dphases: Tensor | None,
    dborders: Tensor | None,
    dbias: Tensor | None,
    weight_shape: Sequence[int],
    weight_dtype: torch.dtype,
    weight_channels_last: bool,
    bias_dtype: torch.dtype,
    has_borders: bool,
    unshuffled: bool,
    wants: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    device = _first(dphases, dborders, dbias).device
    shape, memory_format = (tuple(weight_shape), _format(weight_channels_last)) if wants[0] else ((0,), None)
    return (
        torch.empty(shape, dtype=weight_dtype, device=device, memory_format=memory_format or torch.contiguous_format),
        torch.empty(weight_shape[0] if wants[1] else 0, dtype=bias_dtype, device=device),
    )


def _run(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, channels_last: bool, has_borders: bool, unshuffled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    results = _empty_results(weight, bias, dtype, channels_last, has_borders, unshuffled)
    o, c, k, _ = weight.shape
    sums = tap_sums(k, weight.dtype, weight.device, has_borders)
    with torch.autocast(weight.device.type, enabled=False):
        if dense_format(weight) == torch.channels_last:
            taps = sums.matrix.t() @ weight.permute(0, 2, 3, 1).reshape(o, k * k, c)
        else:
            taps = (weight.reshape(o * c, k * k) @ sums.matrix).view(o, c, -1).transpose(1, 2)
    phases, borders = taps.split([sums.phases, sums.borders], dim=1)
    _phase_view(results[0], unshuffled).copy_(_phase_taps_of(phases, k))
    if has_borders:
        _border_view(results[1], k, c).copy_(_border_taps_of(borders, k))
    if bias is not None:
        _bias_view(results[2], unshuffled).copy_(bias[:, None].expand(-1, 4))
    return results


def _run_backward(
    dphases: Tensor | None,
    dborders: Tensor | None,
    dbias: Tensor | None,
    weight_shape: Sequence[int],
    weight_dtype: torch.dtype,
    weight_channels_last: bool,
    bias_dtype: torch.dtype,
    has_borders: bool,
    unshuffled: bool,
    wants: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    o, c, k, _ = weight_shape
    device = _first(dphases, dborders, dbias).device
    dweight = torch.empty(0, dtype=weight_dtype, device=device)
    if wants[0]:
        sums = tap_sums(k, weight_dtype, device, has_borders)
        count = sums.phases + sums.borders
        memory = dweight.new_empty((o, count, c) if weight_channels_last else (o, c, count))
        dtaps = memory if weight_channels_last else memory.transpose(1, 2)
        phases, borders = dtaps.split([sums.phases, sums.borders], dim=1)
        _copy(_phase_taps_of(phases, k), None if dphases is None else _phase_view(dphases, unshuffled))
        if has_borders:
            _copy(_border_taps_of(borders, k), None if dborders is None else _border_view(dborders, k, c))
        with torch.autocast(device.type, enabled=False):
            if weight_channels_last:
                dweight = (sums.matrix @ memory).view(o, k, k, c).permute(0, 3, 1, 2)
            else:
                dweight = (memory.view(o * c, count) @ sums.matrix.t()).view(o, c, k, k)
    if not wants[1]:
        return dweight, torch.empty(0, dtype=bias_dtype, device=device)
    if dbias is None:
        return dweight, torch.zeros(o, dtype=bias_dtype, device=device)
    return dweight, _bias_view(dbias, unshuffled).sum(1, dtype=bias_dtype)


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _first(*tensors: Tensor | None) -> Tensor:
    return next(tensor for tensor in tensors if tensor is not None)


def _copy(view: Tensor, values: Tensor | None) -> None:
    if values is None:
        view.zero_()
    else:
        view.copy_(values)


# --- The same values in the order of the sums and in the order of the kernels -----------------------------------------


def _phase_taps_of(sums: Tensor, k: int) -> Tensor:
    """Return the view (O, 2, 2, taps, taps, C) of the sums (O, 2 · 2 · taps · taps, C) for the phases."""
    return sums.unflatten(1, (2, 2, (k + 1) // 2, (k + 1) // 2))


def _phase_view(phases: Tensor, unshuffled: bool) -> Tensor:
    """Return the same view of the kernels (4 O, C, taps, taps), whose channels are (O, 2, 2) or phases first."""
    o = phases.shape[0] // 4
    if unshuffled:
        return phases.unflatten(0, (o, 2, 2)).movedim(3, -1)
    return phases.unflatten(0, (2, 2, o)).permute(2, 0, 1, 4, 5, 3)


def _border_taps_of(sums: Tensor, k: int) -> Tensor:
    """Return the view (O, 4, border_width, edge_neighbors · k, C) of the sums for the borders."""
    return sums.unflatten(1, (EDGES, border_width(k), edge_neighbors(k) * k))


def _border_view(borders: Tensor, k: int, c: int) -> Tensor:
    """Return the same view of the kernels (4, border_width · O, edge_neighbors · k · C)."""
    return borders.unflatten(2, (-1, c)).unflatten(1, (border_width(k), -1)).permute(2, 0, 1, 3, 4)


def _bias_view(bias: Tensor, unshuffled: bool) -> Tensor:
    """Return the view (O, 4) of the bias of the phases (4 O,)."""
    return bias.view(-1, 4) if unshuffled else bias.view(4, -1).t()


_OP, _BACKWARD_OP = library.define_with_backward(
    "phase_kernels", "native", _SCHEMA, _empty_results, _BACKWARD_SCHEMA, _empty_gradients
)
for _device_type in ("cpu", "cuda"):
    library.kernel("phase_kernels", _device_type, _run)
    library.kernel("phase_kernels_backward", _device_type, _run_backward)


class _PhaseKernels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        channels_last: bool,
        has_borders: bool,
        unshuffled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with library.below_autograd():
            phases, borders, phase_bias = _OP(weight, bias, dtype, channels_last, has_borders, unshuffled)
        absent = [t for t, exists in ((borders, has_borders), (phase_bias, bias is not None)) if not exists]
        ctx.mark_non_differentiable(*absent)
        _prepare_backward(ctx, weight, bias, has_borders, unshuffled)
        return phases, borders, phase_bias

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, gradients), None, None, None, None


library.autograd("phase_kernels", _PhaseKernels)


class _ReadyKernels(torch.autograd.Function):
    """The derivative of the kernels of a weight and a bias that have been computed before."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,
        phases: Tensor,
        borders: Tensor | None,
        phase_bias: Tensor | None,
        unshuffled: bool,
    ) -> tuple[Tensor | None, ...]:
        _prepare_backward(ctx, weight, bias, borders is not None, unshuffled)
        return tuple(None if ready is None else ready.detach() for ready in (phases, borders, phase_bias))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, gradients), None, None, None, None


def _prepare_backward(ctx: Any, weight: Tensor, bias: Tensor | None, has_borders: bool, unshuffled: bool) -> None:
    ctx.set_materialize_grads(False)
    weight_channels_last = dense_format(weight) == torch.channels_last
    bias_dtype = weight.dtype if bias is None else bias.dtype
    ctx.arguments = tuple(weight.shape), weight.dtype, weight_channels_last, bias_dtype, has_borders, unshuffled
    ctx.wants = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and bias is not None


def _gradients(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of weight and bias."""
    if all(gradient is None for gradient in gradients):
        return None, None
    dweight, dbias = _BACKWARD_OP(*gradients, *ctx.arguments, ctx.wants)
    return dweight if ctx.wants[0] else None, dbias if ctx.wants[1] else None


@register_flop_formula(torch.ops.fastmunit.phase_kernels)
def _flops(
    weight: Sequence[int], bias: Any, dtype: Any, channels_last: bool, has_borders: bool, *_: Any, **__: Any
) -> int:
    return _matrix_flops(weight, has_borders)


@register_flop_formula(torch.ops.fastmunit.phase_kernels_backward)
def _backward_flops(
    dphases: Any,
    dborders: Any,
    dbias: Any,
    weight_shape: Sequence[int],
    weight_dtype: Any,
    weight_channels_last: bool,
    bias_dtype: Any,
    has_borders: bool,
    unshuffled: bool,
    wants: Sequence[bool],
    **_: Any,
) -> int:
    return _matrix_flops(weight_shape, has_borders) if wants[0] else 0


def _matrix_flops(weight_shape: Sequence[int], has_borders: bool) -> int:
    o, c, k, _ = weight_shape
    borders = EDGES * border_width(k) * edge_neighbors(k) * k if has_borders else 0
    return 2 * o * c * k * k * ((k + 1) ** 2 + borders)


def phase_kernels(
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    has_borders: bool,
    unshuffled: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run the op: sum the taps of weight (O, C, k, k) in its dtype, and round the sums to `dtype`.

    Args:
        weight: Kernel for the upsampled map.
        bias: None or (O,).
        dtype: Dtype of the results.
        memory_format: Layout of the kernels of the phases.
        has_borders: Make the kernels for the borders too, which reflect padding needs if `border_width(k)` > 0.
        unshuffled: Order the channels of the phases as (O, 2, 2) instead of (2, 2, O).

    Returns:
        Kernels of the phases (4 O, C, taps, taps) with taps = (k + 1) / 2, kernels for the borders
        (4, border_width · O, edge_neighbors · k · C) or None, and the bias of the phases (4 O,) or None.
    """
    channels_last = memory_format == torch.channels_last
    phases, borders, phase_bias = _OP(weight, bias, dtype, channels_last, has_borders, unshuffled)
    return phases, borders if has_borders else None, None if bias is None else phase_bias


def with_graph(
    weight: Tensor,
    bias: Tensor | None,
    ready: tuple[Tensor, Tensor | None, Tensor | None],
    unshuffled: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the same as `phase_kernels` from its results for weight and bias, which were computed without a graph."""
    if not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in (weight, bias)):
        return ready
    phases, borders, phase_bias = _ReadyKernels.apply(weight, bias, *ready, unshuffled)
    return phases, borders, phase_bias
