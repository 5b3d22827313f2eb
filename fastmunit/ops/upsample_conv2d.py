"""The op `upsample_conv2d` and its backward op, which are built from torch's convolutions and run on any device.

Its kernels are those that the op `phase_kernels` makes from a weight.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastmunit.ops import library
from fastmunit.ops.layout import dense_format
from fastmunit.ops.phase_convolution import convolve, convolve_backward, kernel_size
from fastmunit.ops.phase_taps import low_resolution_pad, shifted

_SCHEMA = "(Tensor x, Tensor phases, Tensor? borders, Tensor? bias, bool unshuffled) -> Tensor"
# `wants` says which gradients are computed: of x, of both kernels, and of the bias. The others are empty.
_BACKWARD_SCHEMA = (
    "(Tensor dy, Tensor x, Tensor phases, Tensor? borders, bool unshuffled, bool[] wants) "
    "-> (Tensor dx, Tensor dphases, Tensor dborders, Tensor dbias)"
)


def _empty_result(x: Tensor, phases: Tensor, borders: Tensor | None, bias: Tensor | None, unshuffled: bool) -> Tensor:
    n, _, h, w = x.shape
    c, pad = phases.shape[0], low_resolution_pad(kernel_size(phases))
    h, w = h - 2 * pad, w - 2 * pad
    shape = (n, c, h, w) if unshuffled else (n, c // 4, 2 * h, 2 * w)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=dense_format(x))


def _empty_gradients(
    dy: Tensor,
    x: Tensor,
    phases: Tensor,
    borders: Tensor | None,
    unshuffled: bool,
    wants: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    memory_format = dense_format(x)
    return (
        torch.empty_like(x, memory_format=memory_format) if wants[0] else x.new_empty(0),
        # Not in the layout of phases: a compiler may change that after tracing.
        torch.empty_like(phases, memory_format=memory_format) if wants[1] else x.new_empty(0),
        x.new_empty(0 if borders is None or not wants[1] else borders.shape),
        x.new_empty(phases.shape[0] if wants[2] else 0),
    )


def _run(x: Tensor, phases: Tensor, borders: Tensor | None, bias: Tensor | None, unshuffled: bool) -> Tensor:
    if x.shape[0] == 0:
        return _empty_result(x, phases, borders, bias, unshuffled)
    with torch.autocast(x.device.type, enabled=False):
        y = convolve(x, phases, borders, bias, unshuffled)
    return y.contiguous(memory_format=dense_format(x))


def _run_backward(
    dy: Tensor,
    x: Tensor,
    phases: Tensor,
    borders: Tensor | None,
    unshuffled: bool,
    wants: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.shape[0] == 0:
        dx, *others = _empty_gradients(dy, x, phases, borders, unshuffled, wants)
        dphases, dborders, dbias = (gradient.zero_() for gradient in others)
        return dx, dphases, dborders, dbias
    with torch.autocast(x.device.type, enabled=False):
        gradients = convolve_backward(dy, x, phases, borders, unshuffled, (wants[0], wants[1], wants[2]))
    memory_format = dense_format(x)
    dx, dphases, dborders, dbias = (x.new_empty(0) if gradient is None else gradient for gradient in gradients)
    if wants[0]:
        dx = dx.contiguous(memory_format=memory_format)
    if wants[1]:
        dphases = dphases.contiguous(memory_format=memory_format)
    return dx, dphases, dborders, dbias


# The only implementation has the name without a suffix.
_OP, _BACKWARD_OP = library.define_with_backward(
    "upsample_conv2d", "native", _SCHEMA, _empty_result, _BACKWARD_SCHEMA, _empty_gradients
)
for _device_type in ("cpu", "cuda"):
    library.kernel("upsample_conv2d", _device_type, _run)
    library.kernel("upsample_conv2d_backward", _device_type, _run_backward)


class _UpsampleConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        phases: Tensor,
        borders: Tensor | None,
        bias: Tensor | None,
        unshuffled: bool,
    ) -> Tensor:
        with library.below_autograd():
            y: Tensor = _OP(x, phases, borders, bias, unshuffled)
        ctx.save_for_backward(x, phases, borders)
        ctx.unshuffled = unshuffled
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, phases, borders = ctx.saved_tensors
        wants_x, wants_phases, wants_borders, wants_bias = ctx.needs_input_grad[:4]
        wants = (wants_x, wants_phases or wants_borders, wants_bias)
        dx, dphases, dborders, dbias = _BACKWARD_OP(dy, x, phases, borders, ctx.unshuffled, wants)
        return (
            dx if wants_x else None,
            dphases if wants_phases else None,
            dborders if wants_borders and borders is not None else None,
            dbias if wants_bias else None,
            None,
        )


library.autograd("upsample_conv2d", _UpsampleConv2d)


@register_flop_formula(torch.ops.fastmunit.upsample_conv2d)
def _flops(
    x: Sequence[int],
    phases: Sequence[int],
    borders: Sequence[int] | None,
    bias: Any,
    unshuffled: bool,
    **results: Any,
) -> int:
    """Count the operations of the op for torch's counter: those of its convolution and of its matrix products."""
    n, c, height, width = x
    outputs, _, taps, _ = phases
    k = 2 * taps - 1
    pad = low_resolution_pad(k)
    h, w = height - 2 * pad, width - 2 * pad
    longer = 1 if shifted(k) else 0
    products = n * (h + longer) * (w + longer) * outputs * c * taps * taps
    if borders is not None:
        edges, border_outputs, window = borders
        products += n * edges * (h + w) * border_outputs * window
    return 2 * products


@register_flop_formula(torch.ops.fastmunit.upsample_conv2d_backward)
def _backward_flops(
    dy: Sequence[int],
    x: Sequence[int],
    phases: Sequence[int],
    borders: Sequence[int] | None,
    unshuffled: bool,
    wants: Sequence[bool],
    **_: Any,
) -> int:
    return (wants[0] + wants[1]) * _flops(x, phases, borders, None, unshuffled)


def upsample_conv2d(x: Tensor, phases: Tensor, borders: Tensor | None, bias: Tensor | None, unshuffled: bool) -> Tensor:
    """Run the op on a low-resolution map and the results of the op `phase_kernels`.

    Args:
        x: (N, C, H + 2 pad, W + 2 pad) with pad = `low_resolution_pad(k)`: padded with zeros for zero padding, and by
            replication for replicate and reflect padding.
        phases: Kernels of the phases, in the dtype and preferably in the layout of x.
        borders: Kernels for the borders, or None.
        bias: None or the bias of the phases.
        unshuffled: As for `phase_kernels`.

    Returns:
        (N, O, 2 H, 2 W), or (N, 4 O, H, W) with channels (O, 2, 2) if `unshuffled`, in the layout of x.
    """
    y: Tensor = _OP(x, phases, borders, bias, unshuffled)
    return y
