"""fused_norm on the maps of a MUNIT step at 256²."""

import pytest
import torch

from bench.problems import FusedNormCase, name_of
from fastmunit.testing import BATCHES, munit_maps


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


def compare_op(compare, name, shape, dtype, layout, statistics, *, backward, parameters=(None, None)):
    """Compare a pass of fused_norm with relu and pad 1 with its reference."""
    options = {"statistics": statistics, "activation": "relu", "pad": 1}
    compare(FusedNormCase(name, shape, dtype, layout, options, backward, parameters).problem().comparison())
    torch.compiler.reset()


@cases("instance")
def bench_instance_forward(compare, shape, dtype, layout):
    compare_op(compare, "instance + relu + pad", shape, dtype, layout, "instance", backward=False)


@cases("instance")
def bench_instance_forward_backward(compare, shape, dtype, layout):
    compare_op(compare, "instance + relu + pad", shape, dtype, layout, "instance", backward=True)


@cases("layer")
def bench_layer_forward_backward(compare, shape, dtype, layout):
    name, channels = "MUNIT layer norm + relu + pad", (shape[1],)
    compare_op(compare, name, shape, dtype, layout, "layer", backward=True, parameters=(channels, channels))
