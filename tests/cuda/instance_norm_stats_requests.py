"""Run the emulated CUDA launchers of instance_norm_stats on tensors and compare them with float64."""

import torch
from torch import Tensor

from fastmunit import reference
from fastmunit.testing import assert_as_exact_as, make_map
from tests.cuda.emulated import Reply, emulate, name_of


def _request(x: Tensor) -> tuple[dict, dict]:
    n, c, h, w = x.shape
    layout = "nchw" if x.is_contiguous() else "channels_last"
    return {"batch": n, "channels": c, "pixels": h * w, "eps": 1e-5}, {"dtype": name_of(x.dtype), "layout": layout}


def forward(x: Tensor, **options) -> tuple[Tensor, Tensor, Reply]:
    """Return mean, rstd and the reply."""
    values, texts = _request(x)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, rstd = (torch.empty(x.shape[:2], dtype=dtype) for _ in range(2))
    reply = emulate("instance_norm_stats", values, texts, {"x": x}, {"mean": mean, "rstd": rstd}, **options)
    return mean, rstd, reply


def backward(dmean: Tensor, drstd: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, **options) -> tuple[Tensor, Reply]:
    """Return the gradient with respect to x and the reply."""
    values, texts = _request(x)
    inputs = {"x": x, "dmean": dmean, "drstd": drstd, "mean": mean, "rstd": rstd}
    dx = torch.empty_like(x)
    return dx, emulate("instance_norm_stats", values, {**texts, "pass": "backward"}, inputs, {"dx": dx}, **options)


def check(shape, dtype, layout, **options):
    """Compare forward and backward with float64."""
    x = make_map(shape, dtype, layout, mean=0.5, std=2.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    dmean, drstd = (make_map((*shape[:2], 1, 1), wide, seed=seed).flatten(1) for seed in (1, 2))

    def plain(x):
        x = x.detach().requires_grad_()
        mean, rstd = reference.instance_norm_stats(x)
        gradients = (dmean.to(mean.dtype), drstd.to(mean.dtype))
        return mean.detach(), rstd.detach(), torch.autograd.grad((mean, rstd), x, gradients)[0]

    mean, rstd, _ = forward(x, **options)
    dx, _ = backward(dmean, drstd, x, mean, rstd, **options)
    low, exact = plain(x), plain(x.double())
    assert_as_exact_as(mean, low[0], exact[0], "mean", scale=float(x.double().abs().max()))
    assert_as_exact_as(rstd, low[1], exact[1], "rstd")
    assert_as_exact_as(dx, low[2], exact[2], "dx")
