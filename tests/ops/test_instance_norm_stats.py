"""instance_norm_stats: the native kernel against float64, over shapes, layouts, dtypes and extreme values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from fastmunit import functional, reference
from fastmunit.ops.availability import unavailable
from fastmunit.testing import DTYPES, LAYOUTS, assert_as_exact_as, make_map, uninitialized_memory_is_nan
from tests.ops.compiled import assert_compiles_once

REASON = unavailable("native", "cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

FORWARD = torch.ops.fastmunit.instance_norm_stats.default
BACKWARD = torch.ops.fastmunit.instance_norm_stats_backward.default
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 2, 1),
    (1, 3, 7, 3),
    (3, 64, 3, 7),
    (2, 255, 7, 7),
    (1, 256, 9, 4),
    (2, 17, 63, 65),
    (1, 2, 256, 255),
    (4, 1, 64, 64),
]


def statistics_type(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def run(function, x, dmean, drstd):
    """Return mean, rstd and the gradient of their sum weighted by dmean and drstd."""
    x = x.detach().requires_grad_()
    mean, rstd = function(x)
    (dx,) = torch.autograd.grad((mean, rstd), x, (dmean.to(mean.dtype), drstd.to(mean.dtype)))
    return mean.detach(), rstd.detach(), dx


def check(x, eps=1e-5):
    """Compare forward and backward with the reference, in x's dtype and in float64."""
    dmean = make_map((*x.shape[:2], 1, 1), torch.float64, seed=1).flatten(1)
    drstd = make_map((*x.shape[:2], 1, 1), torch.float64, seed=2).flatten(1)
    with uninitialized_memory_is_nan():
        ours = run(lambda x: functional.instance_norm_stats(x, eps, "native"), x, dmean, drstd)
    plain = run(lambda x: reference.instance_norm_stats(x, eps), x, dmean, drstd)
    exact = run(lambda x: reference.instance_norm_stats(x, eps), x.double(), dmean, drstd)
    finite = x.double()[torch.isfinite(x)].abs()
    scale = float(finite.max()) if finite.numel() else None
    assert_as_exact_as(ours[0], plain[0], exact[0], "mean", scale=scale)
    # Four roundings are allowed instead of one: on a small plane the reference can be exact by chance.
    largest = exact[1][torch.isfinite(exact[1])].abs()
    assert_as_exact_as(ours[1], plain[1], exact[1], "rstd", scale=4 * float(largest.max()) if largest.numel() else None)
    assert_as_exact_as(ours[2], plain[2], exact[2], "dx")
    assert ours[0].dtype == ours[1].dtype == statistics_type(x.dtype)
    assert ours[2].dtype == x.dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_float64(shape, layout, dtype):
    check(make_map(shape, dtype, layout, mean=0.5, std=2.0))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    mean=st.floats(-10, 10),
    std=st.floats(0.1, 10),
    seed=st.integers(0, 2**16),
)
def test_matches_float64_anywhere(shape, dtype, layout, mean, std, seed):
    check(make_map(shape, dtype, layout, mean=mean, std=std, seed=seed))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 19, 64, 64), (1, 3, 300, 301)], ids=str)
def test_mean_far_from_zero(shape, layout):
    x = make_map(shape, torch.float32, layout, mean=1e4, std=1e-2)
    mean, rstd = functional.instance_norm_stats(x, implementation="native")
    exact_mean, exact_rstd = reference.instance_norm_stats(x.double())
    torch.testing.assert_close(mean.double(), exact_mean, rtol=6e-8, atol=0)
    torch.testing.assert_close(rstd.double(), exact_rstd, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_mean_that_differs_between_blocks(layout):
    """The border is constant and far from the other values. A shift by the first values would lose all digits."""
    x = make_map((1, 20, 256, 256), torch.float32, layout, mean=1e4, std=1e-2)
    x[:, :, :200] = 0.0
    check(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.140625])
def test_constant_planes(value, layout, dtype):
    x = torch.full((2, 18, 65, 63), value, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    mean, rstd = functional.instance_norm_stats(x, 1e-5, "native")
    assert torch.equal(mean, torch.full_like(mean, value))
    torch.testing.assert_close(rstd, torch.full_like(rstd, 1e-5**-0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_nonfinite_values_stay_in_their_plane(value, dtype, layout):
    x = make_map((2, 17, 63, 65), dtype, layout)
    x[1, 3, 5, 7] = value
    check(x)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_largest_values(dtype, layout):
    """The squares of the values overflow float32 or are the largest of the dtype."""
    x = make_map((1, 17, 8, 8), torch.float64, layout)
    limit = min(torch.finfo(dtype).max, 1e30)
    check((x / x.abs().max() * limit).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_every_16_bit_value_is_read_right(dtype, layout):
    """In a plane of equal pixels the mean is the value itself. This checks that each bit pattern is read correctly."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    for x in (bits.view(1, -1, 1, 1), bits.view(-1, 1, 1, 1), bits.view(2, 2**15, 1, 1)):
        x = x.expand(-1, -1, 2, 2)
        x = x.contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)
        mean, _ = functional.instance_norm_stats(x, 1e-5, "native")
        value = x[:, :, 0, 0].float()
        small = value.abs() < 2.0**126  # the sum of four is finite
        assert torch.equal(mean[small], value[small])
        assert not torch.isfinite(mean[~torch.isfinite(value)]).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_gradients_round_to_nearest(dtype):
    """dx is dmean if drstd is 0 and a plane has one pixel. This checks how float32 is rounded to the dtype."""
    exponents = torch.linspace(-30, 18, 50_001).exp2()
    special = torch.tensor([0.0, float("inf"), float("nan"), 65504.0, 65519.0, 65520.0, 3.3e38, 2.0**-24, 2.0**-25])
    dmean = torch.cat([exponents, -exponents, special, -special])[None]
    zeros = torch.zeros_like(dmean)
    x = torch.zeros(*dmean.shape, 1, 1, dtype=dtype)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        dx = BACKWARD(dmean, zeros, x.contiguous(memory_format=memory_format), zeros, zeros)
        expected = dmean.to(dtype).view_as(dx)
        assert torch.equal(dx.isnan(), expected.isnan())
        assert torch.equal(dx.nan_to_num(nan=1.0), expected.nan_to_num(nan=1.0))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)], ids=str)
def test_empty(shape, layout):
    x = make_map(shape, torch.float32, layout).requires_grad_()
    mean, rstd = functional.instance_norm_stats(x, implementation="native")
    assert mean.shape == rstd.shape == shape[:2]
    (mean.sum() + rstd.sum()).backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_bits_do_not_depend_on_threads(layout):
    x = make_map((1, 70, 200, 211), torch.float32, layout)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(FORWARD(x, 1e-5))
    finally:
        torch.set_num_threads(threads)
    for mean, rstd in results[1:]:
        assert torch.equal(mean, results[0][0])
        assert torch.equal(rstd, results[0][1])


def test_layout_is_kept_without_copies():
    x = make_map((2, 32, 16, 16), torch.float32, "channels_last").requires_grad_()
    with torch.profiler.profile() as profile:
        mean, rstd = functional.instance_norm_stats(x, implementation="native")
        dx = torch.autograd.grad(mean.sum() + rstd.sum(), x)[0]
    assert dx.is_contiguous(memory_format=torch.channels_last)
    names = [event.key for event in profile.key_averages()]
    assert "fastmunit::instance_norm_stats" in names
    assert not {"aten::clone", "aten::copy_"} & {
        event.name for event in profile.events() if event.input_shapes and [2, 32, 16, 16] in event.input_shapes
    }


def test_gradients_of_any_strides():
    x = make_map((3, 5, 6, 7), torch.float64).requires_grad_()
    dmean = make_map((5, 3, 1, 1), torch.float64, seed=1).flatten(1).t()
    drstd = torch.ones((), dtype=torch.float64).expand(3, 5)
    ours = run(lambda x: functional.instance_norm_stats(x, 1e-5, "native"), x, dmean, drstd)
    plain = run(reference.instance_norm_stats, x, dmean, drstd)
    torch.testing.assert_close(ours, plain)


def test_gradient_of_one_output():
    x = make_map((2, 3, 5, 4), torch.float64).requires_grad_()
    for index in (0, 1):
        ours = torch.autograd.grad(functional.instance_norm_stats(x, 1e-5, "native")[index].sum(), x)
        plain = torch.autograd.grad(reference.instance_norm_stats(x)[index].sum(), x)
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "expanded"])
def test_gradcheck(layout):
    x = make_map((2, 3, 4, 5), torch.float64, layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: functional.instance_norm_stats(x, 1e-3, "native"), x)


@pytest.mark.parametrize(
    ("dtype", "layout"), list(zip(DTYPES, ("nchw", "channels_last", "sliced", "nchw"), strict=True)), ids=str
)
def test_opcheck(dtype, layout):
    x = make_map((2, 3, 4, 5), dtype, layout)
    statistics = tuple(make_map((2, 3, 1, 1), statistics_type(dtype), seed=seed).flatten(1) for seed in range(4))
    opcheck(BACKWARD, (*statistics[:2], x, *statistics[2:]))
    for requires_grad in (False, True):
        opcheck(FORWARD, (x.requires_grad_(requires_grad), 1e-5))


def test_compiles_whole_with_any_size():
    def loss(x):
        mean, rstd = functional.instance_norm_stats(x)
        return (mean * 2 + rstd).sum()

    assert_compiles_once(loss, lambda height, width: [make_map((2, 6, height, width))])


@pytest.mark.slow
def test_compiles_with_inductor():
    def loss(x):
        mean, rstd = functional.instance_norm_stats(x)
        return ((x - mean[..., None, None]) * rstd[..., None, None]).square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for layout in ("nchw", "channels_last"):
        x = make_map((2, 6, 12, 5), layout=layout).requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(loss(x), x))


def test_second_derivative_says_that_there_is_none():
    x = make_map((2, 3, 4, 5), torch.float64).requires_grad_()
    mean, rstd = functional.instance_norm_stats(x, 1e-5, "native")
    (dx,) = torch.autograd.grad((mean * rstd).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='first derivatives only; use implementation="reference"'):
        dx.square().sum().backward()


def test_vmap_says_that_there_is_none():
    x = make_map((2, 3, 4, 5))[None]
    with pytest.raises(NotImplementedError, match="no vmap rule"):
        torch.func.vmap(lambda x: functional.instance_norm_stats(x, 1e-5, "native"))(x)


def test_kernel_checks_its_arguments():
    with pytest.raises(RuntimeError, match=r"x must be \(N, C, H, W\)"):
        FORWARD(torch.zeros(2, 3), 1e-5)
    with pytest.raises(RuntimeError, match="x must be float32"):
        FORWARD(torch.zeros(1, 1, 2, 2, dtype=torch.int32), 1e-5)
    good = torch.zeros(1, 1)
    with pytest.raises(RuntimeError, match="dmean must be"):
        BACKWARD(torch.zeros(1, 2), good, torch.zeros(1, 1, 2, 2), good, good)
