"""instance_norm_stats on the maps of a MUNIT step at 256²."""

import pytest
import torch

from bench.problems import instance_norm_stats_problem, name_of
from fastmunit.testing import BATCHES, munit_maps

SHAPES = sorted({(m.channels, m.height, m.width) for m in munit_maps() if m.statistics == "instance"})

cases = pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        pytest.param(
            (batch, *shape),
            dtype,
            layout,
            id=f"{(batch, *shape)}-{layout}-{name_of(dtype)}",
            # As a check, one image suffices: the op treats those of a batch alike.
            marks=[pytest.mark.slow] if batch > 1 else [],
        )
        for dtype in (torch.float32, torch.bfloat16)
        for layout in ("nchw", "channels_last")
        for batch in BATCHES
        for shape in SHAPES
    ],
)


@cases
def bench_forward(compare, shape, dtype, layout):
    compare(instance_norm_stats_problem(shape, dtype, layout, backward=False).comparison())
    torch.compiler.reset()


@cases
def bench_forward_backward(compare, shape, dtype, layout):
    compare(instance_norm_stats_problem(shape, dtype, layout, backward=True).comparison())
    torch.compiler.reset()
