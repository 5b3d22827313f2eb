"""The Triton kernels of instance_norm_stats in Triton's interpreter; test_interpreter.py runs this file."""

import itertools

import pytest
import torch
from torch.library import opcheck

from fastmunit import functional, reference
from fastmunit.testing import DTYPES, assert_as_exact_as, make_map, uninitialized_memory_is_nan

FORWARD = torch.ops.fastmunit.instance_norm_stats_triton.default
BACKWARD = torch.ops.fastmunit.instance_norm_stats_backward_triton.default


def run(function, x):
    x = x.detach().requires_grad_()
    mean, rstd = function(x)
    return mean.detach(), rstd.detach(), torch.autograd.grad((mean * 3 - rstd).sum(), x)[0]


def cases():
    """Yield all shapes, layouts and dtypes. Of those that are not slow, each shape has each layout, with one dtype."""
    shapes, layouts = [(2, 3, 1, 2), (1, 33, 7, 3), (1, 2, 65, 67)], ["nchw", "channels_last", "sliced"]
    for i, j, k in itertools.product(range(len(shapes)), range(len(layouts)), range(len(DTYPES))):
        slow = k != (i + j) % len(DTYPES)
        marks = pytest.mark.slow if slow else []
        yield pytest.param(shapes[i], layouts[j], DTYPES[k], marks=marks, id=f"{shapes[i]}-{layouts[j]}-{DTYPES[k]}")


@pytest.mark.parametrize(("shape", "layout", "dtype"), list(cases()))
def test_matches_float64(shape, layout, dtype):
    x = make_map(shape, dtype, layout, mean=0.5, std=2.0)
    with uninitialized_memory_is_nan():
        ours = run(lambda x: functional.instance_norm_stats(x, 1e-5, "triton"), x)
    plain = run(reference.instance_norm_stats, x)
    exact = run(reference.instance_norm_stats, x.double())
    scale = float(x.double().abs().max())
    for name, result, low, high in zip(("mean", "rstd", "dx"), ours, plain, exact, strict=True):
        assert_as_exact_as(result, low, high, name, scale=scale if name == "mean" else None)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_mean_far_from_zero(layout):
    x = make_map((1, 3, 80, 81), torch.float32, layout, mean=1e4, std=1e-2)
    mean, rstd = functional.instance_norm_stats(x, implementation="triton")
    exact_mean, exact_rstd = reference.instance_norm_stats(x.double())
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1.2e-7, atol=0)
    torch.testing.assert_close(rstd.double(), exact_rstd, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype, layout):
    x = make_map((2, 3, 4, 5), dtype, layout)
    opcheck(FORWARD, (x.requires_grad_(), 1e-5))
    statistics = tuple(make_map((2, 3, 1, 1), seed=seed).flatten(1) for seed in range(4))
    opcheck(BACKWARD, (*statistics[:2], x.detach(), *statistics[2:]))


def test_gradcheck():
    x = make_map((1, 2, 2, 3), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: functional.instance_norm_stats(x, 1e-3, "triton"), x)


def test_empty():
    mean, rstd = functional.instance_norm_stats(make_map((0, 3, 4, 4)), implementation="triton")
    assert mean.shape == rstd.shape == (0, 3)
