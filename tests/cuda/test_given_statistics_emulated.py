"""The CUDA launcher of fused_norm with given statistics on the emulator: numbers, bits of tiles, addresses, traffic."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from fastmunit.testing import assert_same_nonfinite
from tests.cuda.fused_norm_cases import DEVICES, EmulatedCase, inputs_of, plain_case, sample
from tests.cuda.fused_norm_requests import forward, forward_with_statistics
from tests.cuda.planted import planted_include
from tests.ops.fused_norm_cases import eager
from tests.ops.given_statistics_cases import check_with_statistics, given_statistics, tile_of, with_statistics

both_layouts = pytest.mark.parametrize("layout", ["nchw", "channels_last"])
both_statistics = pytest.mark.parametrize("statistics", ["instance", "layer"])


def emulated(case, x, weight, bias, *, mean, rstd, residual, emulation, **options):
    """Return the results of the launcher, in the order of the public function."""
    mean, rstd = mean.contiguous(), rstd.contiguous()
    padded, _ = forward_with_statistics(
        x, mean, rstd, weight, bias, residual, options, DEVICES[case.device], schedule=case.schedule, **emulation
    )
    pad = case.pad
    return padded, padded[:, :, pad:-pad, pad:-pad] if pad else padded


def check(case, **emulation):
    function = partial(emulated, case, emulation=emulation)
    check_with_statistics(case, inputs_of(case), given_statistics(case), function)


@pytest.mark.parametrize(
    "case", [case for case in sample(60, seed=2) if case.statistics != "none"], ids=EmulatedCase.id
)
def test_matches_float64(case):
    check(case)


@both_statistics
@both_layouts
def test_a_single_pixel_is_enough(layout, statistics):
    check(plain_case((2, 1, 1, 1), layout, statistics=statistics, pad_mode="replicate"))


@both_statistics
@pytest.mark.parametrize(("layout", "width"), [("nchw", 64), ("nchw", 35), ("channels_last", 35)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tiles_have_the_bits_of_a_whole_map_that_is_read_twice(dtype, layout, width, statistics):
    case = plain_case(
        (2, 8, 24, width), layout, statistics=statistics, dtype=dtype, device="small tiles", activation="leaky_relu",
        residual=layout,
    )  # fmt: skip
    tensors = inputs_of(case)
    whole, *given, reply = forward(*tensors, case.options(), DEVICES[case.device])
    assert reply.launches == 3
    whole = whole[:, :, 1:-1, 1:-1]
    for rows, columns in ((slice(0, 24), slice(0, width)), (slice(4, 24), slice(2, 34)), (slice(1, 4), slice(3, 5))):
        for device in ("H100", "small tiles"):
            x, weight, bias, residual = tile_of(case, tensors, rows, columns)
            small = replace(case, device=device)
            x = x if layout == "channels_last" else x.contiguous()
            function = partial(emulated, small, emulation={})
            tile = with_statistics(function, small, (x, weight, bias, residual), given)[1]
            assert torch.equal(tile, whole[:, :, rows, columns])


@both_statistics
@both_layouts
def test_infinities_and_nan(layout, statistics):
    case = plain_case((2, 8, 5, 4), layout, statistics=statistics)
    values = tuple(float(value) for value in ("inf", "-inf", "nan"))
    for place in ("x", "weight", "bias", "mean", "rstd"):
        for value in values[2:] if place == "mean" else values:
            tensors, given = inputs_of(case), given_statistics(case)
            named = dict(zip(("x", "weight", "bias", "residual", "mean", "rstd"), (*tensors, *given), strict=True))
            target = named[place]
            target[{1: (1,), 2: (1, 1), 4: (1, 1, 2, 2)}[target.dim()]] = value
            ours = with_statistics(partial(emulated, case, emulation={}), case, tensors, given)[0]
            plain = with_statistics(eager, case, tensors, given)[0]
            assert not plain.isfinite().all()
            assert_same_nonfinite(ours, plain, f"{place} {value}")


@both_statistics
@both_layouts
def test_addresses_and_arithmetic(layout, statistics):
    case = plain_case((2, 8, 10, 9), layout, statistics=statistics, residual="strided", device="small tiles", pad=2)
    check(case, sanitize="address,undefined")


@both_layouts
def test_races(layout):
    case = plain_case((1, 8, 6, 6), layout, device="small clusters", schedule="shuffled")
    check(case, sanitize="thread", include=planted_include())  # see test_sanitizers.py


@both_layouts
def test_the_map_is_read_once_by_two_launches(layout):
    case = plain_case((1, 64, 64, 64), layout, dtype=torch.bfloat16, activation="relu")
    x, weight, bias, _ = inputs_of(case)
    mean, rstd = given_statistics(case)
    padded, reply = forward_with_statistics(
        x, mean, rstd, weight, bias, None, case.options(), DEVICES["H100"], count=True
    )
    minimum = sum(t.numel() * t.element_size() for t in (x, padded, mean, rstd, weight, bias))
    assert minimum <= reply.bytes <= 1.05 * minimum
    first, second = reply.kernels
    assert "affines_of_statistics" in first.name and not first.dependent and second.dependent
