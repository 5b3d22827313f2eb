"""fused_norm with given statistics: the native kernel and the reference, tiles of a map, gradients and errors."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.library import opcheck

from fastmunit import functional
from fastmunit.errors import ImplementationError
from fastmunit.ops.availability import unavailable
from fastmunit.testing import DTYPES, assert_same_nonfinite, make_map
from tests.ops.fused_norm_cases import Case, eager, inputs, native, sampled_cases
from tests.ops.given_statistics_cases import check_with_statistics, given_statistics, tile_of, with_statistics

REASON = unavailable("native", "cpu", "fused_norm")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

FORWARD = torch.ops.fastmunit.fused_norm.default
WITH_STATISTICS = torch.ops.fastmunit.fused_norm_with_statistics.default
GRID = {"channels": (1, 3, 64, 255), "sizes": (1, 2, 3, 7, 63, 64, 65), "max_values": 100_000}
SIMPLE = Case(shape=(2, 5, 9, 6))
INF, NAN = float("inf"), float("nan")
VALUES = (INF, -INF, NAN)
both_layouts = pytest.mark.parametrize("layout", ["nchw", "channels_last"])
both_statistics = pytest.mark.parametrize("statistics", ["instance", "layer"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_matches_float64(dtype):
    cases = [case for case in sampled_cases(60, seed=5, **GRID) if case.statistics != "none"]
    assert {case.dtype for case in cases} == set(DTYPES)
    for case in cases:
        check_with_statistics(case, inputs(case), given_statistics(case, dtype), native)


@both_statistics
@both_layouts
def test_a_single_pixel_is_enough(layout, statistics):
    case = replace(SIMPLE, shape=(2, 1, 1, 1), layout=layout, statistics=statistics, pad=2, pad_mode="replicate")
    check_with_statistics(case, inputs(case), given_statistics(case), native)


@both_statistics
@both_layouts
def test_a_mean_far_from_zero_loses_no_digits(layout, statistics):
    case = replace(SIMPLE, layout=layout, statistics=statistics, coefficients=(0, 0))
    tensors = inputs(case, mean=1e4, std=1e-2)
    mean, rstd = given_statistics(case)
    given = (1e4 + 1e-2 * mean, 100 * rstd)
    y, exact = (with_statistics(f, case, (x, *tensors[1:]), given)[1] for f, x in _pair(tensors[0]))
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)


def _pair(x):
    return (native, x), (eager, x.double())


def test_the_reference_is_the_formula():
    case = Case(shape=(2, 3, 4, 5), dtype=torch.float64, activation="leaky_relu", residual="nchw", pad=0)
    for statistics in ("instance", "layer"):
        case = replace(case, statistics=statistics)
        x, weight, bias, residual = tensors = inputs(case)
        given = given_statistics(case)
        mean, rstd = (values.view(2, -1, 1, 1) for values in given)
        z = (x - mean) * rstd * weight[:, :, None, None] + bias[:, :, None, None]
        torch.testing.assert_close(
            with_statistics(eager, case, tensors, given)[0], torch.where(z > 0, z, 0.2 * z) + residual
        )


@pytest.mark.parametrize("pixel_shuffle", [False, True])
@both_statistics
@both_layouts
def test_tiles_have_the_bits_of_the_whole_map(layout, statistics, pixel_shuffle):
    """The whole map has several segments, and threads, vectors and pads of the tiles do not line up with its own."""
    for dtype in DTYPES:
        case = Case(
            shape=(2, 3, 134, 262), dtype=dtype, layout=layout, statistics=statistics, activation="leaky_relu",
            residual="interior", pixel_shuffle=pixel_shuffle,
        )  # fmt: skip
        tensors = inputs(case)
        whole, *given = FORWARD(*tensors, *case.op_options())
        whole = whole[:, :, 1:-1, 1:-1]
        for rows, columns in (
            (slice(0, 134), slice(0, 262)),
            (slice(2, 40), slice(30, 62)),
            (slice(74, 134), slice(0, 2)),
        ):
            pad = 0 if columns.stop == 2 else 1
            tile = with_statistics(native, replace(case, pad=pad), tile_of(case, tensors, rows, columns), given)[1]
            assert torch.equal(tile, whole[:, :, rows, columns])


@both_layouts
def test_same_bits_for_any_number_of_threads(layout):
    case = Case(shape=(1, 3, 300, 200), layout=layout, statistics="layer", residual="interior")
    tensors, given = inputs(case), given_statistics(case)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(with_statistics(native, case, tensors, given)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@both_statistics
@both_layouts
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_infinities_and_nan(activation, layout, statistics):
    case = replace(SIMPLE, shape=(2, 3, 5, 4), layout=layout, statistics=statistics, activation=activation)
    places = {"x": VALUES, "weight": VALUES, "bias": VALUES, "mean": (NAN,), "rstd": VALUES}
    for place, values in places.items():
        for value in values:
            tensors, given = inputs(case), given_statistics(case)
            named = dict(zip(("x", "weight", "bias", "residual", "mean", "rstd"), (*tensors, *given), strict=True))
            target = named[place]
            target[{1: (1,), 2: (1, 1), 4: (1, 1, 2, 2)}[target.dim()]] = value
            ours, plain = (with_statistics(function, case, tensors, given)[0] for function in (native, eager))
            assert activation == "relu" or not plain.isfinite().all()
            assert_same_nonfinite(ours, plain, f"{place} {value}")
    given = torch.full_like(given[0], INF), torch.full_like(given[1], NAN)  # those of a map with an infinity
    assert with_statistics(native, case, tensors, given)[1].isnan().all()


@both_statistics
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3)])
def test_empty_maps(shape, statistics):
    case = replace(SIMPLE, shape=shape, statistics=statistics, coefficients=(0, 0))
    given = [torch.ones(shape[:2] if statistics == "instance" else shape[:1])] * 2
    for function in (native, eager):
        padded, interior = with_statistics(function, case, (torch.zeros(shape), None, None, None), given)
        assert padded.shape == (*shape[:2], 5, 5) and interior.shape == shape


@pytest.mark.parametrize(("statistics", "pad_mode"), [("instance", "reflect"), ("layer", "zero")])
def test_gradcheck(statistics, pad_mode):
    """The reference runs if a gradient is required. Statistics are constants."""
    case = Case(
        shape=(2, 2, 4, 5), dtype=torch.float64, statistics=statistics, activation="leaky_relu", residual="nchw",
        pad=2, pad_mode=pad_mode,
    )  # fmt: skip
    leaves = [t.detach().requires_grad_() for t in inputs(case)]
    given = [t.requires_grad_() for t in given_statistics(case)]

    def function(x, weight, bias, residual):
        return functional.fused_norm(x, weight, bias, residual=residual, mean=given[0], rstd=given[1], **case.options())

    assert torch.autograd.gradcheck(function, leaves)
    found = torch.autograd.grad(function(*leaves)[0].sum(), given, allow_unused=True)
    assert found == (None, None)


def test_the_gradient_is_that_of_the_formula():
    x = make_map((2, 3, 4, 5)).requires_grad_()
    case = replace(SIMPLE, shape=(2, 3, 4, 5))
    mean, rstd = given_statistics(case)
    weight = torch.tensor([2.0, -1.0, 0.5])
    upstream = make_map((2, 3, 4, 5), seed=1)
    y = functional.fused_norm(x, weight, statistics="instance", mean=mean, rstd=rstd, activation="relu")[0]
    (dx,) = torch.autograd.grad(y, x, upstream)
    expected = upstream * (y > 0) * (rstd.float() * weight)[:, :, None, None]
    torch.testing.assert_close(dx, expected)


@pytest.mark.parametrize("needs", ["x", "weight", "bias", "residual"])
def test_kernels_refuse_to_be_differentiated(needs):
    case = replace(SIMPLE, residual="nchw")
    tensors = dict(zip(("x", "weight", "bias", "residual"), inputs(case), strict=True))
    tensors[needs] = tensors[needs].detach().requires_grad_()
    mean, rstd = given_statistics(case)
    call = partial(functional.fused_norm, **tensors, mean=mean, rstd=rstd, statistics="instance")
    with pytest.raises(ImplementationError, match="given statistics has no derivative: call it under"):
        call(implementation="native")
    assert call()[0].requires_grad and call(implementation="reference")[0].requires_grad
    with torch.no_grad():
        assert torch.equal(call()[0], call(implementation="native")[0])
    x, weight, bias, residual = tensors.values()
    y = WITH_STATISTICS(x, mean, rstd, weight, bias, residual, *case.op_options())
    with pytest.raises(
        NotImplementedError, match="fused_norm_with_statistics cannot be differentiated: call fused_norm"
    ):
        y.sum().backward()


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced"])
def test_opcheck(layout):
    for case in (
        replace(SIMPLE, layout=layout, residual="interior"),
        replace(SIMPLE, shape=(2, 3, 4, 6), layout=layout, statistics="layer", pad=0, pixel_shuffle=True),
    ):
        x, weight, bias, residual = inputs(case)
        given = (values.contiguous() for values in given_statistics(case))
        arguments = (x, *given, weight, bias, residual, *case.op_options())
        opcheck(WITH_STATISTICS, arguments)


def test_compiles_whole():
    case = replace(SIMPLE, residual="nchw")
    tensors, given = inputs(case), given_statistics(case, torch.float32)

    def step(*tensors):
        padded, interior = with_statistics(native, case, tensors, given)
        return padded.sum() + interior

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), step(*tensors))


def test_wrappers_pass_statistics_on():
    x, weight, bias = make_map((2, 3, 4, 5)), torch.ones(2, 3), torch.zeros(2, 3)
    given = {"mean": torch.zeros(2, 3), "rstd": torch.ones(2, 3)}
    assert torch.equal(functional.instance_norm(x, **given)[0], x)
    assert torch.equal(functional.adain(x, weight, bias, **given)[0], x)
    given = {"mean": torch.zeros(2), "rstd": torch.ones(2)}
    assert torch.equal(functional.layer_norm_munit(x, **given)[0], x)
    with pytest.raises(TypeError, match=r"bias_act_pad\(\) got an unexpected keyword argument 'mean'"):
        functional.bias_act_pad(x, mean=given["mean"], rstd=given["rstd"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rstd": None}, ValueError, "expected mean and rstd together, got no rstd"),
        ({"mean": None}, ValueError, "expected mean and rstd together, got no mean"),
        (
            {"statistics": "none"},
            ValueError,
            'expected statistics "instance" or "layer" with mean and rstd, got "none"',
        ),
        ({"mean": torch.ones(4)}, ValueError, r"expected mean of shape \(2, 4\) for statistics 'instance', got \(4,\)"),
        ({"statistics": "layer"}, ValueError, r"expected mean of shape \(2,\) for statistics 'layer', got \(2, 4\)"),
        ({"rstd": torch.ones(2, 4).half()}, TypeError, "expected rstd in float64 or float32, got torch.float16"),
        ({"rstd": torch.ones(2, 4, device="meta")}, ValueError, "rstd is on meta and x on cpu: move them to the same"),
    ],
)
def test_wrong_statistics_are_named(changes, error, message):
    arguments = {"statistics": "instance", "mean": torch.zeros(2, 4), "rstd": torch.ones(2, 4), **changes}
    for implementation in ("native", "reference"):
        with pytest.raises(error, match=f"fused_norm: {message}"):
            functional.fused_norm(torch.zeros(2, 4, 6, 6), **arguments, implementation=implementation)


def test_the_kernel_checks_its_statistics():
    x, good = torch.zeros(2, 4, 3, 3), torch.ones(2, 4, dtype=torch.float64)
    options = SIMPLE.op_options()
    for mean, rstd in ((good.float(), good), (good, good[0]), (good, good.T.contiguous().T)):
        with pytest.raises(RuntimeError, match="mean and rstd must be those of fused_norm"):
            WITH_STATISTICS(x, mean, rstd, None, None, None, *options)
    with pytest.raises(RuntimeError, match="statistics must be instance or layer"):
        WITH_STATISTICS(x, good, good, None, None, None, *options._replace(statistics="none"))
