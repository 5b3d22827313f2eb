"""The Triton kernels in ttsem's simulator. tests/kernels/test_simulator.py runs this file.

Unlike Triton's interpreter, the simulator runs the output of Triton's compiler, rounds to bfloat16 correctly, and fails
on out-of-bounds accesses and on races between programs.
"""

import pytest
import torch

from fastmunit import functional
from fastmunit.testing import assert_as_exact_as, make_map
from tests.ops.fused_norm_cases import eager

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# A plane in one tile, in several tiles, in several tiles of several channels; pixel_shuffle; odd sizes.
NORMS = [
    ("nchw", (2, 3, 7, 9), "instance", "reflect", 2, False, torch.bfloat16),
    ("nchw", (1, 2, 90, 70), "instance", "reflect", 1, False, torch.bfloat16),
    ("nchw", (1, 2, 65, 33), "layer", "replicate", 3, False, torch.float32),
    ("nchw", (2, 2, 12, 18), "none", "zero", 1, True, torch.float16),
    ("channels_last", (2, 3, 7, 9), "instance", "replicate", 1, False, torch.float16),
    ("channels_last", (1, 70, 18, 19), "instance", "reflect", 1, False, torch.bfloat16),
    ("channels_last", (1, 5, 18, 34), "layer", "reflect", 3, True, torch.bfloat16),
    ("channels_last", (2, 33, 5, 6), "none", "reflect", 1, False, torch.float32),
]


def results(function, tensors, upstream, statistics, mode, pad, pixel_shuffle):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    x, weight, bias, residual = leaves
    padded, interior = function(
        x, weight, bias, statistics=statistics, activation="leaky_relu", residual=residual, pad=pad, pad_mode=mode,
        pixel_shuffle=pixel_shuffle,
    )  # fmt: skip
    upstream = [dy.to(padded.dtype) for dy in upstream]
    return [padded.detach(), *torch.autograd.grad([padded, interior], leaves, upstream)]


@pytest.mark.parametrize(("layout", "shape", "statistics", "mode", "pad", "pixel_shuffle", "dtype"), NORMS)
def test_fused_norm(layout, shape, statistics, mode, pad, pixel_shuffle, dtype):
    n, c, h, w = shape
    x = make_map(
        (n, 4 * c, h // 2, w // 2) if pixel_shuffle else shape, dtype, layout, mean=0.5, std=2.0, device="cuda"
    )
    weight, bias = (make_map((n, c, 1, 1), seed=seed, device="cuda").flatten(1) for seed in (1, 2))
    residual = make_map(shape, dtype, "sliced", seed=3, device="cuda")
    upstream = [
        make_map((n, c, h + 2 * pad, w + 2 * pad), dtype, "transposed", seed=4, device="cuda"),
        make_map(shape, dtype, "sliced", seed=5, device="cuda"),
    ]
    tensors, options = (x, weight, bias, residual), (statistics, mode, pad, pixel_shuffle)

    def triton(*args, **kwargs):
        return functional.fused_norm(*args, **kwargs, implementation="triton")

    ours = results(triton, tensors, upstream, *options)
    plain = results(eager, tensors, upstream, *options)
    exact = results(eager, [t.double() for t in tensors], upstream, *options)
    terms = float(upstream[0].double().abs().sum((2, 3)).max())
    scales = {"dweight": 4 * terms, "dbias": terms}
    for name, *values in zip(("padded", "dx", "dweight", "dbias", "dresidual"), ours, plain, exact, strict=True):
        assert_as_exact_as(*values, name, scale=scales.get(name))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weighted_l1(dtype):
    shapes = [(1, 3, 45, 64), (2, 3, 5, 7), (1, 1, 1, 1)]
    inputs, targets = ([make_map(s, dtype, seed=k + a, device="cuda") for k, s in enumerate(shapes)] for a in (0, 9))

    def run(implementation, dtype):
        tensors = [x.to(dtype).detach().requires_grad_() for x in (*inputs, *targets)]
        values, total = functional.weighted_l1(tensors[:3], tensors[3:], [10.0, 1.0, -1.0], implementation)
        return [values.detach(), total.detach(), *torch.autograd.grad(total + values.sum(), tensors)]

    for values in zip(run("triton", dtype), run("reference", dtype), run("reference", torch.float64), strict=True):
        assert_as_exact_as(*values)


@pytest.mark.parametrize(("gan_type", "dtype"), [*zip(("lsgan", "nsgan", "hinge"), DTYPES, strict=True)], ids=str)
def test_gan_loss(gan_type, dtype):
    shapes, targets = [(4, 1, 21, 23), (2, 3, 5, 7), (1, 1, 1, 1)], ["fake_real", "fake", "generator"]
    maps = [make_map(s, dtype, seed=k, device="cuda") for k, s in enumerate(shapes)]

    def run(implementation, dtype):
        leaves = [x.to(dtype).detach().requires_grad_() for x in maps]
        values, total = functional.gan_loss(leaves, targets, [10.0, 1.0, -1.0], gan_type, implementation)
        return [values.detach(), total.detach(), *torch.autograd.grad(total + values.sum(), leaves)]

    for values in zip(run("triton", dtype), run("reference", dtype), run("reference", torch.float64), strict=True):
        assert_as_exact_as(*values)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 35, 7, 9), (1, 2, 90, 70)], ids=str)
def test_instance_norm_stats(shape, layout):
    x = make_map(shape, torch.bfloat16, layout, mean=0.5, std=2.0, device="cuda")

    def run(implementation, dtype):
        leaf = x.to(dtype).detach().requires_grad_()
        mean, rstd = functional.instance_norm_stats(leaf, 1e-5, implementation)
        return mean.detach(), rstd.detach(), *torch.autograd.grad((mean * 3 - rstd).sum(), leaf)

    results = zip(run("triton", x.dtype), run("reference", x.dtype), run("reference", torch.float64), strict=True)
    for values in results:
        assert_as_exact_as(*values, scale=float(x.abs().max()))
