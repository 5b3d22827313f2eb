"""upsample_conv2d on the up blocks of MUNIT's decoder at 256²: 256 to 128 channels at 64², 128 to 64 at 128²."""

from functools import partial

import pytest
import torch

from bench.harness import Comparison
from bench.problems import name_of
from fastmunit import functional, reference
from fastmunit.testing import BATCHES, make_map

BLOCKS = ((256, 128, 64), (128, 64, 128))
KERNEL_SIZE = 5


def compare_forward_backward(compare, shrink, unshuffled, block, batch, layout, dtype):
    channels, outputs, size = block
    size //= shrink
    fan_in = channels * KERNEL_SIZE**2
    inputs = (
        make_map((batch, channels, size, size), dtype, layout, seed=0),
        make_map((outputs, channels, KERNEL_SIZE, KERNEL_SIZE), dtype, std=fan_in**-0.5, seed=1),
        make_map((1, outputs, 1, 1), dtype, seed=2).flatten(),
    )
    ours, plain = (partial(module.upsample_conv2d, unshuffled=unshuffled) for module in (functional, reference))
    with torch.no_grad():
        shape = tuple(ours(*inputs).shape)
    dy = make_map(shape, dtype, layout, seed=3)

    def run(function, *inputs, dy=dy):
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = function(*inputs)
        return y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))

    scales = None
    if dtype == torch.float32:
        # These are sums of thousands of terms that cancel, so errors are relative to the size of the terms: torch adds
        # the terms of a 3 x 3 convolution in channels_last sequentially, with two to three times the rounding error of
        # its 5 x 5 convolution.
        scales = tuple(float(terms.max()) for terms in run(plain, *(t.abs() for t in inputs), dy=dy.abs()))
    compiled = torch.compile(plain, dynamic=False)
    compare(
        Comparison(
            op=f"upsample_conv2d{' unshuffled' * unshuffled} forward+backward",
            case=f"{batch} x {channels} to {outputs}, {size}² {layout} {name_of(dtype)}",
            group=name_of(dtype),
            ours=lambda: run(ours, *inputs),
            reference=lambda: run(plain, *inputs),
            exact=lambda: run(plain, *(t.double() for t in inputs)),
            compiled=lambda: run(compiled, *inputs),
            bytes_moved=2 * (inputs[0].numel() + dy.numel()) * dy.element_size(),
            scales=scales,
        )
    )
    torch.compiler.reset()


cases = pytest.mark.parametrize(
    ("block", "batch", "layout", "dtype"),
    [
        pytest.param(
            block,
            batch,
            layout,
            dtype,
            id=f"{batch}-{block[0]}-{layout}-{name_of(dtype)}",
            # As a check, two of the four combinations of layout and dtype suffice.
            marks=[pytest.mark.slow] if batch > 1 or (layout == "nchw") != (dtype == torch.float32) else [],
        )
        for dtype in (torch.float32, torch.bfloat16)
        for layout in ("nchw", "channels_last")
        for batch in BATCHES
        for block in BLOCKS
    ],
)


@cases
def bench_forward_backward(compare, shrink, block, batch, layout, dtype):
    compare_forward_backward(compare, shrink, False, block, batch, layout, dtype)


@cases
def bench_unshuffled_forward_backward(compare, shrink, block, batch, layout, dtype):
    """Time the form that the networks call: fused_norm applies the pixel shuffle when it writes."""
    compare_forward_backward(compare, shrink, True, block, batch, layout, dtype)
