"""The CUDA launchers of fused_norm on the emulator, against float64."""

import random
from dataclasses import asdict

import pytest
import torch

from fastmunit import reference
from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.testing import assert_as_exact_as, assert_same_nonfinite, make_map
from tests.cuda.emulated import SCHEDULES, name_of
from tests.cuda.fused_norm_requests import Device, Options, backward, forward

# Real GPUs, and ones so small that maps of tests take the ways that large maps take on real ones.
DEVICES = {
    "H100": Device(132, 227 * 1024, 16),
    "A100": Device(108, 163 * 1024, 1),
    "RTX 4090": Device(128, 99 * 1024, 1),
    "small clusters": Device(40, 6 * 1024, 16, 1),
    "small tiles": Device(8, 6 * 1024, 1, 1),
    "no tiles": Device(2, 1024, 1, 2),
    "few multiprocessors": Device(2, cluster=1),
}
SIZES = (1, 2, 3, 7, 16, 33)
AXES = {
    "n": (1, 2, 3),
    "c": (1, 3, 8, 16, 35),
    "h": SIZES,
    "w": (*SIZES, 32, 64),
    "layout": ("nchw", "channels_last"),
    "dtype": (torch.float32, torch.bfloat16, torch.float16),
    "statistics": ("instance", "layer", "none"),
    "parameters": ("absent", "channel", "sample", "bias"),
    "activation": ("none", "relu", "leaky_relu"),
    "residual": ("absent", "same", "interior"),
    "pad": (0, 1, 2, 3),
    "pad_mode": ("reflect", "replicate", "zero"),
    "pixel_shuffle": (False, False, True),
    "gradient": ("padded", "interior", "both", "strided"),
    "device": tuple(DEVICES),
    "schedule": SCHEDULES,
}


def possible(case):
    pixels = case["h"] * case["w"]
    if case["statistics"] == "instance" and pixels == 1:
        return False
    if case["statistics"] == "layer" and pixels * case["c"] == 1:
        return False
    if case["pixel_shuffle"] and (case["h"] % 2 or case["w"] % 2):
        return False
    if case["pad_mode"] == "reflect" and case["pad"] >= min(case["h"], case["w"]):
        return False
    return case["n"] * case["c"] * pixels <= 20_000


def sample(count, seed):
    """Cases of the grid; the same for the same seed."""
    choice = random.Random(seed)
    cases = []
    while len(cases) < count:
        case = {name: choice.choice(values) for name, values in AXES.items()}
        if possible(case):
            cases.append(case)
    return cases


def plain_case(**changes):
    case = {name: values[0] for name, values in AXES.items()}
    return {**case, "n": 2, "c": 8, "h": 9, "w": 7, "parameters": "channel", "pad": 1, "gradient": "both", **changes}


def case_id(case):
    return "-".join(name_of(value) if isinstance(value, torch.dtype) else str(value) for value in case.values())


def options_of(case):
    return Options(**{name: case[name] for name in ("statistics", "activation", "pad", "pad_mode", "pixel_shuffle")})


def inputs_of(case, mean=0.5, std=2.0):
    """x, weight, bias and residual of a case; None where absent."""
    n, c, h, w, dtype, layout = (case[name] for name in ("n", "c", "h", "w", "dtype", "layout"))
    shape = (n, 4 * c, h // 2, w // 2) if case["pixel_shuffle"] else (n, c, h, w)
    x = make_map(shape, dtype, layout, mean=mean, std=std)
    generator = torch.Generator().manual_seed(1)
    size = (n, c) if case["parameters"] == "sample" else (c,)
    weight, bias = (torch.randn(size, generator=generator) for _ in range(2))
    weight, bias = {"absent": (None, None), "bias": (None, bias)}.get(case["parameters"], (weight, bias))
    residual = None
    if case["residual"] == "same":
        residual = make_map((n, c, h, w), dtype, layout, seed=2)
    elif case["residual"] == "interior":
        residual = make_map((n, c, h + 2, w + 2), dtype, layout, seed=2)[:, :, 1:-1, 1:-1]
    return x, weight, bias, residual


def gradients_of(case):
    """dpadded and dinterior of a case; None where absent."""
    n, c, h, w, pad, dtype = (case[name] for name in ("n", "c", "h", "w", "pad", "dtype"))
    dpadded = make_map((n, c, h + 2 * pad, w + 2 * pad), dtype, case["layout"], seed=3)
    dinterior = make_map((n, c, h, w), dtype, case["layout"], seed=4)
    if case["gradient"] == "strided":  # the inner dimension alone is dense
        large = (n + 1, c + 8, h + 2 * pad + 1, w + 2 * pad + 8)
        inner = (slice(1, None), slice(8, None), slice(1, None), slice(8, None))
        return make_map(large, dtype, case["layout"], seed=3)[inner], dinterior
    return {"padded": (dpadded, None), "interior": (None, dinterior), "both": (dpadded, dinterior)}[case["gradient"]]


def plain(case, inputs, dpadded, dinterior):
    """The results of the reference, in the dtype of the inputs, and the gradients of all inputs that are there."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    x, weight, bias, residual = leaves
    padded, interior = reference.fused_norm(x, weight, bias, residual, FusedNormOptions(**asdict(options_of(case))))
    pairs = [(padded, dpadded), (interior, dinterior)]
    pairs = [(result, gradient.to(x.dtype)) for result, gradient in pairs if gradient is not None]
    wanted = [leaf for leaf in leaves if leaf is not None]
    results, upstream = zip(*pairs, strict=True)
    return [padded.detach(), *torch.autograd.grad(results, wanted, upstream)]


def emulated(case, inputs, dpadded, dinterior, **how):
    x, weight, bias, residual = inputs
    options, device = options_of(case), DEVICES[case["device"]]
    how = {"schedule": case["schedule"], **how}
    padded, mean, rstd, _ = forward(x, weight, bias, residual, options, device, **how)
    gradients = backward(
        dpadded, dinterior, x, mean, rstd, weight, bias, residual is not None, options, device, **how
    )[:4]  # fmt: skip
    return [padded, *(gradient for gradient in gradients if gradient is not None)]


def check(case, **how):
    inputs, gradients = inputs_of(case), gradients_of(case)
    ours = emulated(case, inputs, *gradients, **how)
    low = plain(case, inputs, *gradients)
    exact = plain(case, [None if t is None else t.double() for t in inputs], *gradients)
    names = ["padded", "dx"]
    names += [f"d{name}" for name, t in zip(("weight", "bias", "residual"), inputs[1:], strict=True) if t is not None]
    terms = 8.0 * case["n"] * (case["h"] + 6) * (case["w"] + 6)
    for name, a, b, e in zip(names, ours, low, exact, strict=True):
        # The terms of a parameter's gradient cancel: errors are relative to the sum of their magnitudes.
        assert_as_exact_as(a, b, e, name, scale=terms if name in ("dweight", "dbias") else None)


@pytest.mark.parametrize("case", sample(160, seed=1), ids=case_id)
def test_matches_float64(case):
    check(case)


@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("width", [32, 64, 128, 256, 512])
def test_rows_of_words(width, pad_mode):
    """NCHW rows of a multiple of 32: the kernels that hold them, in all modes; where heights do not fit, another."""
    for device, statistics, height, pad, dtype in (
        ("H100", "instance", 20, 1, torch.float32),
        ("small clusters", "instance", 20, 3, torch.bfloat16),
        ("small tiles", "layer", 13, 2, torch.float32),
        ("small tiles", "none", 12, 3, torch.float16),
        ("small clusters", "layer", 12, 2, torch.float32),
    ):
        case = plain_case(n=1, c=2, h=height, w=width, pad=pad, pad_mode=pad_mode, statistics=statistics, device=device)
        case["dtype"] = dtype
        check({**case, "activation": "leaky_relu", "residual": "interior" if pad == 1 else "absent"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [8, 24, 40, 64])
def test_vectors_of_phases(channels, dtype):
    """channels_last maps whose 16 bytes hold channels of four pixels."""
    for device, statistics, pad in (
        ("H100", "layer", 3),
        ("small clusters", "instance", 1),
        ("small tiles", "layer", 2),
    ):
        case = plain_case(n=2, c=channels, h=10, w=14, pad=pad, statistics=statistics, device=device, dtype=dtype)
        check({**case, "layout": "channels_last", "pixel_shuffle": True, "activation": "relu", "parameters": "sample"})


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_pad_that_reaches_across_the_map(size, layout):
    """Maps smaller than 2 pad + 1: both sides of the pad show the same pixels."""
    for pad in range(1, min(size, 4)):
        for pad_mode in ("reflect", "replicate", "zero"):
            check(plain_case(h=size, w=size, pad=pad, pad_mode=pad_mode, layout=layout))
            check(plain_case(h=size, w=32, pad=pad, pad_mode=pad_mode, layout=layout))


@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize(("layout", "c", "width"), [("nchw", 2, 64), ("nchw", 2, 67), ("channels_last", 8, 70)])
def test_blocks_of_the_backward_that_load_more_than_once(layout, c, width, statistics):
    case = plain_case(n=1, c=c, h=270, w=width, layout=layout, statistics=statistics, activation="leaky_relu", pad=2)
    check({**case, "device": "few multiprocessors", "residual": "same"})


@pytest.mark.parametrize("device", list(DEVICES))
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_whole_planes(layout, statistics, device):
    """Maps with enough rows and channels for clusters and several tiles."""
    check(plain_case(c=16, h=32, w=34, layout=layout, statistics=statistics, device=device, activation="relu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["x", "padded", "residual", "dpadded", "dinterior", "dx", "dresidual"])
def test_any_alignment(name, layout, dtype):
    case = plain_case(layout=layout, dtype=dtype, residual="same", activation="leaky_relu")
    for pixel_shuffle in (False, True):
        check({**case, "h": 10, "w": 12, "pixel_shuffle": pixel_shuffle}, shifts={name: dtype.itemsize})


@pytest.mark.parametrize("device", ["H100", "small clusters", "small tiles", "no tiles"])
@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_far_from_zero(layout, statistics, device):
    """Mean 1e4 with std 1e-2: float32 itself keeps about 1e-3 between neighbours, and nothing more may be lost."""
    case = plain_case(layout=layout, statistics=statistics, device=device, parameters="absent", h=32, w=33)
    x = inputs_of(case, mean=1e4, std=1e-2)[0]
    padded, mean, rstd, _ = forward(x, None, None, None, options_of(case), DEVICES[device])
    exact = plain(case, (x.double(), None, None, None), *gradients_of(case))
    torch.testing.assert_close(padded.double(), exact[0], rtol=1e-4, atol=1e-4)
    dx = backward(
        *gradients_of(case), x, mean, rstd, None, None, False, options_of(case), DEVICES[device]
    )[0]  # fmt: skip
    scale = float(exact[1].abs().max())
    torch.testing.assert_close(dx.double() / scale, exact[1] / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nonfinite_values_spread_as_in_the_reference(layout, statistics, value):
    for activation in ("none", "relu", "leaky_relu"):
        for device in ("H100", "small tiles"):
            case = plain_case(layout=layout, statistics=statistics, activation=activation, parameters="absent")
            x = inputs_of(case)[0]
            x[1, 2, 4, 3] = value
            padded = forward(x, None, None, None, options_of(case), DEVICES[device])[0]
            expected = plain(case, (x, None, None, None), *gradients_of(case))[0]
            assert_same_nonfinite(padded, expected)
            torch.testing.assert_close(padded, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("statistics", ["instance", "layer"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_constant_maps(layout, statistics):
    case = plain_case(layout=layout, statistics=statistics, parameters="bias")
    x, _, bias, _ = inputs_of(case)
    x = torch.full_like(x, 3.25)
    padded, mean, rstd, _ = forward(x, None, bias, None, options_of(case), DEVICES["H100"])
    assert torch.equal(padded, bias.view(1, -1, 1, 1).expand(padded.shape))
    gradients = gradients_of(case)
    dx = backward(*gradients, x, mean, rstd, None, bias, False, options_of(case), DEVICES["H100"])[0]
    assert torch.isfinite(dx).all()


LAUNCHES = {
    "instance, of each sample": (plain_case(parameters="sample"), (True, True), 1),
    "instance, of one sample": (plain_case(n=1), (True, True), 1),
    "instance, over samples": (plain_case(), (True, True), 2),
    "instance, read twice": (plain_case(device="small tiles", h=40), (True, True), 3),
    "layer": (plain_case(statistics="layer", n=1), (True, True), 2),
    "none": (plain_case(statistics="none", n=1), (False, True), 2),
    "none, not wanted": (plain_case(statistics="none"), (False, False), 1),
    "instance, not wanted": (plain_case(), (False, False), 1),
    "layer, not wanted": (plain_case(statistics="layer"), (False, False), 1),
    "layer, not wanted, read twice": (plain_case(statistics="layer", device="small tiles", h=40), (False, False), 3),
}


@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_gradients_of_coefficients_that_are_not_wanted(layout, name):
    """They cost no launch, and nothing else depends on them."""
    case, wanted, launches = LAUNCHES[name]
    case = {**case, "layout": layout, "activation": "relu"}
    (x, weight, bias, _), device = inputs_of(case), DEVICES[case["device"]]
    _, mean, rstd, _ = forward(x, weight, bias, None, options_of(case), device)
    given = (*gradients_of(case), x, mean, rstd, weight, bias, False, options_of(case), device)
    dx, dweight, dbias, _, reply = backward(*given, wanted)
    assert (dweight is not None, dbias is not None) == wanted
    assert reply.launches == launches
    expected = backward(*given)
    assert torch.equal(dx, expected[0])
    assert dweight is None or torch.equal(dweight, expected[1])
    assert dbias is None or torch.equal(dbias, expected[2])


@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
def test_empty_batch(statistics):
    options, device = Options(statistics, pad=1), DEVICES["H100"]
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
def test_same_bits_in_any_order_of_threads(layout, statistics, schedule):
    for device in ("small clusters", "small tiles"):
        case = plain_case(c=16, h=16, w=12, layout=layout, statistics=statistics, device=device, schedule="forward")
        inputs, gradients = inputs_of(case), gradients_of(case)
        expected = emulated(case, inputs, *gradients)
        results = emulated({**case, "schedule": schedule}, inputs, *gradients)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
