"""instance_norm_stats on the maps of a MUNIT step at 256²."""

import pytest
import torch
from harness import DEVICE, Comparison

from fastmunit import functional, reference
from fastmunit.testing import BATCHES, make_map, munit_maps

SHAPES = sorted({(m.channels, m.height, m.width) for m in munit_maps() if m.statistics == "instance"})


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


cases = pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        pytest.param((batch, *shape), dtype, layout, id=f"{(batch, *shape)}-{layout}-{name_of(dtype)}")
        for dtype in (torch.float32, torch.bfloat16)
        for layout in ("nchw", "channels_last")
        for batch in BATCHES
        for shape in SHAPES
    ],
)


@cases
def bench_forward(compare, shape, dtype, layout):
    x = make_map(shape, dtype, layout, device=DEVICE)
    wide = x.double()
    compiled = torch.compile(reference.instance_norm_stats, dynamic=False)
    compare(
        Comparison(
            op="instance_norm_stats forward",
            case=f"{shape} {layout} {name_of(dtype)}",
            group=name_of(dtype),
            ours=lambda: functional.instance_norm_stats(x),
            reference=lambda: reference.instance_norm_stats(x),
            exact=lambda: reference.instance_norm_stats(wide),
            compiled=lambda: compiled(x),
            bytes_moved=x.numel() * x.element_size(),
            scales=(float(wide.abs().max()), None),
        )
    )
    torch.compiler.reset()


@cases
def bench_forward_backward(compare, shape, dtype, layout):
    x = make_map(shape, dtype, layout, device=DEVICE).requires_grad_()
    wide = x.detach().double().requires_grad_()
    dmean = make_map((*shape[:2], 1, 1), seed=1, device=DEVICE).flatten(1)
    drstd = make_map((*shape[:2], 1, 1), seed=2, device=DEVICE).flatten(1)

    def gradient(function, x, dtype=torch.float32):
        return torch.autograd.grad(function(x), x, (dmean.to(dtype), drstd.to(dtype)))

    compiled = torch.compile(reference.instance_norm_stats, dynamic=False)
    compare(
        Comparison(
            op="instance_norm_stats forward+backward",
            case=f"{shape} {layout} {name_of(dtype)}",
            group=name_of(dtype),
            ours=lambda: gradient(functional.instance_norm_stats, x),
            reference=lambda: gradient(reference.instance_norm_stats, x),
            exact=lambda: gradient(reference.instance_norm_stats, wide, torch.float64),
            compiled=lambda: gradient(compiled, x),
            bytes_moved=3 * x.numel() * x.element_size(),
        )
    )
    torch.compiler.reset()
