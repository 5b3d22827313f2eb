"""The CUDA launchers of instance_norm_stats on the emulator, against float64."""

import pytest
import torch

from fastmunit import reference
from fastmunit.testing import DTYPES, assert_as_exact_as, make_map
from tests.cuda.emulated import SCHEDULES, emulate, name_of


def check(shape, dtype, layout, **options):
    x = make_map(shape, dtype, layout, mean=0.5, std=2.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    dmean, drstd = (make_map((*shape[:2], 1, 1), wide, seed=seed).flatten(1) for seed in (1, 2))

    def plain(x):
        x = x.detach().requires_grad_()
        mean, rstd = reference.instance_norm_stats(x)
        gradients = (dmean.to(mean.dtype), drstd.to(mean.dtype))
        return mean.detach(), rstd.detach(), torch.autograd.grad((mean, rstd), x, gradients)[0]

    values = {"batch": shape[0], "channels": shape[1], "pixels": shape[2] * shape[3], "eps": 1e-5}
    texts = {"dtype": name_of(dtype), "layout": layout}
    mean, rstd = (torch.empty(shape[:2], dtype=wide) for _ in range(2))
    dx = torch.empty_like(x)
    emulate("instance_norm_stats", values, texts, {"x": x}, {"mean": mean, "rstd": rstd}, **options)
    inputs = {"x": x, "dmean": dmean, "drstd": drstd, "mean": mean, "rstd": rstd}
    emulate("instance_norm_stats", values, {**texts, "pass": "backward"}, inputs, {"dx": dx}, **options)
    low, exact = plain(x), plain(x.double())
    assert_as_exact_as(mean, low[0], exact[0], "mean", scale=float(x.double().abs().max()))
    assert_as_exact_as(rstd, low[1], exact[1], "rstd")
    assert_as_exact_as(dx, low[2], exact[2], "dx")


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*(((2, 3, 7, 9), dtype) for dtype in DTYPES), ((1, 2, 91, 92), torch.float32), ((1, 35, 9, 16), torch.float32)],
    ids=str,
)
def test_matches_float64(shape, dtype, layout):
    check(shape, dtype, layout)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_threads_may_run_in_any_order(layout, schedule):
    check((1, 35, 17, 19), torch.bfloat16, layout, schedule=schedule)
