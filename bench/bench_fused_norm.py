"""fused_norm on the maps of a MUNIT step at 256²: norm, activation, residual and the next convolution's pad."""

import pytest
import torch
from harness import DEVICE, Comparison

from fastmunit import functional, reference
from fastmunit.testing import BATCHES, make_map, munit_maps


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def shapes(statistics: str) -> list[tuple[int, int, int]]:
    return sorted({(m.channels, m.height, m.width) for m in munit_maps() if m.statistics == statistics})


def cases(statistics: str):
    return pytest.mark.parametrize(
        ("shape", "dtype", "layout"),
        [
            pytest.param(
                (batch, *shape),
                dtype,
                layout,
                id=f"{(batch, *shape)}-{layout}-{name_of(dtype)}",
                marks=[pytest.mark.slow] if batch > 1 else [],
            )
            for dtype in (torch.float32, torch.bfloat16)
            for layout in ("nchw", "channels_last")
            for batch in BATCHES
            for shape in shapes(statistics)
        ],
    )


def compare_op(compare, op, shape, dtype, layout, statistics, *, backward, weight=None, bias=None):
    """Compare one pass of fused_norm + relu + pad 1 with its reference."""
    n, c, h, w = shape
    x = make_map(shape, dtype, layout, device=DEVICE)
    wide = x.double()
    upstream = make_map((n, c, h + 2, w + 2), dtype, layout, seed=1, device=DEVICE)
    options = {"statistics": statistics, "activation": "relu", "pad": 1}

    def run(function, x):
        double = x.dtype == torch.float64
        parameters = [None if p is None else p.double() if double else p for p in (weight, bias)]
        if not backward:
            with torch.no_grad():
                return [function(x, *parameters, **options)[0]]
        x = x.detach().requires_grad_()
        padded = function(x, *parameters, **options)[0]
        return [padded.detach(), *torch.autograd.grad(padded, x, upstream.to(x.dtype))]

    def padded_reference(x, weight, bias, **options):
        return reference.fused_norm(x, weight, bias, **options)

    compiled = torch.compile(padded_reference, dynamic=False)
    element = x.element_size()
    moved = (x.numel() + upstream.numel()) * element
    compare(
        Comparison(
            op=op,
            case=f"{shape} {layout} {name_of(dtype)}",
            group=name_of(dtype),
            ours=lambda: run(functional.fused_norm, x),
            reference=lambda: run(reference.fused_norm, x),
            exact=lambda: run(reference.fused_norm, wide),
            compiled=lambda: run(compiled, x),
            bytes_moved=moved if not backward else 2 * moved + x.numel() * element,
        )
    )
    torch.compiler.reset()


@cases("instance")
def bench_instance_forward(compare, shape, dtype, layout):
    compare_op(compare, "instance + relu + pad forward", shape, dtype, layout, "instance", backward=False)


@cases("instance")
def bench_instance_forward_backward(compare, shape, dtype, layout):
    compare_op(compare, "instance + relu + pad forward+backward", shape, dtype, layout, "instance", backward=True)


@cases("layer")
def bench_layer_forward_backward(compare, shape, dtype, layout):
    weight, bias = torch.rand(shape[1], device=DEVICE), torch.zeros(shape[1], device=DEVICE)
    op = "MUNIT layer norm + relu + pad forward+backward"
    compare_op(compare, op, shape, dtype, layout, "layer", backward=True, weight=weight, bias=bias)
