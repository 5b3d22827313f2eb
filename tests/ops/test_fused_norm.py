"""fused_norm as a function: results and gradients against float64, autograd, torch.compile and errors."""

from contextlib import contextmanager
from dataclasses import replace

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
from fastmunit.testing import DTYPES, make_map
from tests.ops.fused_norm_cases import Case, check, eager, gradients, inputs, is_valid, native, run, sampled_cases

REASON = unavailable("native", "cpu", "fused_norm")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

FORWARD = torch.ops.fastmunit.fused_norm.default
BACKWARD = torch.ops.fastmunit.fused_norm_backward.default
GRID = {"channels": (1, 3, 64, 255), "sizes": (1, 2, 3, 7, 63, 64, 65), "max_values": 300_000}
SIMPLE = Case(shape=(2, 5, 9, 6), coefficients=(0, 0))
both_layouts = pytest.mark.parametrize("layout", ["nchw", "channels_last"])
each_statistics = pytest.mark.parametrize("statistics", ["instance", "layer", "none"])


@pytest.mark.parametrize("case", sampled_cases(220, seed=1, **GRID), ids=Case.id)
def test_matches_float64(case):
    check(case, inputs(case), dx_by_terms=case.shape[2] * case.shape[3] <= 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(0, 2**16), st.integers(2, 40), st.integers(2, 40), st.integers(1, 70))
def test_matches_float64_anywhere(grid_seed, seed, h, w, c):
    """Planes have more than two values, because the gradient of two values consists of cancellation."""
    case = sampled_cases(1, grid_seed, **GRID)[0]
    case = replace(case, shape=(case.shape[0], c, h, w), dtype=torch.float64)
    if is_valid(case):
        check(case, inputs(case, seed=seed), dx_by_terms=False)


@each_statistics
@both_layouts
def test_every_256_pixel_map(statistics, layout):
    case = replace(SIMPLE, shape=(1, 3, 256, 256), statistics=statistics, layout=layout, residual="interior")
    check(case, inputs(case), dx_by_terms=False)


@both_layouts
@pytest.mark.parametrize("statistics", ["instance", "layer"])
def test_far_from_zero(statistics, layout):
    """With mean 1e4 and std 1e-2, float32 itself has about 1e-3 between neighbors. No more digits may be lost."""
    options = {"statistics": statistics, "pad": 1}
    x = make_map((2, 5, 64, 64), torch.float32, layout, mean=1e4, std=1e-2)
    y = native(x, **options)[1]
    exact = eager(x.double(), **options)[1]
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)


@both_layouts
@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_maps(statistics, layout, dtype):
    x = torch.full((2, 3, 8, 8), 3.25, dtype=dtype).contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    x.requires_grad_()
    bias = torch.tensor([1.0, -2.0, 0.5])
    padded, _ = native(x, None, bias, statistics=statistics, pad=2)
    expected = bias.to(dtype).view(1, 3, 1, 1).expand(2, 3, 12, 12)
    assert torch.equal(padded, expected)
    (gradient,) = torch.autograd.grad(padded.sum() * 1e-3, x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@each_statistics
@both_layouts
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_nonfinite_values_spread_as_in_the_reference(value, statistics, layout, activation):
    x = make_map((2, 3, 9, 7), torch.float32, layout)
    x[1, 2, 4, 3] = value
    options = {"statistics": statistics, "activation": activation, "pad": 1}
    torch.testing.assert_close(native(x, **options)[0], eager(x, **options)[0], rtol=1e-5, atol=1e-5, equal_nan=True)


@each_statistics
def test_empty_batch(statistics):
    x = torch.empty(0, 3, 8, 8, requires_grad=True)
    weight = torch.ones(3, requires_grad=True)
    padded, interior = native(x, weight, None, statistics=statistics, pad=1)
    assert padded.shape == (0, 3, 10, 10)
    assert interior.shape == (0, 3, 8, 8)
    dx, dweight = torch.autograd.grad(padded.sum(), (x, weight))
    assert dx.shape == x.shape
    assert torch.equal(dweight, torch.zeros(3))


@both_layouts
def test_interior_is_a_view_and_layout_is_kept(layout):
    x = make_map((2, 8, 6, 7), torch.float32, layout)
    padded, interior = native(x, statistics="instance", pad=1)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert padded.is_contiguous(memory_format=memory_format)
    assert interior.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
    unpadded, same = native(x, statistics="instance")
    assert unpadded is same


def test_saves_its_input_and_statistics_only():
    x = torch.randn(2, 8, 64, 64, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        native(x, statistics="instance", activation="relu", pad=1)
    large = {t.untyped_storage().data_ptr() for t in saved if t.numel() >= x.numel()}
    assert large == {x.untyped_storage().data_ptr()}


@both_layouts
@each_statistics
@pytest.mark.parametrize("batch", [1, 4])
def test_same_bits_for_any_number_of_threads(layout, statistics, batch):
    case = replace(SIMPLE, shape=(batch, 64, 65, 63), statistics=statistics, layout=layout, coefficients=(1, 1))
    tensors = inputs(case)
    upstream = gradients(case, *tensors[:3])
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(native, tensors, upstream, case.options()))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


CHECKED = [
    replace(SIMPLE, coefficients=(2, 2), residual="interior"),
    replace(SIMPLE, shape=(2, 5, 8, 6), statistics="layer", coefficients=(1, 1), pixel_shuffle=True, pad=3),
    replace(SIMPLE, statistics="none", coefficients=(0, 1), activation="leaky_relu", pad=0),
]
dtypes_and_layouts = pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, "nchw"),
        (torch.float32, "channels_last"),
        (torch.float32, "sliced"),
        (torch.bfloat16, "channels_last"),
        (torch.float16, "sliced"),
        (torch.float64, "nchw"),
    ],
    ids=str,
)


@dtypes_and_layouts
def test_opcheck(dtype, layout):
    """Each case learns with half of the dtypes and layouts, and every dtype and layout with some of the cases."""
    learning = CHECKED[::2] if layout == "sliced" or dtype == torch.bfloat16 else CHECKED[1::2]
    for case in CHECKED:
        tensors = [
            None if t is None else t.requires_grad_(case in learning)
            for t in inputs(replace(case, dtype=dtype, layout=layout))
        ]
        opcheck(FORWARD, (*tensors, *case.op_options()))


@dtypes_and_layouts
def test_opcheck_of_the_backward_op(dtype, layout):
    for case in CHECKED:
        x, weight, bias, residual = inputs(replace(case, dtype=dtype, layout=layout))
        options = case.op_options()
        padded, mean, rstd = FORWARD(x, weight, bias, residual, *options)
        dpadded = make_map(tuple(padded.shape), dtype, seed=3)
        for wants in ((True, True, residual is not None), (False, True, False), (False, False, False)):
            opcheck(BACKWARD, (dpadded, None, x, mean, rstd, weight, bias, *wants, *options))


@both_layouts
@each_statistics
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("wants", [(False, False), (True, False), (False, True)], ids=["none", "weight", "bias"])
def test_frozen_parameters_get_no_gradient(statistics, layout, dimensions, wants):
    """A frozen discriminator needs dx only: the op computes nothing else, and dx has the same bits."""
    case = replace(SIMPLE, layout=layout, statistics=statistics, coefficients=(dimensions, dimensions))
    tensors = inputs(case)[:3]
    upstream = make_map((2, 5, 11, 8), torch.float32, layout, seed=7)

    def leaf_gradients(parameters_want):
        leaves = [t.detach().requires_grad_(w) for t, w in zip(tensors, (True, *parameters_want), strict=True)]
        native(*leaves, statistics=statistics, activation="leaky_relu", pad=1)[0].backward(upstream)
        return [leaf.grad for leaf in leaves]

    with empty_gradients_of_the_backward_op() as empty:
        some = leaf_gradients(wants)
    assert empty == [tuple(not want for want in wants)]
    for ours, full, want in zip(some, leaf_gradients((True, True)), (True, *wants), strict=True):
        assert torch.equal(ours, full) if want else ours is None


@contextmanager
def empty_gradients_of_the_backward_op():
    """Record for each call of the backward op if dweight and dbias are empty."""
    calls = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            results = func(*args, **(kwargs or {}))
            if func is BACKWARD:
                calls.append(tuple(result.numel() == 0 for result in results[1:3]))
            return results

    with Recorder():
        yield calls


@pytest.mark.parametrize(
    ("layout", "statistics", "pad_mode"),
    [
        (("nchw", "channels_last")[(i + k) % 2], statistics, pad_mode)
        for i, statistics in enumerate(("instance", "layer", "none"))
        for k, pad_mode in enumerate(("reflect", "replicate", "zero"))
    ],
)
def test_gradcheck(layout, statistics, pad_mode):
    case = Case(
        shape=(2, 2, 4, 5), dtype=torch.float64, layout=layout, statistics=statistics, residual="interior",
        pad_mode=pad_mode, activation="leaky_relu", pad=2,
    )  # fmt: skip
    x, weight, bias, residual = (t.detach().requires_grad_() for t in inputs(case))

    def function(x, weight, bias, residual):
        return native(x, weight, bias, residual=residual, **case.options())

    assert torch.autograd.gradcheck(function, (x, weight, bias, residual), check_batched_grad=False)


@both_layouts
def test_compiles_whole_without_recompiling(layout):
    def step(x, weight, bias, residual):
        padded, interior = native(x, weight, bias, statistics="instance", activation="relu", residual=residual, pad=1)
        return F.avg_pool2d(padded, 3, 1) + interior

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for height, width in ((8, 9), (12, 7), (8, 9), (20, 21), (12, 7)):
        case = Case(shape=(2, 5, height, width), layout=layout, residual="nchw")
        tensors = [t.requires_grad_() for t in inputs(case)]
        expected, result = step(*tensors), compiled(*tensors)
        torch.testing.assert_close(result, expected)
        upstream = torch.randn_like(expected)
        for ours, plain in zip(
            torch.autograd.grad(result, tensors, upstream),
            torch.autograd.grad(expected, tensors, upstream),
            strict=True,
        ):
            torch.testing.assert_close(ours, plain)
        counts.append(counter.frame_count)
    assert counts == counts[:1] * 5


@pytest.mark.parametrize("case", sampled_cases(6, seed=2), ids=Case.id)
def test_reference_matches_separate_ops(case):
    """The reference matches formulas that are written out in float64."""
    case = replace(case, dtype=torch.float64)
    x, weight, bias, residual = inputs(case)
    padded, interior = eager(x, weight, bias, residual=residual, **case.options())
    y = torch.nn.functional.pixel_shuffle(x, 2) if case.pixel_shuffle else x
    if case.statistics == "instance":
        centered = y - y.mean((2, 3), keepdim=True)
        y = centered / (centered.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    elif case.statistics == "layer":
        centered = y - y.mean((1, 2, 3), keepdim=True)
        count = y[0].numel()
        y = centered / ((centered.square().sum((1, 2, 3), keepdim=True) / (count - 1)).sqrt() + 1e-5)
    y = y if weight is None else y * weight[..., None, None]
    y = y if bias is None else y + bias[..., None, None]
    slope = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.2}[case.activation]
    y = torch.where(y > 0, y, y * slope)
    y = y if residual is None else y + residual
    torch.testing.assert_close(interior, y)
    n, c, h, w = case.shape
    rows, columns = (torch.arange(-case.pad, size + case.pad) for size in (h, w))
    if case.pad_mode == "zero":
        expected = torch.zeros(n, c, len(rows), len(columns), dtype=y.dtype)
        expected[:, :, case.pad : case.pad + h, case.pad : case.pad + w] = y
    else:
        if case.pad_mode == "reflect":
            rows, columns = ((size - 1) - ((size - 1) - at.abs()).abs() for at, size in ((rows, h), (columns, w)))
        rows, columns = rows.clamp(0, h - 1), columns.clamp(0, w - 1)
        expected = y[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(padded, expected)


def test_autocast_keeps_the_dtype_of_the_convolution():
    x = torch.randn(1, 3, 8, 8)
    weight = torch.randn(4, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = native(F.conv2d(x, weight), statistics="instance")[0]
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
    y = native(x, statistics="instance", pad=1)[0]
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.sum().backward()


def test_vmap_is_a_clear_error():
    with pytest.raises(NotImplementedError, match="no vmap rule"):
        torch.func.vmap(lambda x: native(x, statistics="instance")[0])(torch.randn(2, 1, 2, 5, 5))


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
