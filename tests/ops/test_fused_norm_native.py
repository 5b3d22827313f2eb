"""The native kernel of fused_norm: paths of its vector code, rounding, raw results of the op, and no copies of maps.

test_simd.py repeats the tests of vector code for every instruction set.
"""

from dataclasses import replace

import pytest
import torch
import torch._dynamo.testing

from fastmunit import functional
from fastmunit.ops.availability import unavailable
from fastmunit.testing import assert_same_nonfinite, make_map
from tests.ops.fused_norm_cases import Case, check, eager, gradients, inputs, native, run, sampled_cases

REASON = unavailable("native", "cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

FORWARD = torch.ops.fastmunit.fused_norm.default
BACKWARD = torch.ops.fastmunit.fused_norm_backward.default
SIMPLE = Case(shape=(2, 19, 9, 35))
both_layouts = pytest.mark.parametrize("layout", ["nchw", "channels_last"])


@pytest.mark.parametrize("case", sampled_cases(30, seed=1), ids=Case.id)
def test_sample_for_each_instruction_set(case):
    check(case, inputs(case))


@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("pad", [1, 2, 3])
@pytest.mark.parametrize("width", [4, 5, 8, 15, 16, 17, 19, 20, 32, 33, 36])
@both_layouts
def test_pads_at_vector_ends(layout, width, pad, pad_mode):
    """The source pixels of the pad are in one vector, in two vectors, or in the rest of a row."""
    case = replace(SIMPLE, shape=(1, 2, 7, width), layout=layout, pad=pad, pad_mode=pad_mode)
    check(case, inputs(case))


@both_layouts
def test_mean_that_differs_within_a_plane(layout):
    """The first rows are constant and far from the other values, so they give a poor first estimate of the mean."""
    case = replace(SIMPLE, shape=(1, 20, 256, 64), layout=layout)
    tensors = inputs(case, mean=1e4, std=1e-2)
    tensors[0][:, :, :200] = 0.0
    check(case, tensors)


@both_layouts
def test_nonfinite_gradients_stay_where_they_are(layout):
    case = replace(SIMPLE, layout=layout, statistics="none", coefficients=(1, 0))
    tensors = inputs(case)
    upstream = gradients(case, *tensors[:3])
    upstream[0][0, 1, 0, 0] = float("inf")
    upstream[1][1, 2, 3, 4] = float("nan")
    ours = run(native, tensors, upstream, case.options())
    expected = run(eager, tensors, upstream, case.options())
    assert_same_nonfinite(ours[2], expected[2])


def test_one_value_is_enough_without_statistics():
    case = replace(SIMPLE, shape=(1, 1, 1, 1), statistics="none", pad=3, pad_mode="replicate", coefficients=(1, 1))
    check(case, inputs(case))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@both_layouts
def test_16_bit_results_round_to_nearest(dtype, layout):
    exponents = torch.linspace(-24, 15, 50_001).exp2()
    special = torch.tensor([0.0, float("inf"), float("nan"), 65504.0, 65519.0, 65520.0, 2.0**-24])
    values = torch.cat([exponents, -exponents, special, -special])
    x = torch.zeros(1, len(values), 1, 1, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    y = functional.bias_act_pad(x, values, implementation="native")[0].flatten()
    expected = values.to(dtype)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.nan_to_num(nan=1.0), expected.nan_to_num(nan=1.0))


@both_layouts
def test_nothing_of_the_size_of_a_map_is_copied(layout):
    """The residual is the interior of another padded map, and both results have a gradient. All are read in place."""
    x = make_map((2, 32, 16, 16), layout=layout).requires_grad_()
    _, other = functional.instance_norm(make_map((2, 32, 16, 16), layout=layout), pad=1, implementation="native")
    dpadded, dinterior = make_map((2, 32, 18, 18), layout=layout), make_map((2, 32, 18, 18), layout=layout)
    with torch.profiler.profile() as profile:
        padded, interior = functional.instance_norm(x, residual=other, pad=1, implementation="native")
        torch.autograd.grad((padded, interior), x, (dpadded, dinterior[:, :, 1:-1, 1:-1]))
    names = {event.key for event in profile.key_averages()}
    assert {"fastmunit::fused_norm", "fastmunit::fused_norm_backward"} <= names
    assert not names & {"aten::clone", "aten::copy_", "aten::add", "aten::fill_", "aten::zeros", "aten::slice_backward"}


def test_raw_statistics():
    x = make_map((2, 3, 5, 7), mean=3.0)
    for statistics, dim, correction in (("instance", (2, 3), 0), ("layer", (1, 2, 3), 1)):
        _, mean, rstd = FORWARD(x, None, None, None, statistics, "none", 0.2, 0, "reflect", 1e-5, False)
        var, expected = torch.var_mean(x.double(), dim, correction=correction)
        scale = (var + 1e-5).rsqrt() if statistics == "instance" else 1 / (var.sqrt() + 1e-5)
        torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rstd, scale, rtol=1e-6, atol=0)


@pytest.mark.slow
@both_layouts
def test_compiles_with_inductor_for_any_size(layout):
    """There are no convolutions, because torch compiles those again for each size."""

    def blocks(x, weight, bias):
        padded, interior = functional.adain(x, weight, bias, activation="relu", pad=1)
        mixed = torch.nn.functional.avg_pool2d(padded, 3, 1)
        padded, _ = functional.layer_norm_munit(mixed, weight[0], bias[0], residual=interior, pad=2)
        return padded.square().sum() + interior.sum()

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")
    compiled = torch.compile(blocks, fullgraph=True, dynamic=True, backend=counter)
    weight, bias = make_map((2, 6, 1, 1), seed=1).flatten(1), make_map((2, 6, 1, 1), seed=2).flatten(1)
    counts = set()
    for height, width in ((8, 9), (12, 5), (8, 9)):
        x = make_map((2, 6, height, width), layout=layout)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        ours = torch.autograd.grad(compiled(*leaves), leaves)
        plain = torch.autograd.grad(blocks(*leaves), leaves)
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
        counts.add(counter.frame_count)
    assert len(counts) == 1


def test_kernel_checks_its_arguments():
    x = torch.zeros(1, 4, 2, 2)
    good = ("instance", "none", 0.2, 1, "reflect", 1e-5, False)

    def fails(match, x=x, weight=None, residual=None, options=good):
        with pytest.raises(RuntimeError, match=match):
            FORWARD(x, weight, None, residual, *options)

    fails(r"x must be \(N, C, H, W\)", x=torch.zeros(2, 3))
    fails("x must be float32", x=x.int())
    fails("at least one pixel", x=torch.zeros(1, 4, 0, 2))
    fails(r"weight must be \(C,\) or \(N, C\)", weight=torch.zeros(3))
    fails(r"residual: expected shape \(1, 4, 2, 2\)", residual=torch.zeros(1, 4, 2, 3))
    fails("residual must have the dtype", residual=x.double())
    fails("statistics must be", options=("batch", *good[1:]))
    fails("activation must be", options=(good[0], "selu", *good[2:]))
    fails("pad_mode must be", options=(*good[:4], "circular", *good[5:]))
    fails("pad must be 0 to 3", options=(*good[:3], 4, *good[4:]))
    fails("smaller than the map", options=(*good[:3], 2, *good[4:]))
    fails("multiple of 4 channels", x=torch.zeros(1, 3, 2, 2), options=(*good[:6], True))
    _, mean, rstd = FORWARD(x, None, None, None, *good)
    gradient = torch.zeros(1, 4, 4, 4)
    with pytest.raises(RuntimeError, match="dpadded or dinterior must be given"):
        BACKWARD(None, None, x, mean, rstd, None, None, False, False, False, *good)
    with pytest.raises(RuntimeError, match="dpadded: expected shape"):
        BACKWARD(x, None, x, mean, rstd, None, None, False, False, False, *good)
    with pytest.raises(RuntimeError, match="mean and rstd must be those"):
        BACKWARD(gradient, None, x, mean.float(), rstd, None, None, False, False, False, *good)
