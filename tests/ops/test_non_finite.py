"""Infinities and NaN in every input of every public op: all implementations return what the docstrings promise."""

import itertools
from functools import partial

import pytest
import torch

from fastmunit import functional
from fastmunit.testing import LAYOUTS, assert_same_nonfinite, make_map
from tests.ops.fused_norm_cases import Case, native
from tests.ops.non_finite_cases import (
    POISONS,
    VALUES,
    all_cases,
    all_poisons,
    check_non_finite,
    in_channels,
    one_poison,
)

IMPLEMENTATIONS = ("native", "reference")
both_layouts = pytest.mark.parametrize("layout", ["nchw", "channels_last"])


def run(function, tensors, upstream):
    """Return the results and the gradients of all tensors."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    gradients = torch.autograd.grad(results[: len(upstream)], leaves, upstream)
    return [*(result.detach() for result in results), *gradients]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def put(tensor, value):
    """Replace one value in the second sample or channel."""
    tensor[{1: (1,), 2: (1, 1), 4: (1, 1, 1, 2)}[tensor.dim()]] = value


def assert_as_often_finite(ours, plain, name):
    wrong = int((ours.isfinite() != plain.isfinite()).sum())
    assert wrong == 0, f"{name}: {wrong} of {ours.numel()} values differ in being finite"


@pytest.mark.parametrize("case", all_cases(), ids=Case.id)
def test_fused_norm(case):
    check_non_finite(case, all_poisons(case), native)
    narrow = in_channels(case)
    for place, value in POISONS:
        check_non_finite(narrow, one_poison(narrow, place, value), native)


def test_an_infinite_weight_gives_the_sign_of_the_deviation():
    """The formula is written out for both norms and without one. An infinite bias of the opposite sign gives NaN."""
    x = torch.tensor([1.0, 2.0, 4.0, 5.0]).view(1, 1, 2, 2)
    weight, bias = torch.tensor([float("inf")]), torch.tensor([1.0])
    deviations = {"instance": x - 3, "layer": x - 3, "none": x}
    for statistics, implementation in itertools.product(deviations, IMPLEMENTATIONS):
        how = {"statistics": statistics, "implementation": implementation}
        expected = deviations[statistics] * float("inf")
        assert torch.equal(functional.fused_norm(x, weight, bias, **how)[0], expected)
        rectified = functional.fused_norm(x, weight, bias, activation="relu", **how)[0]
        assert torch.equal(rectified, expected.clamp_min(0))
        opposite = functional.fused_norm(x, weight, -weight, **how)[0]
        assert torch.equal(opposite.isnan(), expected > 0)


def test_a_weight_that_overflows_with_rstd_makes_infinities_and_no_nan():
    x = make_map((1, 1, 8, 8), torch.float32, mean=1e3, std=1e-2)
    y = native(x, torch.tensor([3e38]), torch.tensor([1.0]), statistics="instance")[0]
    assert y.isinf().any() and not y.isnan().any()


def test_the_reference_takes_infinite_weights_under_transforms():
    """The reference runs also if values cannot be read."""
    x, weight = make_map((2, 3, 4, 5)), torch.full((2, 3), float("inf"))

    def norm(x, weight):
        return functional.fused_norm(x, weight, statistics="instance", implementation="reference")[0]

    assert torch.func.vmap(norm)(x[None], weight[None]).shape == (1, 2, 3, 4, 5)
    torch._dynamo.reset()
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    assert compiled(x, weight).shape == x.shape


@both_layouts
def test_bias_act_pad(layout):
    names = ("x", "bias", "residual")
    for place, value in itertools.product((*names, "gradient"), VALUES):
        tensors = {
            "x": make_map((2, 3, 5, 4), layout=layout),
            "bias": random(3),
            "residual": make_map((2, 3, 5, 4), layout=layout, seed=2),
            "gradient": make_map((2, 3, 7, 6), layout=layout, seed=3),
        }
        put(tensors[place], value)

        def op(x, bias, residual, implementation):
            return functional.bias_act_pad(
                x, bias, activation="leaky_relu", residual=residual, pad=1, implementation=implementation
            )[0]

        inputs = [tensors[name] for name in names]
        ours, plain = (run(lambda *t, i=i: op(*t, i), inputs, [tensors["gradient"]]) for i in IMPLEMENTATIONS)
        for name, actual, expected in zip(("y", *names), ours, plain, strict=True):
            assert_same_nonfinite(actual, expected, f"{name} of {place}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_instance_norm_stats(layout):
    for place, value in itertools.product(("x", "dmean", "drstd"), VALUES):
        tensors = {"x": make_map((2, 3, 5, 4), layout=layout), "dmean": random(2, 3), "drstd": random(2, 3, seed=1)}
        put(tensors[place], value)
        ours, plain = (
            run(
                lambda x, i=i: functional.instance_norm_stats(x, implementation=i),
                [tensors["x"]],
                [tensors["dmean"], tensors["drstd"]],
            )
            for i in IMPLEMENTATIONS
        )
        for name, actual, expected in zip(("mean", "rstd", "dx"), ours, plain, strict=True):
            assert_same_nonfinite(actual, expected, f"{name} of {place}")


def test_weighted_l1():
    """This includes pairs with infinities on both sides, and another weight of 0."""
    places = ("input", "target", "both", "weight", "gradient of values", "gradient of total")
    for place, value, other in itertools.product(places, VALUES, (2.0, 0.0, *VALUES)):
        inputs, targets = [make_map((2, 3, 5, 4)), random(7)], [make_map((2, 3, 5, 4), seed=1), random(7, seed=1)]
        weights, of_values, of_total = [1.0, other], random(2), torch.ones(())
        if place in ("input", "both"):
            put(inputs[0], value)
        if place in ("target", "both"):
            put(targets[0], value)
        if place == "weight":
            weights[0] = value
        if place == "gradient of values":
            of_values[0] = value
        if place == "gradient of total":
            of_total.fill_(value)
        ours, plain = (
            run(
                lambda a, b, c, d, i=i, weights=weights: functional.weighted_l1([a, b], [c, d], weights, i),
                [*inputs, *targets],
                [of_values, of_total],
            )
            for i in IMPLEMENTATIONS
        )
        names = ("values", "total", "d input 0", "d input 1", "d target 0", "d target 1")
        for name, actual, expected in zip(names, ours, plain, strict=True):
            assert_same_nonfinite(actual, expected, f"{name} of {place} {value}, {other}")


@pytest.mark.parametrize("gan_type", ["lsgan", "nsgan", "hinge"])
def test_gan_loss(gan_type):
    places = ("output", "weight", "gradient of values", "gradient of total")
    for place, value, target in itertools.product(places, VALUES, ("real", "fake", "generator", "fake_real")):
        maps, weights, of_values, of_total = [make_map((2, 3, 5, 4)), random(8)], [1.0, 2.0], random(2), torch.ones(())
        if place == "output":
            put(maps[0], value)
        if place == "weight":
            weights[0] = value
        if place == "gradient of values":
            of_values[0] = value
        if place == "gradient of total":
            of_total.fill_(value)
        ours, plain = (
            run(
                lambda a, b, i=i, t=target, w=weights: functional.gan_loss([a, b], [t, "fake_real"], w, gan_type, i),
                maps,
                [of_values, of_total],
            )
            for i in IMPLEMENTATIONS
        )
        for name, actual, expected in zip(("values", "total", "dx", "d other"), ours, plain, strict=True):
            assert_same_nonfinite(actual, expected, f"{name} of {place} {value}, {target}")


@both_layouts
def test_adain_residual_block(layout):
    """Gradients pass through statistics, so only the positions of finite values are compared."""
    names = ("x", "weight 1", "bias 1", "weight 2", "bias 2", "style 1", "shift 1", "style 2", "shift 2")
    for place, value in itertools.product((*names, "gradient"), VALUES):
        shapes = [(4, 4, 3, 3), (4,), (4, 4, 3, 3), (4,), *[(2, 4)] * 4]
        tensors = [make_map((2, 4, 6, 5), layout=layout), *(random(*s, seed=k) for k, s in enumerate(shapes))]
        upstream = make_map((2, 4, 8, 7), layout=layout, seed=9)
        put(dict(zip((*names, "gradient"), (*tensors, upstream), strict=True))[place], value)

        def op(x, *rest, implementation):
            return functional.adain_residual_block(
                x, (rest[:2], rest[2:4]), (rest[4:6], rest[6:]), pad=1, implementation=implementation
            )[0]

        ours, plain = (run(lambda *t, i=i: op(*t, implementation=i), tensors, [upstream]) for i in IMPLEMENTATIONS)
        assert_same_nonfinite(ours[0], plain[0], f"y of {place}")
        for name, actual, expected in zip(names, ours[1:], plain[1:], strict=True):
            assert_as_often_finite(actual, expected, f"{name} of {place}")


@both_layouts
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("unshuffled", [False, True])
def test_upsample_conv2d(unshuffled, k, layout):
    places = ("x", "weight", "bias", "gradient")

    def upsample(mode, implementation, *tensors):
        return functional.upsample_conv2d(*tensors, mode, implementation, unshuffled=unshuffled)

    for mode, place, at_edge, value in itertools.product(
        ("reflect", "replicate", "zero"), places, (False, True), VALUES
    ):
        tensors = [make_map((2, 3, 6, 7), layout=layout), random(4, 3, k, k), random(4)]
        upstream = make_map((2, 16, 6, 7) if unshuffled else (2, 4, 12, 14), layout=layout, seed=1)
        target = dict(zip(places, (*tensors, upstream), strict=True))[place]
        if target.dim() == 1:
            target[1] = value
        else:
            row, column = (0, 0) if at_edge else (target.shape[2] // 2, target.shape[3] // 2)
            target[1, 1, row, column] = value
        ours, plain = (
            run(partial(upsample, mode, implementation), tensors, [upstream])
            for implementation in ("auto", "reference")
        )
        what = f"of {place} {value}, {mode}"
        assert_as_often_finite(ours[0], plain[0], f"y {what}")
        assert_same_nonfinite(ours[3], plain[3], f"dbias {what}")
        if place == "weight":
            assert not ours[1][:, 1].isfinite().any() and not plain[1][:, 1].isfinite().all()
            assert ours[1][:, ::2].isfinite().all() and plain[1][:, ::2].isfinite().all()
        else:
            assert_as_often_finite(ours[1], plain[1], f"dx {what}")
        if place == "x":
            assert not ours[2][:, 1].isfinite().any() and not plain[2][:, 1].isfinite().all()
            assert ours[2][:, ::2].isfinite().all() and plain[2][:, ::2].isfinite().all()
        else:
            assert_as_often_finite(ours[2], plain[2], f"dweight {what}")
