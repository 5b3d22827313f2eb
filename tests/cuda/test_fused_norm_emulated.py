"""The CUDA launchers of fused_norm on the emulator, compared with float64."""

from dataclasses import replace

import pytest
import torch

from fastmunit.testing import assert_same_nonfinite
from tests.cuda.emulated import SCHEDULES
from tests.cuda.fused_norm_cases import (
    DEVICES,
    EmulatedCase,
    check,
    emulated,
    exact_results,
    gradients_of,
    inputs_of,
    plain_case,
    sample,
)
from tests.cuda.fused_norm_requests import backward, forward
from tests.ops.fused_norm_cases import eager


@pytest.mark.parametrize("case", sample(160, seed=1), ids=EmulatedCase.id)
def test_matches_float64(case):
    check(case)


@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("width", [32, 64, 128, 256, 512])
def test_rows_of_words(width, pad_mode):
    """NCHW rows of a multiple of 32 columns: the `rows` kernels in all modes, or another if the height does not fit."""
    for device, statistics, height, pad, dtype in (
        ("H100", "instance", 20, 1, torch.float32),
        ("small clusters", "instance", 20, 3, torch.bfloat16),
        ("small tiles", "layer", 13, 2, torch.float32),
        ("small tiles", "none", 12, 3, torch.float16),
        ("small clusters", "layer", 12, 2, torch.float32),
    ):
        case = plain_case((1, 2, height, width), pad=pad, pad_mode=pad_mode, statistics=statistics, device=device)
        residual = "strided" if pad == 1 else None
        check(replace(case, dtype=dtype, activation="leaky_relu", residual=residual))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [8, 24, 40, 64])
def test_vectors_with_pixel_shuffle(channels, dtype):
    """channels_last maps whose 16-byte vectors hold the channels of four pixels."""
    for device, statistics, pad in (
        ("H100", "layer", 3),
        ("small clusters", "instance", 1),
        ("small tiles", "layer", 2),
    ):
        case = plain_case((2, channels, 10, 14), "channels_last", pad=pad, statistics=statistics, device=device)
        check(replace(case, dtype=dtype, pixel_shuffle=True, activation="relu", coefficients=(2, 2)))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_padding_that_crosses_the_map(size, layout):
    """In maps smaller than 2 pad + 1, both sides of the padding copy the same pixels."""
    for pad in range(1, min(size, 4)):
        for pad_mode in ("reflect", "replicate", "zero"):
            check(plain_case((2, 8, size, size), layout, pad=pad, pad_mode=pad_mode))
            check(plain_case((2, 8, size, 32), layout, pad=pad, pad_mode=pad_mode))


@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize(("layout", "c", "width"), [("nchw", 2, 64), ("nchw", 2, 67), ("channels_last", 8, 70)])
def test_blocks_of_the_backward_that_load_in_rounds(layout, c, width, statistics):
    case = plain_case((1, c, 270, width), layout, statistics=statistics, activation="leaky_relu", pad=2)
    check(replace(case, device="few multiprocessors", residual=layout))


@pytest.mark.parametrize("device", list(DEVICES))
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_whole_planes(layout, statistics, device):
    """Maps with enough rows and channels for clusters and several tiles."""
    check(plain_case((2, 16, 32, 34), layout, statistics=statistics, device=device, activation="relu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["x", "padded", "residual", "dpadded", "dinterior", "dx", "dresidual"])
def test_any_alignment(name, layout, dtype):
    case = plain_case((2, 8, 10, 12), layout, dtype=dtype, residual=layout, activation="leaky_relu")
    for pixel_shuffle in (False, True):
        check(replace(case, pixel_shuffle=pixel_shuffle), shifts={name: dtype.itemsize})


@pytest.mark.parametrize("device", ["H100", "small clusters", "small tiles", "no tiles"])
@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_far_from_zero(layout, statistics, device):
    """With mean 1e4 and std 1e-2, float32 itself resolves about 1e-3. The kernels must not lose more."""
    case = plain_case((2, 8, 32, 33), layout, statistics=statistics, device=device, coefficients=(0, 0))
    tensors = inputs_of(case, mean=1e4, std=1e-2)
    upstream = gradients_of(case, *tensors[:3])
    padded, _, dx, *_ = emulated(case, tensors, upstream)
    exact_padded, _, exact_dx, *_ = exact_results(case, tensors, upstream)
    torch.testing.assert_close(padded.double(), exact_padded, rtol=1e-4, atol=1e-4)
    scale = float(exact_dx.abs().max())
    torch.testing.assert_close(dx.double() / scale, exact_dx / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nonfinite_values_spread_as_in_the_reference(layout, statistics, value):
    for activation in ("none", "relu", "leaky_relu"):
        for device in ("H100", "small tiles"):
            case = plain_case(layout=layout, statistics=statistics, activation=activation, coefficients=(0, 0))
            x, *others = inputs_of(case)
            x[1, 2, 4, 3] = value
            padded = forward(x, *others, case.options(), DEVICES[device])[0]
            expected = eager(x, **case.options())[0]
            assert_same_nonfinite(padded, expected)
            torch.testing.assert_close(padded, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_constant_maps(layout, statistics):
    case = plain_case(layout=layout, statistics=statistics, coefficients=(0, 1))
    generator = torch.Generator().manual_seed(1)
    _, bias = (torch.randn(8, generator=generator) for _ in range(2))
    tensors = [torch.full_like(inputs_of(case)[0], 3.25), None, bias, None]
    padded, _, dx, *_ = emulated(case, tensors, gradients_of(case, *tensors[:3]))
    assert torch.equal(padded, bias.view(1, -1, 1, 1).expand(padded.shape))
    assert torch.isfinite(dx).all()


LAUNCHES = {
    "instance, per sample": (plain_case(coefficients=(2, 2)), (True, True), 1),
    "instance, of one sample": (plain_case((1, 8, 9, 7)), (True, True), 1),
    "instance, over samples": (plain_case(), (True, True), 2),
    "instance, read twice": (plain_case((2, 8, 40, 7), device="small tiles"), (True, True), 3),
    "layer": (plain_case((1, 8, 9, 7), statistics="layer"), (True, True), 2),
    "none": (plain_case((1, 8, 9, 7), statistics="none"), (False, True), 2),
    "none, not needed": (plain_case(statistics="none"), (False, False), 1),
    "instance, not needed": (plain_case(), (False, False), 1),
    "layer, not needed": (plain_case(statistics="layer"), (False, False), 1),
    "layer, not needed, read twice": (
        plain_case((2, 8, 40, 7), statistics="layer", device="small tiles"), (False, False), 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_parameter_gradients_that_are_not_needed(layout, name):
    """They cost no launch, and nothing else depends on them."""
    case, needed, launches = LAUNCHES[name]
    case = replace(case, layout=layout, gradient_layout=layout, activation="relu")
    (x, weight, bias, _), device = inputs_of(case), DEVICES[case.device]
    _, mean, rstd, _ = forward(x, weight, bias, None, case.options(), device)
    upstream = gradients_of(case, x, weight, bias)
    given = (*upstream, x, mean, rstd, weight, bias, False, case.options(), device)
    dx, dweight, dbias, _, reply = backward(*given, needed)
    assert (dweight is not None, dbias is not None) == needed
    assert reply.launches == launches
    expected = backward(*given)
    assert torch.equal(dx, expected[0])
    assert dweight is None or torch.equal(dweight, expected[1])
    assert dbias is None or torch.equal(dbias, expected[2])


@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
def test_empty_batch(statistics):
    options, device = {"statistics": statistics, "pad": 1}, DEVICES["H100"]
    x, weight, nothing = torch.empty(0, 3, 8, 8), torch.ones(3), torch.empty(0, dtype=torch.float64)
    *_, reply = forward(x, weight, None, None, options, device)
    assert reply.launches == 0
    dpadded = torch.empty(0, 3, 10, 10)
    dx, dweight, *_, reply = backward(dpadded, None, x, nothing, nothing, weight, None, False, options, device)
    assert dx.numel() == 0
    assert torch.equal(dweight, torch.zeros(3))
    assert reply.launches == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_results_do_not_depend_on_the_order_of_threads(layout, statistics, schedule):
    for device in ("small clusters", "small tiles"):
        case = plain_case((2, 16, 16, 12), layout, statistics=statistics, device=device)
        tensors = inputs_of(case)
        upstream = gradients_of(case, *tensors[:3])
        expected = emulated(case, tensors, upstream)
        results = emulated(replace(case, schedule=schedule), tensors, upstream)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True) if a is not None)
