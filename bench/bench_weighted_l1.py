"""weighted_l1 over the six pairs of a MUNIT step at 256²: images, content codes and style codes of both domains."""

import pytest
import torch

from bench.problems import L1_SHAPES, name_of, weighted_l1_problem
from fastmunit.testing import BATCHES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("batch", [pytest.param(n, marks=[pytest.mark.slow] if n > 1 else []) for n in BATCHES])
def bench_forward_backward(compare, batch, layout, dtype):
    compare(weighted_l1_problem(L1_SHAPES, batch, dtype, layout).comparison())
    torch.compiler.reset()
