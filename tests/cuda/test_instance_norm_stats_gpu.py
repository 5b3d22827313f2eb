"""instance_norm_stats on a GPU: the CUDA C++ and Triton kernels, compared with float64."""

import pytest
import torch

from fastmunit import functional, reference
from fastmunit.ops.availability import unavailable
from fastmunit.testing import DTYPES, LAYOUTS, assert_as_exact_as, make_map

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("implementation", ["native", "triton"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 35, 7, 9), (1, 64, 256, 255), (0, 3, 4, 4)], ids=str)
def test_matches_float64(shape, layout, dtype, implementation):
    reason = unavailable(implementation, "cuda")
    if reason is not None:
        pytest.skip(reason)

    def run(function, x):
        x = x.detach().requires_grad_()
        mean, rstd = function(x)
        return mean.detach(), rstd.detach(), torch.autograd.grad((mean * 3 - rstd).sum(), x)[0]

    x = make_map(shape, dtype, layout, mean=0.5, std=2.0, device="cuda")
    ours = run(lambda x: functional.instance_norm_stats(x, 1e-5, implementation), x)
    low = run(reference.instance_norm_stats, x)
    exact = run(reference.instance_norm_stats, x.double())
    scale = float(x.double().abs().max()) if x.numel() else None
    assert_as_exact_as(ours[0], low[0], exact[0], "mean", scale=scale)
    assert_as_exact_as(ours[1], low[1], exact[1], "rstd")
    assert_as_exact_as(ours[2], low[2], exact[2], "dx")
