"""The Triton kernels of fused_norm in Triton's interpreter. tests/kernels/test_interpreter.py runs this file."""

from dataclasses import replace

import pytest
import torch
from torch.library import opcheck

from fastmunit import functional
from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.testing import assert_same_nonfinite, make_map
from tests.ops.fused_norm_cases import Case, check, eager, gradients, inputs, run, sampled_cases, triton
from tests.ops.given_statistics_cases import check_with_statistics, given_statistics, tile_of, with_statistics
from tests.ops.non_finite_cases import FEW_POISONS, all_cases, all_poisons, check_non_finite

FORWARD = torch.ops.fastmunit.fused_norm_triton.default
BACKWARD = torch.ops.fastmunit.fused_norm_backward_triton.default
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SIMPLE = Case(shape=(2, 2, 9, 6))
both_layouts = pytest.mark.parametrize("layout", ["nchw", "channels_last"])
each_statistics = pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
SAMPLE = sampled_cases(
    18, seed=3, batches=2, channels=(1, 2, 20), sizes=(1, 2, 3, 7, 16, 33), dtypes=DTYPES, max_values=1500
)


@pytest.mark.parametrize("case", [case for case in SAMPLE if case.shape[1] < 20 or "last" in case.layout], ids=Case.id)
def test_sample(case):
    check(case, inputs(case), triton)


def cases_of_several_tiles():
    """Yield all layouts with all statistics. Each of them, each dtype and each mode is in a case that is not slow."""
    layouts = (
        ("nchw", (1, 1, 90, 70), False, torch.float32),
        ("channels_last", (1, 33, 5, 18), False, torch.bfloat16),
        ("channels_last", (1, 6, 6, 34), True, torch.float16),
    )
    modes = (("instance", "reflect", 1), ("layer", "reflect", 2), ("none", "replicate", 1))
    fast = {(0, "instance"), (1, "instance"), (0, "layer"), (2, "layer"), (1, "none")}
    for k, (layout, shape, pixel_shuffle, dtype) in enumerate(layouts):
        for statistics, mode, pad in modes:
            case = replace(
                SIMPLE, shape=shape, layout=layout, statistics=statistics, pad=pad, pad_mode=mode, dtype=dtype,
                pixel_shuffle=pixel_shuffle, residual="channels_last", coefficients=(1, 1), activation="leaky_relu",
                gradient_layout="transposed",
            )  # fmt: skip
            yield pytest.param(case, marks=[] if (k, statistics) in fast else pytest.mark.slow, id=case.id())


@pytest.mark.parametrize("case", list(cases_of_several_tiles()))
def test_several_tiles(case):
    check(case, inputs(case), triton)


@both_layouts
@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("size", [(16, 16), (72, 70)], ids=str)
def test_far_from_zero(size, statistics, layout):
    """With mean 1e4 and std 1e-2, float32 itself has about 1e-3 between neighbors. No more digits may be lost."""
    x = make_map((1, 1, *size), torch.float32, layout, mean=1e4, std=1e-2)
    y = functional.fused_norm(x, statistics=statistics, implementation="triton")[0]
    exact = eager(x.double(), statistics=statistics)[0]
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)


@both_layouts
@pytest.mark.parametrize("statistics", ["instance", "layer"])
def test_constant_maps(statistics, layout):
    x = torch.full((1, 2, 5, 4), 3.25).contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    bias = torch.tensor([1.0, -2.0])
    x.requires_grad_()
    padded, _ = functional.fused_norm(x, None, bias, statistics=statistics, pad=2, implementation="triton")
    assert torch.equal(padded, bias.view(1, 2, 1, 1).expand(1, 2, 9, 8))
    (gradient,) = torch.autograd.grad(padded.sum() * 1e-3, x)
    assert torch.isfinite(gradient).all()


@each_statistics
@pytest.mark.parametrize(("layout", "activation"), [("nchw", "relu"), ("channels_last", "leaky_relu")])
def test_nonfinite_values_spread_as_in_the_reference(statistics, layout, activation):
    """No statistic covers two samples: the first stays finite, the others get NaN and infinity."""
    x = make_map((3, 1, 9, 7), torch.float32, layout)
    x[1, 0, 4, 3], x[2, 0, 4, 3] = float("nan"), float("inf")
    options = {"statistics": statistics, "activation": activation, "pad": 1}
    ours = triton(x, **options)[0]
    assert ours[0].isfinite().all()
    torch.testing.assert_close(ours, eager(x, **options)[0], rtol=1e-5, atol=1e-5, equal_nan=True)


@both_layouts
def test_nonfinite_gradients_stay_where_they_are(layout):
    case = replace(SIMPLE, layout=layout, statistics="none", coefficients=(1, 0))
    tensors = inputs(case)
    upstream = gradients(case, *tensors[:3])
    upstream[0][0, 1, 0, 0] = float("inf")
    upstream[1][1, 1, 3, 4] = float("nan")
    ours = run(triton, tensors, upstream, case.options())
    expected = run(eager, tensors, upstream, case.options())
    assert_same_nonfinite(ours[2], expected[2])


def test_offsets_of_more_than_32_bits():
    """The rows of the residual and of the gradients are 2^30 values apart. Only used pages take memory."""
    apart = torch.empty(2**32 + 2**20, dtype=torch.float16).as_strided((1, 1, 5, 8), (1, 1, 2**30, 1))
    assert apart.storage_offset() + 4 * 2**30 + 7 > 2**32
    apart.copy_(make_map((1, 1, 5, 8), torch.float16, seed=7))
    x = make_map((1, 1, 5, 8), torch.float16).requires_grad_()
    results = []
    for residual in (apart, apart.contiguous()):
        y = triton(x, statistics="none", residual=residual)[0]
        results.append((y.detach(), *torch.autograd.grad(y, x, residual)))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)
    assert torch.equal(results[0][0], x.detach() + apart)


@each_statistics
def test_gradients_of_coefficients_are_left_out(statistics):
    """dx has the same bits with and without the gradients of weight and bias."""
    from fastmunit.kernels.fused_norm import fused_norm
    from fastmunit.kernels.fused_norm_backward import fused_norm_backward

    n, c, h, w = shape = (1, 2, 5, 4)
    options = FusedNormOptions(statistics, "relu", pad=1)
    x, padded = make_map(shape, torch.float32), torch.empty(n, c, h + 2, w + 2)
    weight, bias = make_map((1, 1, 2, c), torch.float32)[0, 0].unbind()
    mean, rstd = torch.empty(2, *((n, c) if statistics == "instance" else (n,)), dtype=torch.float64).unbind()
    fused_norm(x, weight, bias, None, padded, mean, rstd, options)
    results = []
    for wants in ((True, True), (False, True), (False, False)):
        dx, gradients = torch.full_like(x, float("nan")), [torch.full((c,), float("nan")) for _ in range(2)]
        dweight, dbias = (g if want else None for g, want in zip(gradients, wants, strict=True))
        fused_norm_backward(padded, None, x, mean, rstd, weight, bias, dx, dweight, dbias, None, options)
        assert [not g.isnan().any() for g in gradients] == list(wants)
        results.append((dx, gradients[1]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][0], results[2][0])
    assert torch.equal(results[0][1], results[1][1]) and not results[0][0].isnan().any()


@each_statistics
def test_no_channels(statistics):
    x, weight = torch.empty(2, 0, 8, 8, requires_grad=True), torch.ones(2, 0, requires_grad=True)
    padded, _ = triton(x, weight, None, statistics=statistics, pad=1)
    assert padded.shape == (2, 0, 10, 10)
    dx, dweight = torch.autograd.grad(padded.sum(), (x, weight))
    assert dx.shape == x.shape and dweight.shape == weight.shape


@each_statistics
def test_empty_batch(statistics):
    x = torch.empty(0, 3, 8, 8, requires_grad=True)
    weight = torch.ones(3, requires_grad=True)
    padded, interior = triton(x, weight, None, statistics=statistics, pad=1)
    assert padded.shape == (0, 3, 10, 10) and interior.shape == (0, 3, 8, 8)
    dx, dweight = torch.autograd.grad(padded.sum(), (x, weight))
    assert dx.shape == x.shape and torch.equal(dweight, torch.zeros(3))


def test_float64_is_refused():
    with pytest.raises(functional.ImplementationError, match="does not support float64"):
        triton(torch.zeros(1, 1, 2, 2, dtype=torch.float64), statistics="instance")


@pytest.mark.parametrize(
    "case",
    [
        replace(SIMPLE, shape=(1, 1, 4, 5), residual="sliced"),
        replace(
            SIMPLE,
            shape=(2, 1, 4, 6),
            layout="channels_last",
            statistics="layer",
            coefficients=(1, 1),
            pixel_shuffle=True,
        ),
        replace(SIMPLE, shape=(1, 1, 4, 5), layout="transposed", statistics="none", dtype=torch.bfloat16, pad=0),
    ],
    ids=Case.id,
)
def test_opcheck(case):
    tensors = [None if t is None else t.detach().requires_grad_() for t in inputs(case)]
    options = case.op_options()
    opcheck(FORWARD, (*tensors, *options))
    x, weight, bias, residual = (None if t is None else t.detach() for t in tensors)
    padded, mean, rstd = FORWARD(x, weight, bias, residual, *options)
    dpadded = make_map(tuple(padded.shape), case.dtype, "transposed", seed=3)
    opcheck(BACKWARD, (dpadded, None, x, mean, rstd, weight, bias, True, True, residual is not None, *options))


def test_compiles_whole():
    def step(x, weight, bias):
        padded, interior = triton(x, weight, bias, statistics="instance", activation="relu", pad=1)
        return padded.sum() + (interior * interior).sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    tensors = [t.requires_grad_() for t in inputs(replace(SIMPLE, shape=(1, 1, 5, 4)))[:3]]
    ours = torch.autograd.grad(compiled(*tensors), tensors)
    for gradient, expected in zip(ours, torch.autograd.grad(step(*tensors), tensors), strict=True):
        torch.testing.assert_close(gradient, expected)


@both_layouts
@pytest.mark.parametrize("statistics", ["instance", "layer"])
def test_given_statistics(statistics, layout):
    """A map of several tiles, a map that would be whole in one program, and a single pixel."""
    for shape, pixel_shuffle, pad_mode in (((1, 1, 90, 70), True, "reflect"), ((2, 3, 5, 7), False, "reflect"),
                                           ((2, 1, 1, 1), False, "replicate")):  # fmt: skip
        case = replace(
            SIMPLE, shape=shape, layout=layout, statistics=statistics, pixel_shuffle=pixel_shuffle, residual="interior",
            pad_mode=pad_mode, activation="leaky_relu",
        )  # fmt: skip
        for dtype, of in ((torch.float32, torch.float64), (torch.bfloat16, torch.float32)):
            cast = replace(case, dtype=dtype)
            check_with_statistics(cast, inputs(cast), given_statistics(cast, of), triton)


@both_layouts
@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("size", [(16, 16), (72, 70)], ids=str)
def test_tiles_have_the_bits_of_the_whole_map(size, statistics, layout):
    case = replace(SIMPLE, shape=(1, 2, *size), layout=layout, statistics=statistics)
    tensors = inputs(case)
    whole, *given = FORWARD(*tensors, *case.op_options())
    rows, columns = slice(3, 15), slice(2, size[1])
    tile = with_statistics(triton, case, tile_of(case, tensors, rows, columns), given)[1]
    assert torch.equal(tile, whole[:, :, 1:-1, 1:-1][:, :, rows, columns])


def test_kernels_refuse_to_be_differentiated_with_given_statistics():
    x, given = torch.zeros(1, 2, 3, 3, requires_grad=True), {"mean": torch.zeros(1, 2), "rstd": torch.ones(1, 2)}
    with pytest.raises(functional.ImplementationError, match="given statistics has no derivative"):
        triton(x, statistics="instance", **given)


def cases_of_poisons():
    """Yield each statistic in both layouts, with all poisons. Those that are not slow have a poison in one layout."""
    few = {"nchw": FEW_POISONS[::2], "channels_last": [FEW_POISONS[0], *FEW_POISONS[1::2]]}
    assert {*few["nchw"], *few["channels_last"]} == {*FEW_POISONS}
    for layout, poisons in few.items():
        for marks, places in ([], poisons), (pytest.mark.slow, FEW_POISONS):
            for case in all_cases(places)[1::3]:
                if case.layout == layout:
                    yield pytest.param(case, places, marks=marks, id=case.id())


@pytest.mark.parametrize(("case", "poisons"), list(cases_of_poisons()))
def test_infinities_and_nan(case, poisons):
    check_non_finite(case, all_poisons(case, poisons), triton)
