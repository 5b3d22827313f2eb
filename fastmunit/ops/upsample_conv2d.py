"""The op `upsample_conv2d` and its backward op, which are built from torch's convolutions and run on any device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from fastmunit.ops import library
from fastmunit.ops.autocast import autocast_dtype
from fastmunit.ops.layout import dense_format
from fastmunit.ops.phase_convolution import convolve, convolve_backward

_SCHEMA = "(Tensor x, Tensor weight, Tensor? bias, str pad_mode, bool unshuffled) -> Tensor"
# `wants` says which gradients are computed. The others are empty.
_BACKWARD_SCHEMA = (
    "(Tensor dy, Tensor x, Tensor weight, str pad_mode, bool unshuffled, bool[] wants) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)"
)


def _empty_result(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
    n, _, h, w = x.shape
    o = weight.shape[0]
    shape = (n, 4 * o, h, w) if unshuffled else (n, o, 2 * h, 2 * w)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=dense_format(x))


def _empty_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, pad_mode: str, unshuffled: bool, wants: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=dense_format(x)) if wants[0] else x.new_empty(0),
        torch.empty_like(weight, memory_format=torch.contiguous_format) if wants[1] else weight.new_empty(0),
        x.new_empty(weight.shape[0]) if wants[2] else x.new_empty(0),
    )


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
    if x.shape[0] == 0:
        return _empty_result(x, weight, bias, pad_mode, unshuffled)
    with torch.autocast(x.device.type, enabled=False):
        y = convolve(x, weight, bias, pad_mode, unshuffled)
    return y.contiguous(memory_format=dense_format(x))


def _run_backward(
    dy: Tensor, x: Tensor, weight: Tensor, pad_mode: str, unshuffled: bool, wants: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    if x.shape[0] == 0:
        dx, dweight, dbias = _empty_gradients(dy, x, weight, pad_mode, unshuffled, wants)
        return dx, dweight.zero_(), dbias.zero_()
    with torch.autocast(x.device.type, enabled=False):
        gradients = convolve_backward(dy, x, weight, pad_mode, unshuffled, (wants[0], wants[1], wants[2]))
    dx, dweight, dbias = (x.new_empty(0) if gradient is None else gradient for gradient in gradients)
    if wants[0]:
        dx = dx.contiguous(memory_format=dense_format(x))
    # The layout of weight does not matter here: a compiler may change it after tracing.
    return dx, dweight.contiguous() if wants[1] else weight.new_empty(0), dbias


# The only implementation has the name without a suffix.
_OP, _BACKWARD_OP = library.define_with_backward(
    "upsample_conv2d", "native", _SCHEMA, _empty_result, _BACKWARD_SCHEMA, _empty_gradients
)
for _device_type in ("cpu", "cuda"):
    library.kernel("upsample_conv2d", _device_type, _run)
    library.kernel("upsample_conv2d_backward", _device_type, _run_backward)


class _UpsampleConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
        with library.below_autograd():
            y: Tensor = _OP(x, weight, bias, pad_mode, unshuffled)
        ctx.save_for_backward(x, weight)
        ctx.pad_mode, ctx.unshuffled = pad_mode, unshuffled
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad[:3]
        dx, dweight, dbias = _BACKWARD_OP(dy, x, weight, ctx.pad_mode, ctx.unshuffled, wants)
        return dx if wants[0] else None, dweight if wants[1] else None, dbias if wants[2] else None, None, None


library.autograd("upsample_conv2d", _UpsampleConv2d)


@register_flop_formula(torch.ops.fastmunit.upsample_conv2d)
def _flops(x: Sequence[int], weight: Sequence[int], bias: Any, pad_mode: str, unshuffled: bool, **_: Any) -> int:
    """Count the operations of the op for torch's counter: its convolutions and matrix products, run without data."""
    with FlopCounterMode(display=False) as counter:
        convolve(_without_data(x), _without_data(weight), None, pad_mode, unshuffled)
    return counter.get_total_flops()


@register_flop_formula(torch.ops.fastmunit.upsample_conv2d_backward)
def _backward_flops(
    dy: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    pad_mode: str,
    unshuffled: bool,
    wants: Sequence[bool],
    **_: Any,
) -> int:
    tensors = _without_data(dy), _without_data(x), _without_data(weight)
    with FlopCounterMode(display=False) as counter:
        convolve_backward(*tensors, pad_mode, unshuffled, (wants[0], wants[1], wants[2]))
    return counter.get_total_flops()


def _without_data(shape: Sequence[int]) -> Tensor:
    return torch.empty(*shape, device="meta")


def upsample_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
    """Run the op on arguments that `fastmunit.functional.upsample_conv2d` has checked.

    Under autocast, x and bias are cast as for a convolution. The taps of weight are summed before they are rounded.

    Returns:
        (N, O, 2 H, 2 W), or (N, 4 O, H, W) with channels (O, 2, 2) if `unshuffled`, in the layout of x.
    """
    dtype = autocast_dtype(x.device.type)
    if dtype is not None and x.dtype != torch.float64:
        x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _OP(x, weight, bias, pad_mode, unshuffled)
    return y
