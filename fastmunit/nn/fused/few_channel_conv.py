"""Convolutions from or to a few channels, such as those of images, in the form that suits the device.

A convolution to three channels leaves most of a CPU's vector registers empty. There, this module computes it in blocks
of 2x2 pixels: with stride 2 to four times the channels, one for each pixel of a block. That takes (1 + 1/k)² times the
products and a third to half of the time. Decoders do this forward, and first layers backward.

A GPU's matrix units read low-precision channels in groups of eight. There, channels are padded with zeros.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.functional import autocast_dtype
from fastmunit.nn.fused.iteration_cache import shared_image, shared_values, shared_weight

_MAX_CHANNELS = 4
_GROUP = 8  # channels that a GPU's matrix units read together in float16 and bfloat16


def convolve(conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return `conv` of x with this bias or without one, computed in the form that is fastest on the device."""
    if needs_padded_channels(conv, x):
        return _convolve_with_padded_channels(conv, x, bias)
    x = as_product(x)
    if has_few_outputs(conv, x):
        return conv2d_few_out(x, conv.weight, bias)
    if has_few_inputs(conv, x):
        return conv2d_few_in(x, shared_weight(conv.weight), bias)
    return conv._conv_forward(x, shared_weight(conv.weight), bias)


def as_product(x: Tensor) -> Tensor:
    """Return x in its `product_dtype`. Autocast would convert an image for each convolution."""
    dtype = product_dtype(x)
    return x if x.dtype == dtype else shared_image(x, "cast", lambda: x.to(dtype))


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype to which autocast, if it is active, converts x for a convolution."""
    dtype = autocast_dtype(x.device.type)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


def _device_type(tensor: Tensor) -> str:
    """Return the device type that decides about the form. `bench.dispatch` records the form of a GPU without one."""
    return tensor.device.type


# --- Blocks of 2x2 pixels on a CPU ------------------------------------------------------------------------------------


def is_read_in_blocks(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Return True if `convolve` may read `conv.weight` in the form of `blocks_of`."""
    return _device_type(conv.weight) == "cpu" and conv.out_channels <= _MAX_CHANNELS and conv.kernel_size[0] >= 5


def has_few_outputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `conv2d_few_out` should compute `conv` of x."""
    return conv.out_channels <= _MAX_CHANNELS and _fits(conv, x, [n - k + 1 for n, k in _sizes(conv, x)])


def has_few_inputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `conv2d_few_in` should compute `conv` of x, because of the gradient of x."""
    return x.requires_grad and conv.in_channels <= _MAX_CHANNELS and _fits(conv, x, x.shape[-2:])


def conv2d_few_out(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """Return conv2d(x, weight, bias, padding=padding) with stride 1, computed in blocks of 2x2 pixels.

    Args:
        x: (N, C, H + k - 1 - 2 padding, W + k - 1 - 2 padding), with even H and W.
        weight: (O, C, k, k).
        bias: (O,) or None.
        padding: Number of zeros around x.

    Returns:
        (N, O, H, W).
    """
    return _convolve_blocks(x, blocks_of(weight), bias, padding)


def blocks_of(weight: Tensor) -> Tensor:
    """Return the kernel (O, C, k, k) with one more tap, shifted by 0 or 1 along each axis: (4 O, C, k + 1, k + 1).

    Its channels are (O, 2, 2), as pixel_shuffle reads them. Under autocast, the result has the dtype of products.
    """
    dtype = product_dtype(weight)
    if torch.compiler.is_compiling():
        return _shifted(weight, dtype)
    values = shared_values(weight, "blocks", lambda: _shifted(weight, dtype))
    blocks: Tensor = _Blocks.apply(weight, values)
    return blocks


def _shifted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    k = weight.shape[-1]
    padded = F.pad(weight, (1, 1, 1, 1))
    shifted = [padded[:, :, y : y + k + 1, x : x + k + 1] for y in (1, 0) for x in (1, 0)]
    return torch.stack(shifted, dim=1).to(dtype).flatten(0, 1)


class _Blocks(torch.autograd.Function):
    """The derivative of `blocks_of`, whose result has been computed before."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, blocks: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        return blocks.detach()

    @staticmethod
    def backward(ctx: Any, dblocks: Tensor) -> tuple[Tensor, None]:
        o, c, k, _ = ctx.shape
        dblocks = dblocks.unflatten(0, (o, 2, 2))
        kernel, down, right, channel, row, column = dblocks.stride()
        strides = (kernel, down + row, right + column, channel, row, column)
        # Tap (i, j) of the weight is tap (i + down, j + right) of the block that is shifted by (down, right).
        return dblocks.as_strided((o, 2, 2, c, k, k), strides).sum((1, 2), dtype=ctx.dtype), None


def _convolve_blocks(x: Tensor, blocks: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    biases = None if bias is None else bias.repeat_interleave(4)
    return F.pixel_shuffle(F.conv2d(x, blocks, biases, stride=2, padding=padding), 2)


def conv2d_few_in(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return conv2d(x, weight, bias) with stride 1, whose backward computes the gradient of x with `conv2d_few_out`.

    Args:
        x: (N, C, H, W), with even H and W.
        weight: (O, C, k, k).
        bias: (O,) or None.
    """
    dtype = product_dtype(x)
    y: Tensor = _FewInputs.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    return y


class _FewInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else [len(bias)]
        return F.conv2d(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        adjoint = weight.flip(2, 3).transpose(0, 1)
        dx = conv2d_few_out(dy, adjoint, None, weight.shape[-1] - 1) if ctx.needs_input_grad[0] else None
        dweight, dbias = None, None
        if any(ctx.needs_input_grad[1:]):
            wants = [False, *ctx.needs_input_grad[1:]]
            _, dweight, dbias = torch.ops.aten.convolution_backward(
                dy, x, weight, ctx.bias_sizes, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wants
            )
        return dx, dweight, dbias


def _sizes(conv: nn.Conv2d, x: Tensor) -> list[tuple[int, int]]:
    return list(zip(x.shape[-2:], conv.kernel_size, strict=True))


def _fits(conv: nn.Conv2d, x: Tensor, size: Any) -> bool:
    """Return True for stride 1, a large square kernel, and an even `size` of the map with few channels, on a CPU."""
    plain = (conv.stride, conv.dilation, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    square = conv.kernel_size[0] == conv.kernel_size[1] >= 5
    return plain and square and _device_type(x) == "cpu" and all(n > 0 and n % 2 == 0 for n in size)


# --- Padded channels on a GPU -----------------------------------------------------------------------------------------


def needs_padded_channels(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `convolve` should pad channels: for products in 16 bits on a GPU with fewer than 8 channels."""
    few = min(conv.in_channels, conv.out_channels) < _GROUP and conv.kernel_size != (1, 1)
    return few and conv.groups == 1 and _device_type(x) == "cuda" and product_dtype(x).itemsize == 2


def conv2d_padded_channels(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return conv2d(x, weight, bias), computed with numbers of channels that are multiples of 8.

    Args:
        x: (N, C, H, W).
        weight: (O, C, k, k).
        bias: (O,) or None.
        stride: Stride of the convolution.
        padding: Zeros around x, on each side.
    """
    return _padded_conv2d(_padded_map(x), _padded_weight(weight), bias, len(weight), stride, padding)


def _convolve_with_padded_channels(conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    image = x
    x = shared_image(image, "padded channels", lambda: _padded_map(image))
    return _padded_conv2d(x, _padded_weight(conv.weight), bias, conv.out_channels, conv.stride, conv.padding)


def _padded_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, channels: int, stride: Any, padding: Any) -> Tensor:
    if bias is not None:
        bias = F.pad(bias, (0, len(weight) - channels))
    return F.conv2d(x, weight, bias, stride, padding)[:, :channels]


def _padded_map(x: Tensor) -> Tensor:
    if x.shape[1] % _GROUP == 0:
        return x.to(product_dtype(x))
    y: Tensor = _PadChannels.apply(x, _with_zeros(x.detach(), len(x), _rounded_up(x.shape[1]), product_dtype(x)))
    return y


def _padded_weight(weight: Tensor) -> Tensor:
    (o, c), dtype = (_rounded_up(size) for size in weight.shape[:2]), product_dtype(weight)
    low = shared_weight(weight)  # whose gradient is converted together with those of the other weights
    values = shared_values(weight, "padded channels", lambda: _with_zeros(low, o, c, dtype))
    y: Tensor = _PadChannels.apply(low, values)
    return y


def _rounded_up(channels: int) -> int:
    return -(-channels // _GROUP) * _GROUP


class _PadChannels(torch.autograd.Function):
    """The derivative of `_with_zeros`, whose result has been computed before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padded: Tensor) -> Tensor:
        ctx.sizes, ctx.dtype, ctx.memory_format = x.shape[:2], x.dtype, _memory_format(x)
        return padded.detach()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        n, c = ctx.sizes
        # Dense like x: foreach ops copy gradients with other strides than their weights one by one.
        return dy[:n, :c].to(ctx.dtype).contiguous(memory_format=ctx.memory_format), None


def _memory_format(x: Tensor) -> torch.memory_format:
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _with_zeros(x: Tensor, first: int, second: int, dtype: torch.dtype) -> Tensor:
    """Return x with zeros up to the sizes `first` and `second` of its first dimensions, in channels_last."""
    shape = (first, second, *x.shape[2:])
    padded = torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last).zero_()
    padded[: len(x), : x.shape[1]].copy_(x)
    return padded
