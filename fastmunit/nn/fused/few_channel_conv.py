"""Convolutions from or to a few channels, such as those of images, in the form that suits the device."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastmunit.functional.conv2d import conv2d
from fastmunit.nn.fused.block_conv import conv2d_few_in, conv2d_few_out
from fastmunit.nn.fused.iteration_cache import shared_weight
from fastmunit.nn.fused.padded_channel_conv import GROUP, conv2d_padded_channels
from fastmunit.nn.fused.weight_forms import as_product, product_dtype

_MAX_CHANNELS = 4  # of a convolution in blocks
# On CPUs with AMX, oneDNN of torch 2.14 returns wrong numbers for padded maps of 8 or 12 channels in bfloat16 and
# kernels of 8x8, such as those of the gradient of an image in blocks.
_MIN_OUTPUTS_IN_16_BITS = 16


def convolve(conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return `conv` of x with this bias or without one, computed in the form that is fastest on the device."""
    if needs_padded_channels(conv, x):
        return conv2d_padded_channels(x, conv.weight, bias, conv.stride, conv.padding)  # type: ignore[arg-type]
    x = as_product(x)
    if has_few_outputs(conv, x):
        return conv2d_few_out(x, conv.weight, bias)
    if has_few_inputs(conv, x):
        return conv2d_few_in(x, shared_weight(conv.weight), bias)
    weight = shared_weight(conv.weight)
    if conv.padding_mode == "zeros":
        return conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return conv._conv_forward(x, weight, bias)


def is_read_in_blocks(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Return True if `convolve` may read `conv.weight` in the form of `blocks_of`."""
    return _device_type(conv.weight) == "cpu" and conv.out_channels <= _MAX_CHANNELS and conv.kernel_size[0] >= 5


def has_few_outputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `conv2d_few_out` should compute `conv` of x."""
    return conv.out_channels <= _MAX_CHANNELS and _fits(conv, x, [n - k + 1 for n, k in _sizes(conv, x)])


def has_few_inputs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `conv2d_few_in` should compute `conv` of x, because of the gradient of x."""
    right = conv.out_channels >= _MIN_OUTPUTS_IN_16_BITS or product_dtype(x).itemsize > 2
    return x.requires_grad and right and conv.in_channels <= _MAX_CHANNELS and _fits(conv, x, x.shape[-2:])


def needs_padded_channels(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return True if `convolve` should pad channels: for products in 16 bits on a GPU with fewer than 8 channels."""
    few = min(conv.in_channels, conv.out_channels) < GROUP and conv.kernel_size != (1, 1)
    return few and conv.groups == 1 and _device_type(x) == "cuda" and product_dtype(x).itemsize == 2


def _sizes(conv: nn.Conv2d, x: Tensor) -> list[tuple[int, int]]:
    return list(zip(x.shape[-2:], conv.kernel_size, strict=True))


def _fits(conv: nn.Conv2d, x: Tensor, size: Any) -> bool:
    """Return True for stride 1, a large square kernel, and an even `size` of the map with few channels, on a CPU."""
    plain = (conv.stride, conv.dilation, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    square = conv.kernel_size[0] == conv.kernel_size[1] >= 5
    return plain and square and _device_type(x) == "cpu" and all(n > 0 and n % 2 == 0 for n in size)


def _device_type(tensor: Tensor) -> str:
    """Return the device type that decides about the form. `bench.dispatch` records the form of a GPU without one."""
    return tensor.device.type
