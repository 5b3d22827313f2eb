"""fused_norm: the native kernel against float64, over shapes, layouts, dtypes, options and extreme values."""

import random
from contextlib import contextmanager

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from fastmunit import functional
from fastmunit.errors import ImplementationError
from fastmunit.ops.availability import unavailable
from fastmunit.testing import DTYPES, LAYOUTS, assert_as_exact_as, make_map, uninitialised_memory_is_nan
from tests.ops.fused_norm_cases import eager

REASON = unavailable("native", "cpu", "fused_norm")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

FORWARD = torch.ops.fastmunit.fused_norm.default
BACKWARD = torch.ops.fastmunit.fused_norm_backward.default
SIZES = (1, 2, 3, 7, 63, 64, 65)
AXES = {
    "n": (1, 2, 4),
    "c": (1, 3, 64, 255),
    "h": SIZES,
    "w": SIZES,
    "layout": LAYOUTS,
    "dtype": DTYPES,
    "statistics": ("instance", "layer", "none"),
    "parameters": ("absent", "channel", "sample", "bias"),
    "activation": ("none", "relu", "leaky_relu"),
    "residual": ("absent", "same", "interior", "other layout"),
    "pad": (0, 1, 2, 3),
    "pad_mode": ("reflect", "replicate", "zero"),
    "pixel_shuffle": (False, False, True),
    "gradient": ("padded", "interior", "both"),
}


def possible(case):
    pixels = case["h"] * case["w"]
    values = pixels * case["c"]
    if (case["statistics"] == "instance" and pixels == 1) or (case["statistics"] == "layer" and values == 1):
        return False
    if case["pixel_shuffle"] and (case["h"] % 2 or case["w"] % 2):
        return False
    return case["pad_mode"] != "reflect" or case["pad"] < min(case["h"], case["w"])


def sample(count, seed):
    """Cases of the grid with at most 300,000 values each; the same for the same seed."""
    choice = random.Random(seed)
    cases = []
    while len(cases) < count:
        case = {name: choice.choice(values) for name, values in AXES.items()}
        if possible(case) and case["n"] * case["c"] * case["h"] * case["w"] <= 300_000:
            cases.append(case)
    return cases


def name_of(case):
    return "-".join(str(value).removeprefix("torch.") for value in case.values())


def inputs_of(case, seed=0, mean=0.5, std=2.0):
    """x, weight, bias, residual of a case; None where absent."""
    n, c, h, w, dtype = (case[name] for name in ("n", "c", "h", "w", "dtype"))
    shape = (n, 4 * c, h // 2, w // 2) if case["pixel_shuffle"] else (n, c, h, w)
    x = make_map(shape, dtype, case["layout"], mean=mean, std=std, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    size = (n, c) if case["parameters"] == "sample" else (c,)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = (torch.randn(size, generator=generator, dtype=torch.float64).to(wide) for _ in range(2))
    kinds = {"absent": (None, None), "bias": (None, bias)}
    weight, bias = kinds.get(case["parameters"], (weight, bias))
    match case["residual"]:
        case "absent":
            residual = None
        case "same":
            residual = make_map((n, c, h, w), dtype, seed=seed + 2)
        case "interior":
            residual = make_map((n, c, h + 2, w + 2), dtype, "channels_last", seed=seed + 2)[:, :, 1:-1, 1:-1]
        case _:
            residual = make_map((n, c, h, w), dtype, "transposed", seed=seed + 2)
    return [x, weight, bias, residual]


def options_of(case):
    names = ("statistics", "activation", "pad", "pad_mode", "pixel_shuffle")
    return {name: case[name] for name in names}


def run(function, case, inputs, gradient_inputs):
    """Both results, and the gradients of all inputs that are there."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    x, weight, bias, residual = leaves
    padded, interior = function(x, weight, bias, residual=residual, **options_of(case))
    wanted = {"padded": [padded], "interior": [interior], "both": [padded, interior]}[case["gradient"]]
    upstream = [gradient_inputs[id(t) == id(interior) and case["gradient"] != "padded"] for t in wanted]
    upstream = [u[..., : t.shape[2], : t.shape[3]].to(t.dtype) for u, t in zip(upstream, wanted, strict=True)]
    gradients = torch.autograd.grad(wanted, [leaf for leaf in leaves if leaf is not None], upstream)
    return [padded.detach(), interior.detach(), *gradients]


def check(case, inputs):
    n, c, h, w = (case[name] for name in "nchw")
    upstream = [make_map((n, c, h + 6, w + 6), case["dtype"], seed=seed) for seed in (7, 8)]
    with uninitialised_memory_is_nan():
        ours = run(lambda *a, **o: functional.fused_norm(*a, **o, implementation="native"), case, inputs, upstream)
    plain = run(eager, case, inputs, upstream)
    wide = [None if t is None else t.double() for t in inputs]
    exact = run(eager, case, wide, upstream)
    names = ["padded", "interior", "dx"]
    names += [f"d{name}" for name, t in zip(("weight", "bias", "residual"), inputs[1:], strict=True) if t is not None]
    for name, a, b, e in zip(names, ours, plain, exact, strict=True):
        # The terms of a parameter's gradient cancel: errors are relative to the sum of their magnitudes.
        scale = 4.0 * upstream[0].numel() / c if name in ("dweight", "dbias") and upstream[0].numel() else None
        assert_as_exact_as(a, b, e, name, scale=scale)


@pytest.mark.parametrize("case", sample(220, seed=1), ids=name_of)
def test_matches_float64(case):
    check(case, inputs_of(case))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(0, 2**16), st.integers(2, 40), st.integers(2, 40), st.integers(1, 70))
def test_matches_float64_anywhere(grid_seed, seed, h, w, c):
    """Maps of more than two values: the gradient of two is nothing but cancellation."""
    case = {**sample(1, grid_seed)[0], "h": h, "w": w, "c": c, "dtype": torch.float64}
    if possible(case):
        check(case, inputs_of(case, seed))


def plain_case(**changes):
    case = {name: values[0] for name, values in AXES.items()}
    return {**case, "n": 2, "c": 5, "h": 9, "w": 6, "activation": "relu", "pad": 1, "gradient": "both", **changes}


@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_every_256_pixel_map(statistics, layout):
    case = plain_case(n=1, c=3, h=256, w=256, statistics=statistics, layout=layout, residual="interior")
    check(case, inputs_of(case))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("statistics", ["instance", "layer"])
def test_far_from_zero(statistics, layout):
    """Mean 1e4 with std 1e-2: float32 itself keeps about 1e-3 between neighbours, and nothing more may be lost."""
    case = plain_case(h=64, w=64, statistics=statistics, layout=layout, activation="none", gradient="interior")
    x = make_map((2, 5, 64, 64), torch.float32, layout, mean=1e4, std=1e-2)
    y = functional.fused_norm(x, implementation="native", **options_of(case))[1]
    exact = eager(x.double(), **options_of(case))[1]
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_maps(statistics, layout, dtype):
    x = torch.full((2, 3, 8, 8), 3.25, dtype=dtype).contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    x.requires_grad_()
    bias = torch.tensor([1.0, -2.0, 0.5])
    padded, _ = functional.fused_norm(x, None, bias, statistics=statistics, pad=2, implementation="native")
    expected = bias.to(dtype).view(1, 3, 1, 1).expand(2, 3, 12, 12)
    assert torch.equal(padded, expected)
    (gradient,) = torch.autograd.grad(padded.sum() * 1e-3, x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_nonfinite_values_spread_as_in_the_reference(value, statistics, layout, activation):
    x = make_map((2, 3, 9, 7), torch.float32, layout)
    x[1, 2, 4, 3] = value
    options = {"statistics": statistics, "activation": activation, "pad": 1}
    ours = functional.fused_norm(x, implementation="native", **options)[0]
    plain = eager(x, **options)[0]
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
def test_empty_batch(statistics):
    x = torch.empty(0, 3, 8, 8, requires_grad=True)
    weight = torch.ones(3, requires_grad=True)
    padded, interior = functional.fused_norm(x, weight, None, statistics=statistics, pad=1, implementation="native")
    assert padded.shape == (0, 3, 10, 10)
    assert interior.shape == (0, 3, 8, 8)
    dx, dweight = torch.autograd.grad(padded.sum(), (x, weight))
    assert dx.shape == x.shape
    assert torch.equal(dweight, torch.zeros(3))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_interior_is_a_view_and_layout_is_kept(layout):
    x = make_map((2, 8, 6, 7), torch.float32, layout)
    padded, interior = functional.fused_norm(x, statistics="instance", pad=1, implementation="native")
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert padded.is_contiguous(memory_format=memory_format)
    assert interior.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
    unpadded, same = functional.fused_norm(x, statistics="instance", implementation="native")
    assert unpadded is same


def test_saves_its_input_and_statistics_only():
    x = torch.randn(2, 8, 64, 64, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        functional.fused_norm(x, statistics="instance", activation="relu", pad=1, implementation="native")
    large = {t.untyped_storage().data_ptr() for t in saved if t.numel() >= x.numel()}
    assert large == {x.untyped_storage().data_ptr()}


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("batch", [1, 4])
def test_same_bits_for_any_number_of_threads(layout, statistics, batch):
    case = plain_case(n=batch, c=64, h=65, w=63, statistics=statistics, layout=layout, parameters="channel")
    inputs = inputs_of(case)
    upstream = [make_map((batch, 64, 71, 69), seed=seed) for seed in (7, 8)]
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(
                run(lambda *a, **o: functional.fused_norm(*a, **o, implementation="native"), case, inputs, upstream)
            )
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(dtype, layout, requires_grad):
    for case in (
        plain_case(dtype=dtype, layout=layout, parameters="sample", residual="interior"),
        plain_case(
            dtype=dtype, layout=layout, statistics="layer", parameters="channel", pixel_shuffle=True, h=8, pad=3
        ),
        plain_case(dtype=dtype, layout=layout, statistics="none", parameters="bias", activation="leaky_relu", pad=0),
    ):
        inputs = [None if t is None else t.detach().requires_grad_(requires_grad) for t in inputs_of(case)]
        o = options_of(case)
        options = (o["statistics"], o["activation"], 0.2, o["pad"], o["pad_mode"], 1e-5, o["pixel_shuffle"])
        opcheck(FORWARD, (*inputs, *options))
        with torch.no_grad():
            padded, mean, rstd = FORWARD(*inputs, *options)
        dpadded = make_map(tuple(padded.shape), dtype, seed=3)
        detached = [None if t is None else t.detach() for t in inputs]
        x, weight, bias, residual = detached
        for wants in ((True, True, residual is not None), (False, True, False), (False, False, False)):
            opcheck(BACKWARD, (dpadded, None, x, mean, rstd, weight, bias, *wants, *options))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("parameters", ["channel", "sample"])
@pytest.mark.parametrize("wanted", [(False, False), (True, False), (False, True)], ids=["none", "weight", "bias"])
def test_frozen_parameters_get_no_gradient(statistics, layout, parameters, wanted):
    """A frozen discriminator asks for dx alone: the op computes nothing else, and dx does not change by a bit."""
    inputs = inputs_of(plain_case(layout=layout, statistics=statistics, parameters=parameters))[:3]
    upstream = make_map((2, 5, 11, 8), torch.float32, layout, seed=7)

    def gradients(wants_parameters):
        leaves = [t.detach().requires_grad_(w) for t, w in zip(inputs, (True, *wants_parameters), strict=True)]
        options = {"statistics": statistics, "activation": "leaky_relu", "pad": 1}
        functional.fused_norm(*leaves, implementation="native", **options)[0].backward(upstream)
        return [leaf.grad for leaf in leaves]

    with empty_gradients_of_the_backward_op() as empty:
        some = gradients(wanted)
    assert empty == [tuple(not wants for wants in wanted)]
    for ours, full, wants in zip(some, gradients((True, True)), (True, *wanted), strict=True):
        assert torch.equal(ours, full) if wants else ours is None


@contextmanager
def empty_gradients_of_the_backward_op():
    """Record for each call of the backward op whether dweight and dbias have no values."""
    calls = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            results = func(*args, **(kwargs or {}))
            if func is BACKWARD:
                calls.append(tuple(result.numel() == 0 for result in results[1:3]))
            return results

    with Recorder():
        yield calls


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
def test_gradcheck(layout, statistics, pad_mode):
    case = plain_case(
        dtype=torch.float64, layout=layout, statistics=statistics, parameters="sample", residual="interior",
        pad_mode=pad_mode, h=4, w=5, c=2, activation="leaky_relu", pad=2,
    )  # fmt: skip
    x, weight, bias, residual = (t.detach().requires_grad_() for t in inputs_of(case))

    def function(x, weight, bias, residual):
        return functional.fused_norm(x, weight, bias, residual=residual, implementation="native", **options_of(case))

    assert torch.autograd.gradcheck(function, (x, weight, bias, residual), check_batched_grad=False)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_compiles_whole_without_recompiling(layout):
    def step(x, weight, bias, residual):
        padded, interior = functional.fused_norm(
            x, weight, bias, statistics="instance", activation="relu", residual=residual, pad=1, implementation="native"
        )
        return F.avg_pool2d(padded, 3, 1) + interior

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for height, width in ((8, 9), (12, 7), (8, 9), (20, 21), (12, 7)):
        inputs = [t.requires_grad_() for t in inputs_of(
            plain_case(h=height, w=width, layout=layout, parameters="sample", residual="same")
        )]  # fmt: skip
        expected, result = step(*inputs), compiled(*inputs)
        torch.testing.assert_close(result, expected)
        upstream = torch.randn_like(expected)
        for ours, plain in zip(
            torch.autograd.grad(result, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
        ):
            torch.testing.assert_close(ours, plain)
        counts.append(counter.frame_count)
    assert counts == counts[:1] * 5


def test_autocast_keeps_the_dtype_of_the_convolution():
    x = torch.randn(1, 3, 8, 8)
    weight = torch.randn(4, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.fused_norm(F.conv2d(x, weight), statistics="instance", implementation="native")[0]
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("implementation", ["auto", "native", "reference"])
@pytest.mark.parametrize("name", ["weight", "bias", "residual"])
def test_tensors_on_another_device_are_named(name, implementation):
    x = torch.randn(1, 3, 4, 4)
    other = torch.empty(x.shape if name == "residual" else (3,), device="meta")
    with pytest.raises(ValueError, match=f"fused_norm: {name} is on meta and x on cpu: move them to the same device"):
        functional.fused_norm(x, **{name: other}, statistics="instance", implementation=implementation)


def test_wrappers_are_the_same_op():
    x = torch.randn(2, 4, 6, 6)
    weight, bias = torch.randn(2, 2, 4)
    options = {"activation": "relu", "pad": 1, "implementation": "native"}
    pairs = [
        (functional.instance_norm(x, **options), functional.fused_norm(x, statistics="instance", **options)),
        (functional.adain(x, weight, bias, **options),
         functional.fused_norm(x, weight, bias, statistics="instance", **options)),
        (functional.layer_norm_munit(x, weight[0], bias[0], **options),
         functional.fused_norm(x, weight[0], bias[0], statistics="layer", **options)),
        (functional.bias_act_pad(x, bias[0], **options),
         functional.fused_norm(x, None, bias[0], statistics="none", **options)),
    ]  # fmt: skip
    for wrapper, op in pairs:
        assert torch.equal(wrapper[0], op[0])


def test_second_derivative_is_a_clear_error():
    x = torch.randn(1, 2, 5, 5, requires_grad=True)
    y = functional.fused_norm(x, statistics="instance", pad=1, implementation="native")[0]
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.sum().backward()


def test_vmap_is_a_clear_error():
    with pytest.raises(NotImplementedError, match="no vmap rule"):
        torch.func.vmap(lambda x: functional.fused_norm(x, statistics="instance", implementation="native")[0])(
            torch.randn(2, 1, 2, 5, 5)
        )


def test_an_implementation_that_is_not_there_says_so():
    with pytest.raises(ImplementationError, match="triton"):
        functional.fused_norm(torch.randn(1, 2, 5, 5), statistics="instance", implementation="triton")


X = torch.zeros(2, 4, 6, 6)


@pytest.mark.parametrize(
    ("x", "changes", "error", "message"),
    [
        (X[0], {}, ValueError, r"\(N, C, H, W\)"),
        (X.int(), {}, TypeError, "int32"),
        (X, {"statistics": "batch"}, ValueError, "'instance', 'layer', 'none'"),
        (X, {"activation": "gelu"}, ValueError, "gelu"),
        (X, {"pad": 4}, ValueError, "expected pad to be one of"),
        (X, {"pad_mode": "mirror"}, ValueError, "mirror"),
        (X[:, :, :2, :], {"pad": 2}, ValueError, "expected a reflect pad smaller"),
        (X[:, :, :1, :1], {}, ValueError, "more than one pixel"),
        (X[:, :1, :1, :1], {"statistics": "layer"}, ValueError, "more than one value"),
        (X, {"weight": torch.ones(3)}, ValueError, r"expected weight of shape \(4,\) or \(2, 4\), got \(3,\)"),
        (X, {"bias": torch.ones(4, dtype=torch.int32)}, TypeError, "bias"),
        (X, {"residual": X[:1]}, ValueError, "expected residual of shape"),
        (X, {"residual": X.double()}, TypeError, "expected residual in"),
        (X[:, :3], {"pixel_shuffle": True}, ValueError, "multiple of 4"),
        (X, {"implementation": "fast"}, ValueError, "expected implementation to be one of"),
    ],
)
def test_wrong_arguments_are_named(x, changes, error, message):
    with pytest.raises(error, match=message):
        functional.fused_norm(x, **{"statistics": "instance", **changes})
