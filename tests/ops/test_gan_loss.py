"""gan_loss: the native kernel against float64, over shapes, layouts, dtypes, targets and extreme values."""

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
from fastmunit.ops import gan_loss as op
from fastmunit.ops.availability import automatic, unavailable
from fastmunit.testing import DTYPES, LAYOUTS, make_map, uninitialized_memory_is_nan
from tests.ops.compiled import assert_compiles_once
from tests.ops.gan_loss_cases import GAN_TYPES, TARGETS, WEIGHTS, check, expected, make_maps, run

REASON = unavailable("native", "cpu")
needs_native = pytest.mark.skipif(REASON is not None, reason=str(REASON))
each_type = pytest.mark.parametrize("gan_type", GAN_TYPES)

FORWARD = torch.ops.fastmunit.gan_loss.default
BACKWARD = torch.ops.fastmunit.gan_loss_backward.default


def native(outputs, targets, weights, gan_type):
    return functional.gan_loss(outputs, targets, weights, gan_type, "native")


def check_native(maps, targets, weights, gan_type, wants=None):
    dvalues = make_map((1, len(maps), 1, 1), torch.float32, seed=99).flatten().double()
    with uninitialized_memory_is_nan():
        ours = run(native, maps, targets, weights, gan_type, dvalues, wants)
    check(ours, maps, targets, weights, gan_type, dvalues, wants)


@each_type
def test_the_reference_is_the_formula(gan_type):
    for target in TARGETS:
        maps, _ = make_maps([torch.float64])
        weights = [1.5] * len(maps)
        for ours, plain in zip(
            reference.gan_loss(maps, [target] * len(maps), weights, gan_type),
            expected(maps, [target] * len(maps), weights, gan_type),
            strict=True,
        ):
            torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_type
def test_matches_float64(gan_type, dtype):
    for shift in range(len(TARGETS)):
        maps, targets = make_maps([dtype], [*LAYOUTS[shift:], *LAYOUTS[:shift]], seed=10 * shift)
        check_native(maps, [*targets[shift:], *targets[:shift]], WEIGHTS, gan_type)


@needs_native
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.lists(st.integers(1, 20), max_size=5).map(tuple), min_size=1, max_size=op.MAX_MAPS),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5),
    gan_type=st.sampled_from(GAN_TYPES),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_matches_float64_anywhere(shapes, dtypes, gan_type, seed, data):
    generator = torch.Generator().manual_seed(seed)
    kinds = itertools.cycle(dtypes)
    maps = [2 * torch.randn(s, generator=generator, dtype=torch.float64).to(next(kinds)) for s in shapes]
    length = {"min_size": len(maps), "max_size": len(maps)}
    weights = data.draw(st.lists(st.floats(-10, 10), **length))
    targets = [data.draw(st.sampled_from(TARGETS if s and s[0] % 2 == 0 else TARGETS[:3])) for s in shapes]
    wants = data.draw(st.lists(st.booleans(), **length).filter(any))
    check_native(maps, targets, weights, gan_type, wants)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_type
def test_large_and_many_segments(gan_type, dtype):
    """The halves of the second map meet within a segment."""
    maps, _ = make_maps([dtype], shapes=[(1, 1, 1, 16385), (2, 1, 150, 151)])
    check_native(maps, ["real", "fake_real"], [1.0, 2.0], gan_type)


@needs_native
@each_type
def test_large_outputs_keep_their_digits(gan_type):
    """Logits of ±30: the losses are x or about e^-30, and gradients -1 or about -e^-30."""
    x = torch.tensor([30.0, -30.0, 88.0, -120.0, 1e4])
    check_native([x, x, x], ["real", "fake", "generator"], [1.0, 1.0, 1.0], gan_type)
    (small,) = (v.item() for v in native([x[:1]], ["real"], [1.0], "nsgan")[0])
    assert small == pytest.approx(9.357622968839299e-14, rel=1e-6)


@needs_native
@pytest.mark.parametrize("upstream", [1.0, float("inf"), float("nan")])
@each_type
def test_nonfinite_and_kinks(gan_type, upstream):
    """Gradients that are 0 stay so at any slope for the hinge only, as in torch."""
    for value in (0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan")):
        for target in TARGETS:
            x = torch.tensor([value, value])
            ours, plain = (
                run(function, [x], [target], [2.0], gan_type, torch.tensor([upstream]))
                for function in (native, reference.gan_loss)
            )
            if upstream == 1.0 or gan_type != "nsgan":
                torch.testing.assert_close(ours, plain, equal_nan=True)
            else:
                torch.testing.assert_close(ours[:2], plain[:2], equal_nan=True)
                assert not ours[2].isfinite().any()


@needs_native
@pytest.mark.parametrize("implementation", ["native", "reference"])
@each_type
def test_empty_map_is_nan(gan_type, implementation):
    maps = [torch.zeros(0, 3, requires_grad=True), torch.ones(2, requires_grad=True)]
    for target in TARGETS:
        values, total = functional.gan_loss(maps, [target, "fake"], [1.0, 1.0], gan_type, implementation)
        assert values.isnan().tolist() == [True, False] and total.isnan()
        gradients = torch.autograd.grad(values[1], maps)
        assert gradients[0].shape == (0, 3) and gradients[1].isfinite().all()


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_halves_of_a_batch_are_two_maps(layout):
    """The target "fake_real" saves two slices and the concatenation of their gradients."""
    x = make_map((4, 3, 9, 7), torch.float64, layout, std=2.0).requires_grad_()
    for gan_type in GAN_TYPES:
        whole, total = native([x], ["fake_real"], [3.0], gan_type)
        parts, _ = native([*x.chunk(2)], ["fake", "real"], [3.0, 3.0], gan_type)
        torch.testing.assert_close(whole[0], parts.sum())
        torch.testing.assert_close(*(torch.autograd.grad(loss, x) for loss in (total, 3 * parts.sum())))


@needs_native
def test_sums_do_not_lose_small_terms():
    """The mean of 2^22 equal values is exact, although a sum in float32 would stop growing."""
    values, _ = native([torch.full((2**22,), 0.1)], ["generator"], [1.0], "hinge")
    assert values.item() == pytest.approx(-0.1, rel=1e-6)


@needs_native
def test_bits_do_not_depend_on_threads():
    maps, targets = make_maps([torch.float32], shapes=[(2, 1, 200, 211), (2, 70, 64, 65), (2, 8, 1, 1), (2, 1, 9, 9)])
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(native, maps, targets, [1.0, 2.0, 3.0, 4.0], "nsgan", torch.ones(4)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_native
def test_backward_is_one_op_and_computes_only_what_is_needed():
    maps, targets = make_maps([torch.float32])
    maps[1].requires_grad_()
    with torch.profiler.profile() as profile:
        native(maps, targets, WEIGHTS, "lsgan")[1].backward()
    assert [x.grad is not None for x in maps] == [k == 1 for k in range(len(maps))]
    assert [event.name for event in profile.events()].count("fastmunit::gan_loss_backward") == 1
    numbers = [TARGETS.index(target) for target in targets]
    wants = [k == 1 for k in range(len(maps))]
    slopes = torch.zeros(len(maps)), torch.ones(())
    (dx,) = BACKWARD(*slopes, [x.detach() for x in maps], numbers, WEIGHTS, "lsgan", wants)
    assert torch.equal(dx, maps[1].grad)


@needs_native
@each_type
def test_gradients_of_either_output(gan_type):
    maps, targets = make_maps([torch.float64])
    for part in (lambda values, total: values[2], lambda values, total: total):
        results = []
        for function in (native, reference.gan_loss):
            leaves = [x.detach().requires_grad_() for x in maps]
            loss = part(*function(leaves, targets, WEIGHTS, gan_type))
            results.append(torch.autograd.grad(loss, leaves, allow_unused=True))
        for ours, plain in zip(*results, strict=True):
            torch.testing.assert_close(ours, torch.zeros_like(ours) if plain is None else plain)


@needs_native
def test_one_tensor_in_two_maps():
    x = make_map((2, 3, 5, 7), torch.float64).requires_grad_()
    results = []
    for function in (native, reference.gan_loss):
        _, total = function([x, x, x], ["real", "fake", "fake_real"], [1.0, 2.0, 5.0], "nsgan")
        results.append(torch.autograd.grad(total, x))
    torch.testing.assert_close(*results)


@needs_native
@each_type
def test_gradcheck(gan_type):
    maps, targets = make_maps([torch.float64], ["nchw", "channels_last"], [(2, 3, 4, 5), (2, 8, 1, 1), (2,), (2, 1)])
    leaves = [x.requires_grad_() for x in maps[:2]]
    for names in (targets[:2], targets[2:]):
        assert torch.autograd.gradcheck(lambda *x, names=names: native(x, names, [1.5, -2.0], gan_type), leaves)


@needs_native
@pytest.mark.parametrize(("dtype", "layout"), [(torch.bfloat16, "channels_last"), (torch.float64, "sliced")], ids=str)
def test_opcheck(dtype, layout):
    maps, _ = make_maps([dtype, torch.float32], [layout], [(2, 3, 4, 5), (2, 8, 1, 1)])
    arguments = ([1, 3], [1.0, 2.0], "nsgan")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    slopes = (torch.ones(2, dtype=wide), torch.ones((), dtype=wide))
    opcheck(BACKWARD, (*slopes, maps, *arguments, [True, False]))
    for requires_grad in (False, True):
        opcheck(FORWARD, ([x.requires_grad_(requires_grad) for x in maps], *arguments))


@needs_native
def test_compiles_whole_with_any_size():
    def loss(a, b):
        values, total = functional.gan_loss([a, b], ["fake_real", "generator"], [1.0, 2.0], "hinge")
        return total + values[0]

    def inputs(height, width):
        # All sizes differ: torch.compile treats equal sizes as one, and compiles again if they differ later.
        return [x.requires_grad_() for x in make_maps([torch.float32], shapes=[(2, 3, height, width), (6, 4, 1, 1)])[0]]

    assert_compiles_once(loss, inputs)


@needs_native
def test_autocast_leaves_the_dtypes_alone():
    maps, targets = make_maps([torch.bfloat16, torch.float32])
    plain = native(maps, targets, WEIGHTS, "lsgan")
    with torch.autocast("cpu", torch.bfloat16):
        ours = native(maps, targets, WEIGHTS, "lsgan")
    assert ours[0].dtype == ours[1].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@needs_native
def test_second_derivative_and_vmap_say_that_there_is_none():
    x = make_map((2, 3, 4, 5), torch.float64).requires_grad_()
    _, total = native([x * x], ["real"], [1.0], "lsgan")
    (dx,) = torch.autograd.grad(total, x, create_graph=True)
    with pytest.raises(NotImplementedError, match='first derivatives only; use implementation="reference"'):
        dx.square().sum().backward()
    with pytest.raises(NotImplementedError, match="no vmap rule"):
        torch.func.vmap(lambda x: native([x], ["real"], [1.0], "lsgan"))(x.detach())


def test_native_kernels_have_space_for_as_many_maps():
    header = (Path(__file__).parents[2] / "csrc" / "gan_loss" / "gan_loss.h").read_text()
    assert re.findall(r"constexpr int \w+ = (\d+);", header) == [str(op.MAX_MAPS)]
    bindings = (Path(__file__).parents[2] / "csrc" / "gan_loss" / "torch" / "bindings.h").read_text()
    assert f"{{ {', '.join(op.TARGETS)} }};" in bindings


@needs_native
def test_kernel_checks_its_arguments():
    x = torch.zeros(3, 2)
    with pytest.raises(RuntimeError, match="1 to 32 maps"):
        FORWARD([x] * 33, [0] * 33, [1.0] * 33, "lsgan")
    with pytest.raises(RuntimeError, match="as many targets"):
        FORWARD([x], [], [1.0], "lsgan")
    with pytest.raises(RuntimeError, match="gan_type must be lsgan"):
        FORWARD([x], [0], [1.0], "wgan")
    with pytest.raises(RuntimeError, match="targets must be 0 to 3, got 4"):
        FORWARD([x], [4], [1.0], "lsgan")
    with pytest.raises(RuntimeError, match="two halves"):
        FORWARD([x], [3], [1.0], "lsgan")
    with pytest.raises(RuntimeError, match="must be float32"):
        FORWARD([x.int()], [0], [1.0], "lsgan")
    with pytest.raises(RuntimeError, match="a needed flag per output"):
        BACKWARD(torch.zeros(1), torch.zeros(()), [x], [0], [1.0], "lsgan", [])
    with pytest.raises(RuntimeError, match=r"dvalues must be \(1,\)"):
        BACKWARD(torch.zeros(2), torch.zeros(()), [x], [0], [1.0], "lsgan", [True])


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_bad_arguments(implementation):
    x = torch.zeros(3, 2)
    for error, message, arguments in (
        (ValueError, "of the same length, got 2, 1 and 2", ([x, x], ["real"], [1.0, 1.0], "lsgan")),
        (ValueError, "expected 1 to 32 maps, got 0", ([], [], [], "lsgan")),
        (ValueError, "expected 1 to 32 maps, got 33", ([x] * 33, ["real"] * 33, [1.0] * 33, "lsgan")),
        (ValueError, "expected gan_type lsgan, nsgan or hinge, got 'wgan'", ([x], ["real"], [1.0], "wgan")),
        (ValueError, r"expected targets\[0\] real, fake, .* got 'true'", ([x], ["true"], [1.0], "lsgan")),
        (ValueError, r"outputs\[0\] of shape \(3, 2\) has no two halves", ([x], ["fake_real"], [1.0], "lsgan")),
        (ValueError, r"outputs\[1\] is on meta", ([x, x.to("meta")], ["real", "real"], [1.0, 1.0], "lsgan")),
        (TypeError, r"expected outputs\[0\] in float32.*got torch\.int64", ([x.long()], ["real"], [1.0], "lsgan")),
        (TypeError, "a sequence of tensors", (x, ["real"] * 3, [1.0] * 3, "lsgan")),
        (TypeError, "a sequence of names", ([x], "real", [1.0], "lsgan")),
    ):
        with pytest.raises(error, match=message):
            functional.gan_loss(*arguments, implementation)


def test_devices_without_a_kernel():
    assert automatic("meta", "gan_loss") == "reference"
    assert "float64" in unavailable("triton", "cuda", "gan_loss", float64=True)
    x = torch.zeros(2, device="meta")
    assert functional.gan_loss([x], ["real"], [1.0], "hinge")[1].device.type == "meta"
    with pytest.raises(ImplementationError, match="no native kernel for device type 'meta'"):
        functional.gan_loss([x], ["real"], [1.0], "hinge", "native")
    with pytest.raises(ImplementationError, match="Triton needs a GPU"):
        functional.gan_loss([torch.zeros(2)], ["real"], [1.0], "hinge", "triton")
