"""Contract of `upsample_conv2d` and of its backward, which torch's convolutions compute on any device."""

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
# What is not wanted is empty.
_BACKWARD_SCHEMA = (
    "(Tensor dy, Tensor x, Tensor weight, str pad_mode, bool unshuffled, bool[] wanted) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)"
)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
    n, _, h, w = x.shape
    o = weight.shape[0]
    shape = (n, 4 * o, h, w) if unshuffled else (n, o, 2 * h, 2 * w)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=dense_format(x))


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, pad_mode: str, unshuffled: bool, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=dense_format(x)) if wanted[0] else x.new_empty(0),
        torch.empty_like(weight, memory_format=torch.contiguous_format) if wanted[1] else weight.new_empty(0),
        x.new_empty(weight.shape[0]) if wanted[2] else x.new_empty(0),
    )


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
    if x.shape[0] == 0:
        return _fake(x, weight, bias, pad_mode, unshuffled)
    with torch.autocast(x.device.type, enabled=False):
        y = convolve(x, weight, bias, pad_mode, unshuffled)
    return y.contiguous(memory_format=dense_format(x))


def _run_backward(
    dy: Tensor, x: Tensor, weight: Tensor, pad_mode: str, unshuffled: bool, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    if x.shape[0] == 0:
        dx, dweight, dbias = _backward_fake(dy, x, weight, pad_mode, unshuffled, wanted)
        return dx, dweight.zero_(), dbias.zero_()
    with torch.autocast(x.device.type, enabled=False):
        gradients = convolve_backward(dy, x, weight, pad_mode, unshuffled, (wanted[0], wanted[1], wanted[2]))
    dx, dweight, dbias = (x.new_empty(0) if gradient is None else gradient for gradient in gradients)
    if wanted[0]:
        dx = dx.contiguous(memory_format=dense_format(x))
    # Whatever the layout of weight: a compiler may give it another one than it was traced with.
    return dx, dweight.contiguous() if wanted[1] else weight.new_empty(0), dbias


# The one implementation has the name without a suffix.
_OP, _BACKWARD_OP = library.define_with_backward(
    "upsample_conv2d", "native", _SCHEMA, _fake, _BACKWARD_SCHEMA, _backward_fake
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
        wanted = ctx.needs_input_grad[:3]
        gradients = _BACKWARD_OP(dy, x, weight, ctx.pad_mode, ctx.unshuffled, wanted)
        return *(gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)), None, None


library.autograd("upsample_conv2d", _UpsampleConv2d)


@register_flop_formula(torch.ops.fastmunit.upsample_conv2d)
def _flops(x: Sequence[int], weight: Sequence[int], bias: Any, pad_mode: str, unshuffled: bool, **_: Any) -> int:
    """What torch's counter is to count: the convolutions and products of the op, run without data."""
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
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    tensors = _without_data(dy), _without_data(x), _without_data(weight)
    with FlopCounterMode(display=False) as counter:
        convolve_backward(*tensors, pad_mode, unshuffled, (wanted[0], wanted[1], wanted[2]))
    return counter.get_total_flops()


def _without_data(shape: Sequence[int]) -> Tensor:
    return torch.empty(*shape, device="meta")


def upsample_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
    """Convolution of the upsampled map; see `fastmunit.functional.upsample_conv2d`.

    Under autocast it takes what a convolution would, but sums the taps of weight before they are rounded.

    Args:
        x: (N, C, H, W), any strides.
        weight: (O, C, k, k), k odd and at least 3.
        bias: (O,) or absent.
        pad_mode: "reflect", "replicate" or "zero".
        unshuffled: Whether the result is to be (N, 4 O, H, W), with channels (O, 2, 2), instead of (N, O, 2 H, 2 W).

    Returns:
        The result, in the layout of x.
    """
    dtype = autocast_dtype(x.device.type)
    if dtype is not None and x.dtype != torch.float64:
        x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _OP(x, weight, bias, pad_mode, unshuffled)
    return y
