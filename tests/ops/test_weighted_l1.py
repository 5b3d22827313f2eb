"""weighted_l1: the native kernel against float64, over shapes, layouts, dtypes and extreme values."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from fastmunit import functional, reference
from fastmunit.errors import ImplementationError
from fastmunit.ops.availability import automatic, unavailable
from fastmunit.ops.weighted_l1 import MAX_PAIRS
from fastmunit.testing import DTYPES, LAYOUTS, assert_as_exact_as, make_map, uninitialized_memory_is_nan
from tests.ops.compiled import assert_compiles_once

REASON = unavailable("native", "cpu")
needs_native = pytest.mark.skipif(REASON is not None, reason=str(REASON))

FORWARD = torch.ops.fastmunit.weighted_l1.default
BACKWARD = torch.ops.fastmunit.weighted_l1_backward.default
WEIGHTS = [10.0, 0.5, -1.0, 0.0, 3.0, 1.0]
# Images, content codes and style codes as in a step of MUNIT, and sizes that are no multiple of a vector.
SHAPES = [(1, 3, 64, 64), (2, 3, 31, 33), (1, 64, 16, 16), (3, 5, 7, 9), (1, 8, 1, 1), (2, 1, 129, 128)]


def native(inputs, targets, weights):
    return functional.weighted_l1(inputs, targets, weights, "native")


def make_pairs(dtypes, layouts, shapes=SHAPES, seed=0):
    """Return pairs of the given shapes. Dtypes and layouts alternate over the inputs, then over the targets."""
    dtypes, layouts = itertools.cycle(dtypes), itertools.cycle(layouts)
    inputs = [make_map(s, next(dtypes), next(layouts), seed=seed + 2 * k) for k, s in enumerate(shapes)]
    targets = [make_map(s, next(dtypes), next(layouts), seed=seed + 2 * k + 1) for k, s in enumerate(shapes)]
    return inputs, targets


def run(function, inputs, targets, weights, dvalues, dtotal, wants=None):
    """Return values, total, and the gradients of the inputs and targets for which `wants` is true."""
    tensors = [x.detach() for x in (*inputs, *targets)]
    wants = wants or [True] * len(tensors)
    tensors = [x.requires_grad_(want) for x, want in zip(tensors, wants, strict=True)]
    pairs = len(inputs)
    values, total = function(tensors[:pairs], tensors[pairs:], weights)
    loss = (values * dvalues.to(values.dtype)).sum() + total * dtotal
    gradients = torch.autograd.grad(loss, [x for x in tensors if x.requires_grad])
    return [values.detach(), total.detach(), *gradients]


def check(inputs, targets, weights, wants=None):
    """Compare forward and backward with the reference, in the tensors' dtypes and in float64."""
    dvalues = make_map((1, len(inputs), 1, 1), torch.float32, seed=99).flatten().double()
    dtotal = 0.75
    arguments = (weights, dvalues, dtotal, wants)
    with uninitialized_memory_is_nan():
        ours = run(native, inputs, targets, *arguments)
    plain = run(reference.weighted_l1, inputs, targets, *arguments)
    exact = run(reference.weighted_l1, [x.double() for x in inputs], [x.double() for x in targets], *arguments)
    terms = sum(abs(weight) * float(value) for weight, value in zip(weights, exact[0], strict=True))
    if len({x.dtype for x in (*inputs, *targets)}) > 1:  # float32 terms in float64 are not more accurate
        for results in (ours, plain):
            results[:2] = [x.float() for x in results[:2]]
    # The scale of a gradient is that of the two slopes that are added up.
    slopes = [abs(w * dtotal) + abs(float(dv)) for w, dv in zip(weights, dvalues, strict=True)]
    slopes = [slope / max(1, x.numel()) for slope, x in zip(slopes * 2, (*inputs, *targets), strict=True)]
    if wants is not None:
        slopes = [slope for slope, want in zip(slopes, wants, strict=True) if want]
    for k, (scale, *results) in enumerate(zip((None, terms, *slopes), ours, plain, exact, strict=True)):
        assert_as_exact_as(*results, f"result {k}", scale=scale)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_matches_float64(layout, dtype):
    check(*make_pairs([dtype], [layout]), WEIGHTS)


@needs_native
@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_mixed_dtypes(dtypes):
    inputs, targets = make_pairs([dtypes[0]], ["nchw"])[0], make_pairs([dtypes[1]], ["nchw"])[1]
    check(inputs, targets, WEIGHTS)


@needs_native
@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS, LAYOUTS)), ids=str)
def test_mixed_layouts(layouts):
    inputs, targets = make_pairs([torch.float32], [layouts[0]])[0], make_pairs([torch.float32], [layouts[1]])[1]
    check(inputs, targets, WEIGHTS)


@needs_native
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.lists(st.integers(1, 20), max_size=5).map(tuple), min_size=1, max_size=16),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_matches_float64_anywhere(shapes, dtypes, seed, data):
    generator = torch.Generator().manual_seed(seed)
    kinds = itertools.cycle(dtypes)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).to(next(kinds)) for s in shapes * 2]
    weights = data.draw(st.lists(st.floats(-10, 10), min_size=len(shapes), max_size=len(shapes)))
    wants = data.draw(st.lists(st.booleans(), min_size=len(tensors), max_size=len(tensors)).filter(any))
    check(tensors[: len(shapes)], tensors[len(shapes) :], weights, wants)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_and_many_segments(dtype):
    check(*make_pairs([dtype], ["nchw"], [(1, 3, 300, 301), (1, 1, 1, 16385)]), [1.0, 2.0])


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_signs_of_nonfinite_and_equal_values(dtype):
    special = torch.tensor([0.0, -0.0, 1.0, -2.0, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    input, target = (x.reshape(-1).repeat(5) for x in torch.meshgrid(special, special, indexing="ij"))
    for kept in (torch.ones_like(input, dtype=torch.bool), (input - target).isfinite()):
        inputs, targets = [input[kept]], [target[kept]]
        ours = run(native, inputs, targets, [2.0], torch.ones(1), 1.0)
        plain = run(reference.weighted_l1, inputs, targets, [2.0], torch.ones(1), 1.0)
        torch.testing.assert_close(ours, plain, equal_nan=True)
    assert ours[2][input[kept] == target[kept]].eq(0).all()


@needs_native
@pytest.mark.parametrize("slope", [float("inf"), float("nan")])
def test_nonfinite_gradients(slope):
    inputs, targets = [torch.tensor([0.0, 1.0, 2.0])], [torch.tensor([0.0, 2.0, 1.0])]
    ours = run(native, inputs, targets, [1.0], torch.zeros(1), slope)
    plain = run(reference.weighted_l1, inputs, targets, [1.0], torch.zeros(1), slope)
    torch.testing.assert_close(ours, plain, equal_nan=True)


@needs_native
@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_empty_pair_is_nan(implementation):
    inputs = [torch.zeros(0, 3, requires_grad=True), torch.ones(2, requires_grad=True)]
    values, total = functional.weighted_l1(inputs, [torch.zeros(0, 3), torch.zeros(2)], [1.0, 1.0], implementation)
    assert values.isnan().tolist() == [True, False] and total.isnan()
    gradients = torch.autograd.grad(values[1], inputs)
    assert gradients[0].shape == (0, 3)
    assert gradients[1].tolist() == [0.5, 0.5]


@needs_native
def test_sums_do_not_lose_small_terms():
    """The mean of 2^24 equal values is exact, although a sum in float32 would stop growing."""
    x = torch.full((2**24,), 0.1)
    values, _ = native([x], [torch.zeros_like(x)], [1.0])
    assert values.item() == pytest.approx(0.1, rel=1e-6)


@needs_native
def test_bits_do_not_depend_on_threads():
    inputs, targets = make_pairs([torch.float32], ["nchw"], [(1, 3, 200, 211), (1, 70, 64, 65), (1, 8, 1, 1)])
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(native, inputs, targets, [1.0, 2.0, 3.0], torch.ones(3), 1.0))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_native
def test_gradients_that_are_not_needed_are_not_computed():
    inputs, targets = make_pairs([torch.float32], ["nchw"])
    inputs[1].requires_grad_()
    targets[2].requires_grad_()
    _, total = native(inputs, targets, WEIGHTS)
    with torch.profiler.profile(record_shapes=True) as profile:
        total.backward()
    assert all((x.grad is not None) == x.requires_grad for x in (*inputs, *targets))
    names = [event.name for event in profile.events()]
    assert names.count("fastmunit::weighted_l1_backward") == 1
    full_size = [e for e in profile.events() if e.name == "aten::empty" and list(SHAPES[0]) in e.input_shapes]
    assert not full_size


@needs_native
def test_gradients_of_either_output():
    inputs, targets = make_pairs([torch.float64], ["nchw"])
    for inputs_of_loss in (lambda values, total: values[2], lambda values, total: total):
        results = []
        for function in (native, reference.weighted_l1):
            x = [x.detach().requires_grad_() for x in inputs]
            results.append(torch.autograd.grad(inputs_of_loss(*function(x, targets, WEIGHTS)), x, allow_unused=True))
        for ours, plain in zip(*results, strict=True):
            torch.testing.assert_close(ours, torch.zeros_like(ours) if plain is None else plain)


@needs_native
def test_backward_fills_no_tensor_for_signs():
    """Autograd would make zeros in the size of all inputs, although signs have no gradient."""
    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    _, total = native([x], [torch.zeros_like(x)], [1.0])
    with torch.profiler.profile(record_shapes=True) as profile:
        total.backward()
    filled = [event.input_shapes[0] for event in profile.events() if event.name == "aten::zero_"]
    assert filled == [[1]]


@needs_native
def test_one_tensor_on_both_sides_and_in_two_pairs():
    x = make_map((2, 3, 5, 7), torch.float64).requires_grad_()
    y = make_map((2, 3, 5, 7), torch.float64, seed=1)
    results = []
    for function in (native, reference.weighted_l1):
        _, total = function([x, x, y], [x, y, x], [1.0, 2.0, 5.0])
        results.append(torch.autograd.grad(total, x))
    torch.testing.assert_close(*results)


@needs_native
def test_gradcheck():
    inputs, targets = make_pairs([torch.float64], ["nchw", "channels_last"], [(2, 3, 4, 5), (1, 8, 1, 1)])
    tensors = [x.requires_grad_() for x in (*inputs, *targets)]
    assert torch.autograd.gradcheck(lambda *t: native(t[:2], t[2:], [1.5, -2.0]), tensors, eps=1e-7)


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("dtype", "layout"), [*zip(DTYPES, itertools.cycle(LAYOUTS), strict=False)], ids=str)
def test_opcheck(dtype, layout, requires_grad):
    shapes = [(2, 3, 4, 5), (1, 8, 1, 1)]
    inputs, targets = make_pairs([dtype, torch.float32], [layout], shapes)
    for x in (*inputs, targets[0]):
        x.requires_grad_(requires_grad)
    opcheck(FORWARD, (inputs, targets, [1.0, 2.0], requires_grad))
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    signs = torch.ones(sum(x.numel() for x in inputs), dtype=torch.int8)
    slopes = (torch.ones(2, dtype=statistics), torch.ones((), dtype=statistics))
    wants = [True, True, True, False]
    tensors = ([x.detach() for x in inputs], [x.detach() for x in targets])
    opcheck(BACKWARD, (*slopes, signs, *tensors, [1.0, 2.0], wants))


@needs_native
def test_compiles_whole_with_any_size():
    def loss(a, b, c, d):
        values, total = functional.weighted_l1([a, c], [b, d], [1.0, 2.0])
        return total + values[0]

    def inputs(height, width):
        # All sizes differ: torch.compile treats equal sizes as one, and compiles again if they differ later.
        inputs, targets = make_pairs([torch.float32], ["nchw"], [(2, 3, height, width), (6, 4, 1, 1)])
        return [x.requires_grad_() for x in (inputs[0], targets[0], inputs[1], targets[1])]

    assert_compiles_once(loss, inputs)


@needs_native
@pytest.mark.slow
def test_compiles_with_inductor():
    def loss(a, b):
        return functional.weighted_l1([a * 2], [b.sin()], [3.0])[1]

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for layout in ("nchw", "channels_last"):
        x = [make_map((2, 6, 12, 5), layout=layout, seed=seed).requires_grad_() for seed in (0, 1)]
        torch.testing.assert_close(torch.autograd.grad(compiled(*x), x), torch.autograd.grad(loss(*x), x))


@needs_native
def test_autocast_leaves_the_dtypes_alone():
    inputs, targets = make_pairs([torch.bfloat16, torch.float32], ["nchw"])
    expected = native(inputs, targets, WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        values, total = native(inputs, targets, WEIGHTS)
    assert values.dtype == total.dtype == torch.float32
    assert torch.equal(values, expected[0]) and torch.equal(total, expected[1])


@needs_native
def test_second_derivative_says_that_there_is_none():
    x = make_map((2, 3, 4, 5), torch.float64).requires_grad_()
    values, total = native([x * x], [torch.zeros_like(x)], [1.0])
    (dx,) = torch.autograd.grad(total + values.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='first derivatives only; use implementation="reference"'):
        dx.square().sum().backward()


@needs_native
def test_vmap_says_that_there_is_none():
    x = make_map((2, 3, 4, 5))
    with pytest.raises(NotImplementedError, match="no vmap rule"):
        torch.func.vmap(lambda x: native([x], [x], [1.0]))(x)


def test_native_kernels_have_space_for_as_many_pairs():
    header = (Path(__file__).parents[2] / "csrc" / "weighted_l1" / "weighted_l1.h").read_text()
    assert re.findall(r"constexpr int \w+ = (\d+);", header) == [str(MAX_PAIRS)]


@needs_native
def test_kernel_checks_its_arguments():
    x = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="1 to 16 pairs"):
        FORWARD([x.detach()] * 17, [x.detach()] * 17, [1.0] * 17, False)
    with pytest.raises(RuntimeError, match="as many targets"):
        FORWARD([x.detach()], [], [1.0], False)
    with pytest.raises(RuntimeError, match="the same shape"):
        FORWARD([x.detach()], [x.detach()[:1]], [1.0], False)
    with pytest.raises(RuntimeError, match="must be float32"):
        FORWARD([torch.zeros(2, dtype=torch.int32)], [torch.zeros(2)], [1.0], False)
    signs = torch.zeros(5, dtype=torch.int8)
    with pytest.raises(RuntimeError, match="signs must be"):
        BACKWARD(torch.zeros(1), torch.zeros(()), signs, [x.detach()], [x.detach()], [1.0], [True, False])
    with pytest.raises(RuntimeError, match="keep_signs=False"):
        FORWARD([x], [x.detach()], [1.0], False)[1].backward()


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_bad_arguments(implementation):
    x, y = torch.zeros(2, 3), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"inputs\[1\] and targets\[1\] of the same shape, got \(2, 3\) and \(3, 2\)"):
        functional.weighted_l1([x, x], [x, y], [1.0, 1.0], implementation)
    with pytest.raises(ValueError, match="of the same length, got 2, 1 and 2"):
        functional.weighted_l1([x, x], [x], [1.0, 1.0], implementation)
    with pytest.raises(ValueError, match="expected 1 to 16 pairs, got 0"):
        functional.weighted_l1([], [], [], implementation)
    with pytest.raises(ValueError, match="expected 1 to 16 pairs, got 17"):
        functional.weighted_l1([x] * 17, [x] * 17, [1.0] * 17, implementation)
    with pytest.raises(TypeError, match=r"expected targets\[0\] in float32.*got torch\.int64"):
        functional.weighted_l1([x], [x.long()], [1.0], implementation)
    with pytest.raises(TypeError, match="sequences of tensors"):
        functional.weighted_l1(x, x, [1.0, 1.0], implementation)
    with pytest.raises(ValueError, match=r"targets\[0\] is on meta"):
        functional.weighted_l1([x], [x.to("meta")], [1.0], implementation)


def test_devices_without_a_kernel():
    assert automatic("meta", "weighted_l1") == "reference"
    assert "float64" in unavailable("triton", "cuda", "weighted_l1", float64=True)
    x = torch.zeros(2, device="meta")
    assert functional.weighted_l1([x], [x], [1.0])[1].device.type == "meta"
    with pytest.raises(ImplementationError, match="no native kernel for device type 'meta'"):
        functional.weighted_l1([x], [x], [1.0], "native")
    with pytest.raises(ImplementationError, match="Triton needs a GPU"):
        functional.weighted_l1([torch.zeros(2)], [torch.zeros(2)], [1.0], "triton")
    with pytest.raises(ImplementationError, match="does not support float64"):
        functional.weighted_l1([torch.zeros(2)], [torch.zeros(2).double()], [1.0], "triton")
