"""upsample_conv2d: phase convolutions against the plain chain, over kernel sizes, map sizes, layouts and dtypes."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastmunit import functional, reference
from fastmunit.functional import upsample_conv2d
from fastmunit.testing import DTYPES, LAYOUTS, assert_as_exact_as, assert_same_nonfinite, make_map
from tests.ops.compiled import assert_compiles_once

FORWARD = torch.ops.fastmunit.upsample_conv2d.default
BACKWARD = torch.ops.fastmunit.upsample_conv2d_backward.default
MODES = ["reflect", "replicate", "zero"]
KERNEL_SIZES = [3, 5, 7, 9]
FUNCTIONS = {
    "upsample_conv2d": (upsample_conv2d, reference.upsample_conv2d),
    "unshuffled": (partial(upsample_conv2d, unshuffled=True), partial(reference.upsample_conv2d, unshuffled=True)),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)
NATIVE_LAYOUTS = ["nchw", "channels_last"]


def make_weights(outputs, channels, k, dtype=torch.float64, seed=1):
    weight = make_map((outputs, channels, k, k), dtype, std=(channels * k * k) ** -0.5, seed=seed)
    return weight, make_map((1, outputs, 1, 1), dtype, seed=seed + 1).flatten()


def run(function, x, weight, bias, mode):
    """Return the result and the gradients of x, weight and bias."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = function(*inputs, *([None] * (3 - len(inputs))), mode)
    dy = make_map(tuple(y.shape), torch.float64, seed=9).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, inputs, dy)


def check(name, x, weight, bias, mode):
    ours, plain = (run(function, x, weight, bias, mode) for function in FUNCTIONS[name])
    wide = [None if t is None else t.double() for t in (x, weight, bias)]
    exact = run(FUNCTIONS[name][1], *wide, mode)
    for kind, *results in zip(("y", "dx", "dweight", "dbias"), ours, plain, exact, strict=False):
        assert_as_exact_as(*results, f"{name}, {kind}")


def allowed(mode, k, height, width):
    return mode != "reflect" or k // 2 < 2 * min(height, width)


@functions
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", KERNEL_SIZES)
@pytest.mark.parametrize("layout", NATIVE_LAYOUTS)
def test_matches_the_plain_chain(layout, k, mode, name):
    """Results and gradients agree to 1e-11 in float64, down to the smallest map that the padding allows."""
    weight, bias = make_weights(5, 3, k)
    for samples, height, width in (
        (1, 1, 1),
        (2, 1, 5),
        (1, 2, 2),
        (3, 2, 3),
        (1, 3, 2),
        (2, 4, 3),
        (1, 5, 7),
        (4, 8, 6),
    ):
        if allowed(mode, k, height, width):
            check(name, make_map((samples, 3, height, width), torch.float64, layout), weight, bias, mode)


@functions
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
    outputs=st.integers(1, 9),
    k=st.sampled_from(KERNEL_SIZES),
    mode=st.sampled_from(MODES),
    layout=st.sampled_from(LAYOUTS),
    has_bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_matches_the_plain_chain_anywhere(name, shape, outputs, k, mode, layout, has_bias, seed):
    assume(allowed(mode, k, *shape[2:]))
    weight, bias = make_weights(outputs, shape[1], k, seed=seed)
    x = make_map(shape, torch.float64, layout, seed=seed)
    check(name, x, weight, bias if has_bias else None, mode)


@functions
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("layout", NATIVE_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_as_exact_as_the_plain_chain(dtype, layout, k, mode, name):
    weight, bias = make_weights(16, 24, k, dtype)
    check(name, make_map((2, 24, 9, 10), dtype, layout, mean=0.5), weight, bias, mode)


def test_phases_are_pixel_shuffled():
    x, (weight, bias) = make_map((2, 3, 5, 6), torch.float64), make_weights(4, 3, 5)
    y = upsample_conv2d(x, weight, bias, unshuffled=True)
    assert y.shape == (2, 16, 5, 6)
    torch.testing.assert_close(F.pixel_shuffle(y, 2), upsample_conv2d(x, weight, bias))


@functions
@pytest.mark.parametrize("layout", NATIVE_LAYOUTS)
@pytest.mark.parametrize("k", [3, 5, 7])
def test_layout_is_kept(k, layout, name):
    x, (weight, bias) = (
        make_map((2, 8, 6, 6), torch.float32, layout).requires_grad_(),
        make_weights(8, 8, k, torch.float32),
    )
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    y = FUNCTIONS[name][0](x, weight, bias)
    assert y.is_contiguous(memory_format=memory_format)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    assert dx.is_contiguous(memory_format=memory_format)


@functions
@pytest.mark.parametrize("wants", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_gradients_of_some(wants, name):
    x, (weight, bias) = make_map((2, 3, 4, 5), torch.float64), make_weights(4, 3, 5)
    gradients = []
    for function in FUNCTIONS[name]:
        inputs = [t.detach().requires_grad_(want) for t, want in zip((x, weight, bias), wants, strict=True)]
        y = function(*inputs, "reflect")
        gradients.append(torch.autograd.grad(y.sin().sum(), [t for t in inputs if t.requires_grad]))
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@functions
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [3, 5, 7])
def test_gradcheck(k, mode, name):
    x, (weight, bias) = make_map((1, 2, 3, 4), torch.float64), make_weights(2, 2, k)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *t: FUNCTIONS[name][0](*t, mode), inputs, fast_mode=True)


def kernels_of(k, dtype, pad_mode, unshuffled, layout="nchw"):
    """Return kernels of two channels of three, whose values and those of `phase_conv2d` are exact in all dtypes."""
    weight, bias = (t.round() for t in make_weights(2, 3, k, dtype))
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return functional.phase_kernels(weight, bias, pad_mode, memory_format=memory_format, unshuffled=unshuffled)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("dtype", "layout", "unshuffled"),
    [
        *((torch.float32, layout, k % 2 == 0) for k, layout in enumerate(LAYOUTS)),
        *((dtype, "channels_last", k % 2 == 0) for k, dtype in enumerate(DTYPES) if dtype != torch.float32),
    ],
    ids=str,
)
def test_opcheck(dtype, layout, unshuffled, requires_grad):
    # torch compares its traces with the tolerance of float32 for any dtype. These values are exact in all dtypes.
    padded = make_map((2, 3, 6, 7), dtype, layout).round().requires_grad_(requires_grad)
    kernels = [t.requires_grad_(requires_grad) for t in kernels_of(5, dtype, "reflect", unshuffled, layout)[:3]]
    opcheck(FORWARD, (padded, *kernels, unshuffled))
    if requires_grad:
        return
    dy = make_map((2, 8, 4, 5) if unshuffled else (2, 2, 8, 10), dtype, layout, seed=3).round()
    opcheck(BACKWARD, (dy, padded, *kernels[:2], unshuffled, [True, True, True]))


@pytest.mark.parametrize("wants", list(itertools.product([False, True], repeat=3)), ids=str)
def test_opcheck_of_some_gradients(wants):
    padded, kernels = make_map((2, 3, 8, 9)).round(), kernels_of(7, torch.float32, "zero", True)
    assert kernels.borders is None
    if all(wants):
        opcheck(FORWARD, (padded, kernels.phases, None, None, True))
    opcheck(BACKWARD, (make_map((2, 2, 8, 10)).round(), padded, kernels.phases, None, False, list(wants)))


@functions
def test_second_derivative_says_that_there_is_none(name):
    x, (weight, _) = make_map((1, 2, 3, 4), torch.float64).requires_grad_(), make_weights(2, 2, 5)
    (dx,) = torch.autograd.grad(FUNCTIONS[name][0](x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='first derivatives only; use implementation="reference"'):
        dx.sum().backward()


@functions
def test_vmap_says_that_there_is_none(name):
    x, (weight, _) = make_map((1, 2, 3, 4), torch.float64), make_weights(2, 2, 5)
    with pytest.raises(NotImplementedError, match="no vmap rule"):
        torch.func.vmap(lambda x: FUNCTIONS[name][0](x, weight))(x[None])


@functions
def test_backward_reads_gradients_of_any_strides(name):
    x, (weight, bias) = make_map((2, 3, 4, 5), torch.float64), make_weights(4, 3, 5)
    shape = tuple(FUNCTIONS[name][0](x, weight).shape)
    for layout in LAYOUTS:
        dy = make_map(shape, torch.float64, layout, seed=4)
        gradients = []
        for function in FUNCTIONS[name]:
            inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
            gradients.append(torch.autograd.grad(function(*inputs), inputs, dy))
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@functions
@pytest.mark.parametrize("layout", NATIVE_LAYOUTS)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_nonfinite_values_reach_the_same_results(value, layout, name):
    weight, bias = make_weights(4, 3, 5, torch.float32)
    for row, column in ((0, 0), (0, 3), (5, 6), (2, 1), (3, 3)):
        x = make_map((1, 3, 6, 7), torch.float32, layout)
        x[0, 1, row, column] = value
        ours, plain = (function(x, weight, bias) for function in FUNCTIONS[name])
        assert torch.equal(ours.isfinite(), plain.isfinite())


@functions
def test_positive_kernels_keep_infinities(name):
    """Without signs in the kernel no infinite terms cancel. Away from the border the results are the same."""
    weight = make_weights(4, 3, 5, torch.float32)[0].abs()
    x = make_map((1, 3, 6, 7), torch.float32)
    x[0, 1, 2, 3] = float("inf")
    assert_same_nonfinite(*(function(x, weight) for function in FUNCTIONS[name]), name)


@functions
@pytest.mark.parametrize("mode", MODES)
def test_empty_batch(mode, name):
    x, (weight, bias) = torch.zeros(0, 3, 4, 5, requires_grad=True), make_weights(4, 3, 5, torch.float32)
    weight.requires_grad_()
    y = FUNCTIONS[name][0](x, weight, bias, mode)
    assert y.shape == ((0, 4, 8, 10) if name == "upsample_conv2d" else (0, 16, 4, 5))
    dx, dweight = torch.autograd.grad(y.sum(), (x, weight))
    assert dx.shape == x.shape
    assert torch.equal(dweight, torch.zeros_like(weight))


@functions
@pytest.mark.parametrize("mode", MODES)
def test_autocast(mode, name):
    """Dtypes are those of a convolution under autocast. Kernels are rounded after their taps are summed."""
    x = make_map((2, 16, 8, 9))
    weight, bias = make_weights(8, 16, 5, torch.float32)

    def under_autocast(function):
        def call(*arguments):
            with torch.autocast("cpu", torch.bfloat16):
                return function(*arguments)

        return call

    ours, plain = (run(under_autocast(function), x, weight, bias, mode) for function in FUNCTIONS[name])
    exact = run(FUNCTIONS[name][1], x.double(), weight.double(), bias.double(), mode)
    assert ours[0].dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in ours[1:])
    for kind, results in zip(("y", "dx", "dweight", "dbias"), zip(ours, plain, exact, strict=True), strict=True):
        error, plain_error = (float((result.double() - results[2]).abs().max()) for result in results[:2])
        scale = float(results[2].abs().max())
        assert error <= 2 * plain_error + 2**-8 * scale, kind


def test_compiles_whole_with_any_size():
    weight, bias = make_weights(4, 3, 5, torch.float64)

    def loss(x, weight, bias):
        return upsample_conv2d(x, weight, bias).square().sum()

    def inputs(height, width):
        return [make_map((2, 3, height, width), torch.float64), weight, bias]

    assert_compiles_once(loss, inputs, tolerance=1e-11)


@functions
@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 5, 7])
def test_compiles_with_inductor(k, name):
    function = FUNCTIONS[name][0]
    weight, bias = make_weights(4, 3, k, torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: function(*t).square().sum(), fullgraph=True, dynamic=True)
    for layout in NATIVE_LAYOUTS:
        x = make_map((2, 3, 6, 5), torch.float64, layout)
        inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
        ours = torch.autograd.grad(compiled(*inputs), inputs)
        plain = torch.autograd.grad(function(*inputs).square().sum(), inputs)
        torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)


@functions
def test_every_implementation_but_reference_is_the_phases(name):
    x, (weight, bias) = make_map((1, 3, 4, 5)), make_weights(4, 3, 5, torch.float32)
    function, plain = FUNCTIONS[name]
    results = {i: function(x, weight, bias, implementation=i) for i in ("auto", "native", "triton", "reference")}
    assert torch.equal(results["reference"], plain(x, weight, bias))
    assert torch.equal(results["auto"], results["native"]) and torch.equal(results["auto"], results["triton"])
    assert not torch.equal(results["auto"], results["reference"])
    with functional.use_implementation("reference"):
        assert torch.equal(function(x, weight, bias), results["reference"])
    with pytest.raises(ValueError, match="expected implementation to be one of"):
        function(x, weight, bias, implementation="fast")


@functions
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_bad_arguments(implementation, name):
    def call(x, weight, bias=None, mode="reflect"):
        return FUNCTIONS[name][0](x, weight, bias, mode, implementation)

    x, weight = torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 5, 5)
    with pytest.raises(ValueError, match=r"expected x of shape \(N, C, H, W\), got \(3, 4, 4\)"):
        call(x[0], weight)
    with pytest.raises(ValueError, match=r"expected weight of shape \(O, 3, k, k\), got \(2, 4, 5, 5\)"):
        call(x, torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match="expected an odd kernel size of at least 3, got 4"):
        call(x, torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="expected an odd kernel size of at least 3, got 1"):
        call(x, torch.zeros(2, 3, 1, 1))
    with pytest.raises(ValueError, match=r"expected bias of shape \(2,\), got \(3,\)"):
        call(x, weight, torch.zeros(3))
    with pytest.raises(ValueError, match="expected pad_mode to be one of"):
        call(x, weight, mode="circular")
    with pytest.raises(ValueError, match="got pad 2 for a map of 2 x 8"):
        call(x[:, :, :1], weight)
    with pytest.raises(TypeError, match=r"expected weight in torch\.float32, the dtype of x, got torch\.float64"):
        call(x, weight.double())
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        call(x.long(), weight)


def test_flop_counter_counts_the_phase_convolutions():
    """The op takes 9 of the 25 multiplications, and a few percent for the borders and the sums of taps."""
    x = make_map((1, 32, 32, 32)).requires_grad_()
    weight = make_map((16, 32, 5, 5), seed=1).requires_grad_()
    counts = []
    for function in (functional.upsample_conv2d, reference.upsample_conv2d):
        with FlopCounterMode(display=False) as counter:
            function(x, weight).sum().backward()
        counts.append(counter.get_total_flops())
    assert 9 / 25 < counts[0] / counts[1] < 0.5
