"""phase_kernels and phase_conv2d: kernels that serve many calls of upsample_conv2d, and how few ops run in a call."""

import pytest
import torch
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from fastmunit import functional
from fastmunit.functional import phase_conv2d, phase_kernels, upsample_conv2d
from fastmunit.ops import phase_kernels as kernels_op
from fastmunit.ops import upsample_conv2d as op
from fastmunit.testing import make_map
from tests.ops.compiled import assert_compiles_once

OP = torch.ops.fastmunit.phase_kernels.default
BACKWARD_OP = torch.ops.fastmunit.phase_kernels_backward.default
MODES = ["reflect", "replicate", "zero"]
MEMORY_FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
layouts = pytest.mark.parametrize("layout", MEMORY_FORMATS)


def make_weight(outputs, channels, k, dtype=torch.float64, layout="nchw"):
    weight = make_map((outputs, channels, k, k), dtype, layout, std=(channels * k * k) ** -0.5, seed=1)
    return weight.requires_grad_(), make_map((1, outputs, 1, 1), dtype, seed=2).flatten().requires_grad_()


@pytest.mark.parametrize("unshuffled", [False, True])
@pytest.mark.parametrize("weight_layout", MEMORY_FORMATS)
@layouts
@pytest.mark.parametrize("k", [3, 5, 7, 9])
def test_shared_kernels_give_the_results_and_gradients_of_separate_calls(k, layout, weight_layout, unshuffled):
    """Three maps of different sizes use the same kernels. Autograd adds their gradients."""
    weight, bias = make_weight(4, 3, k, layout=weight_layout)
    maps = [make_map((n, 3, h, w), torch.float64, layout, seed=h) for n, h, w in ((1, 4, 4), (2, 5, 3), (1, 7, 8))]
    for mode in MODES:
        kernels = phase_kernels(weight, bias, mode, memory_format=MEMORY_FORMATS[layout], unshuffled=unshuffled)
        ours = [phase_conv2d(x, kernels) for x in maps]
        plain = [
            upsample_conv2d(x, weight, bias, mode, implementation="reference", unshuffled=unshuffled) for x in maps
        ]
        torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
        gradients = [torch.autograd.grad(sum(y.sin().sum() for y in ys), (weight, bias)) for ys in (ours, plain)]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_backward_of_micro_batches_may_share_kernels():
    """The graph of the kernels holds no tensors, so a second backward pass through it finds what it needs."""
    weight, bias = make_weight(4, 3, 5)
    kernels = phase_kernels(weight, bias)
    for seed in (1, 2):
        phase_conv2d(make_map((1, 3, 5, 6), torch.float64, seed=seed), kernels).square().sum().backward()
    summed = [weight.grad, bias.grad]
    both = torch.cat([make_map((1, 3, 5, 6), torch.float64, seed=seed) for seed in (1, 2)])
    expected = torch.autograd.grad(upsample_conv2d(both, weight, bias).square().sum(), (weight, bias))
    torch.testing.assert_close(summed, list(expected), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("unshuffled", [False, True])
@pytest.mark.parametrize("mode", MODES)
@layouts
def test_ready_kernels_get_a_graph_for_each_call(layout, mode, unshuffled):
    weight, bias = make_weight(4, 3, 5, torch.float32, layout)
    options = {"dtype": torch.bfloat16, "memory_format": MEMORY_FORMATS[layout], "unshuffled": unshuffled}
    with torch.no_grad():
        ready = phase_kernels(weight, bias, mode, **options)
    x = make_map((1, 3, 5, 6), torch.bfloat16, layout)
    results = []
    for kernels in (
        phase_kernels(weight, bias, mode, **options, ready=ready),
        phase_kernels(weight, bias, mode, **options),
    ):
        y = phase_conv2d(x, kernels)
        results.append((y.detach(), *torch.autograd.grad(y.float().square().sum(), (weight, bias))))
    assert all(torch.equal(ours, expected) for ours, expected in zip(*results, strict=True))
    with LeafOps() as ops:
        shared = phase_kernels(weight, bias, mode, **options, ready=ready)
        frozen = phase_kernels(weight.detach(), bias.detach(), mode, **options, ready=ready)
    assert not ops.names
    for ours, theirs in ((shared, ready), (frozen, ready)):
        assert ours.phases.data_ptr() == theirs.phases.data_ptr()
        assert ours.bias.data_ptr() == theirs.bias.data_ptr()
    assert shared.phases.requires_grad and shared.bias.requires_grad
    assert not frozen.phases.requires_grad and not frozen.bias.requires_grad


def test_ready_kernels_of_a_rounded_bias():
    """The bias of the graph is a low-precision copy: its gradient is rounded once, after the sum over the phases."""
    weight, bias = make_weight(4, 3, 5, torch.float32)
    copy = bias.detach().bfloat16().requires_grad_()
    with torch.no_grad():
        ready = phase_kernels(weight, bias, dtype=torch.bfloat16)
    kernels = phase_kernels(weight, copy, dtype=torch.bfloat16, ready=ready)
    slopes = make_map((16, 1, 1, 1), torch.bfloat16, seed=3).flatten()
    gradients = torch.autograd.grad(kernels.bias, (weight, copy), slopes)
    assert torch.equal(kernels.bias, copy.repeat(4))
    assert torch.equal(gradients[1], slopes.float().view(4, 4).sum(0).bfloat16())
    assert not gradients[0].any()


@pytest.mark.parametrize("wants", [(True, False), (False, True)], ids=str)
def test_frozen_ready_kernels(wants):
    weight, bias = (t.detach().requires_grad_(want) for t, want in zip(make_weight(4, 3, 5), wants, strict=True))
    with torch.no_grad():
        ready = phase_kernels(weight, bias)
    x = make_map((1, 3, 5, 6), torch.float64)
    wanted = [t for t in (weight, bias) if t.requires_grad]
    ours, expected = (
        torch.autograd.grad(phase_conv2d(x, kernels).sin().sum(), wanted)
        for kernels in (phase_kernels(weight, bias, ready=ready), phase_kernels(weight, bias))
    )
    assert torch.equal(*ours, *expected)


@pytest.mark.parametrize("wants", [(True, False), (False, True), (False, False)], ids=str)
def test_frozen_kernels(wants):
    weight, bias = (t.detach().requires_grad_(want) for t, want in zip(make_weight(4, 3, 5), wants, strict=True))
    x = make_map((1, 3, 5, 6), torch.float64).requires_grad_()
    kernels = phase_kernels(weight, bias)
    assert kernels.phases.requires_grad == kernels.borders.requires_grad == kernels.bias.requires_grad == any(wants)
    inputs = [x, *(t for t in (weight, bias) if t.requires_grad)]
    ours = torch.autograd.grad(phase_conv2d(x, kernels).sin().sum(), inputs)
    plain = upsample_conv2d(x, weight, bias, implementation="reference").sin().sum()
    torch.testing.assert_close(ours, torch.autograd.grad(plain, inputs), rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        assert not any(tensor.requires_grad for tensor in phase_kernels(weight, bias)[:3])


@pytest.mark.parametrize("part", ["phases", "borders", "bias"])
def test_gradient_of_one_part(part):
    weight, bias = make_weight(2, 3, 5)
    result = getattr(phase_kernels(weight, bias), part)
    dweight, dbias = torch.autograd.grad(result.sum(), (weight, bias), allow_unused=True)
    expected = torch.autograd.functional.jacobian(
        lambda w, b: getattr(phase_kernels(w, b), part).sum(), (weight.detach(), bias.detach())
    )
    torch.testing.assert_close((dweight, dbias), expected)
    assert bool(dbias.any()) == (part == "bias")
    assert bool(dweight.any()) == (part != "bias")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_taps_are_summed_before_they_are_rounded(dtype):
    weight, bias = make_weight(4, 3, 5, torch.float32)
    exact = phase_kernels(weight.detach().double(), bias.detach().double())
    for ours, wide in zip(phase_kernels(weight, bias, dtype=dtype)[:3], exact[:3], strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), wide, rtol=torch.finfo(dtype).eps / 2 + 1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@layouts
@pytest.mark.parametrize("mode", MODES)
def test_a_padded_map_gives_the_same_bits(mode, layout, dtype):
    weight, bias = make_weight(8, 6, 5, torch.float32)
    kernels = phase_kernels(weight, bias, mode, dtype=dtype, memory_format=MEMORY_FORMATS[layout])
    x = make_map((2, 6, 5, 7), dtype, layout).requires_grad_()
    y = phase_conv2d(x, kernels)
    pad, pad_mode = kernels.padding
    padded, _ = functional.bias_act_pad(x, pad=pad, pad_mode=pad_mode)
    again = phase_conv2d(padded, kernels, padded=True)
    assert torch.equal(y, again)
    gradients = [torch.autograd.grad(result.float().square().sum(), x) for result in (y, again)]
    assert torch.equal(*(gradient for (gradient,) in gradients))


def test_wide_kernels_pad_without_the_fused_op():
    weight, bias = make_weight(2, 2, 15)
    x = make_map((1, 2, 8, 9), torch.float64).requires_grad_()
    for mode in MODES:
        results = [upsample_conv2d(x, weight, bias, mode, implementation=i) for i in ("auto", "reference")]
        torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
        gradients = [torch.autograd.grad(y.sin().sum(), (x, weight, bias)) for y in results]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("has_borders", [False, True])
@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype, layout, has_borders):
    weight, bias = (t.detach().round() for t in make_weight(2, 3, 5, torch.float32, layout))
    arguments = dtype, layout == "channels_last", has_borders, has_borders
    opcheck(OP, (weight.requires_grad_(), bias.requires_grad_(), *arguments))


@pytest.mark.parametrize("wants", [[True, True], [True, False], [False, True]], ids=str)
@layouts
def test_opcheck_of_some_gradients(layout, wants):
    weight, bias = (t.detach() for t in make_weight(2, 3, 5, torch.float32, layout))
    arguments = torch.float32, layout == "channels_last", True, False
    if all(wants):
        opcheck(OP, (weight, None, *arguments))
    gradients = [torch.ones_like(t) for t in OP(weight, bias, *arguments)]
    shape, *others = tuple(weight.shape), layout == "channels_last", torch.float32, True, False, wants
    opcheck(BACKWARD_OP, (*gradients, shape, torch.float32, *others))


def test_compiles_whole_with_any_size():
    weight, bias = make_weight(4, 3, 5)

    def loss(x, weight, bias):
        kernels = phase_kernels(weight, bias, unshuffled=True)
        return phase_conv2d(x, kernels).square().sum() + phase_conv2d(x + 1, kernels).sum()

    assert_compiles_once(
        loss,
        lambda height, width: [make_map((2, 3, height, width), torch.float64), weight.detach(), bias.detach()],
        tolerance=1e-11,
    )


def test_autocast():
    weight, bias = make_weight(4, 3, 5, torch.float32)
    kernels = phase_kernels(weight, bias, dtype=torch.bfloat16)
    x = make_map((1, 3, 5, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(phase_conv2d(x, kernels), upsample_conv2d(x, weight, bias))
    with pytest.raises(TypeError, match=r"expected x in torch\.bfloat16, the dtype of the kernels, got torch\.float32"):
        phase_conv2d(x, kernels)


def test_bad_arguments():
    weight, bias = make_weight(4, 3, 5)
    with pytest.raises(ValueError, match=r"phase_kernels: expected weight of shape \(O, C, k, k\), got \(3, 5, 5\)"):
        phase_kernels(weight[0])
    with pytest.raises(ValueError, match="expected an odd kernel size of at least 3, got 4"):
        phase_kernels(weight[..., :4, :4])
    with pytest.raises(ValueError, match="expected a convolution with channels"):
        phase_kernels(weight[:0])
    with pytest.raises(ValueError, match=r"expected bias of shape \(4,\), got \(3,\)"):
        phase_kernels(weight, bias[:3])
    with pytest.raises(ValueError, match="expected pad_mode to be one of"):
        phase_kernels(weight, bias, "circular")
    with pytest.raises(ValueError, match="expected memory_format to be one of"):
        phase_kernels(weight, memory_format=torch.channels_last_3d)
    with pytest.raises(TypeError, match="expected dtype in float32, bfloat16, float16 or float64"):
        phase_kernels(weight, dtype=torch.int32)
    kernels = phase_kernels(weight, bias)
    with pytest.raises(ValueError, match="phase_kernels: expected ready with shape, dtype and options"):
        phase_kernels(weight, bias, "zero", ready=kernels)
    with pytest.raises(ValueError, match=r"ready with shape, dtype and options \(.*False\), got \(.*True\)"):
        phase_kernels(weight, ready=kernels)
    with pytest.raises(ValueError, match="expected x with 3 channels, got shape"):
        phase_conv2d(torch.zeros(1, 4, 5, 5, dtype=torch.float64), kernels)
    with pytest.raises(ValueError, match="expected x with 3 channels and a pad of 1, got shape"):
        phase_conv2d(torch.zeros(1, 3, 5, 2, dtype=torch.float64), kernels, padded=True)
    with pytest.raises(ValueError, match=r"phase_conv2d: expected a reflect pad smaller.*pad 2 for a map of 2 x 8"):
        phase_conv2d(torch.zeros(1, 3, 3, 6, dtype=torch.float64), kernels, padded=True)


INSIDE = {
    OP: kernels_op._run,
    BACKWARD_OP: kernels_op._run_backward,
    torch.ops.fastmunit.upsample_conv2d.default: op._run,
    torch.ops.fastmunit.upsample_conv2d_backward.default: op._run_backward,
}
ALLOCATIONS = {"empty", "empty_like", "new_empty", "detach", "_unsafe_view"}


class LeafOps(TorchDispatchMode):
    """A list of dispatched ops, without views and allocations. Ops that are built from ops of torch count as those."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        with self:
            if function in INSIDE:
                return INSIDE[function](*args)
            results = function.decompose(*args, **(kwargs or {}))
        if results is not NotImplemented:
            return results
        name = function.overloadpacket.__name__
        if not function.is_view and name not in ALLOCATIONS:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@layouts
def test_few_ops_run_in_a_call(layout):
    """A 5 x 5 convolution of a square map with reflect padding, as in MUNIT's decoder, in its unshuffled form."""
    weight, bias = make_weight(4, 8, 5, torch.float32)
    x = make_map((1, 8, 6, 6), torch.bfloat16, layout).requires_grad_()

    def make():
        return phase_kernels(weight, bias, dtype=x.dtype, memory_format=MEMORY_FORMATS[layout], unshuffled=True)

    def count(run):
        with LeafOps() as ops:
            run()
        return ops.names

    kernels = make()
    padded = functional.bias_act_pad(x.detach(), pad=1, pad_mode="replicate")[0].requires_grad_()
    leaves = kernels._replace(
        **{name: getattr(kernels, name).detach().requires_grad_() for name in kernels._fields[:3]}
    )
    y = phase_conv2d(padded, leaves, padded=True)
    dy = torch.ones_like(y)
    inputs = [padded, *leaves[:3]]
    torch.autograd.grad(y, inputs, dy, retain_graph=True)  # makes the tables that later calls share
    forward = count(lambda: phase_conv2d(padded, leaves, padded=True))
    backward = count(lambda: torch.autograd.grad(y, inputs, dy))
    gathers = 1 if layout == "channels_last" else 2  # which read one row per pixel
    assert len(forward) <= 4 + gathers, forward
    assert len(backward) <= 8 + gathers, backward
    assert len(count(lambda: phase_conv2d(x, leaves))) == len(forward) + 1  # the pad
    assert len(count(make)) <= 4
    gradients = [torch.ones_like(t) for t in kernels[:3]]
    assert len(count(lambda: torch.autograd.grad(kernels[:3], (weight, bias), gradients))) <= 4
