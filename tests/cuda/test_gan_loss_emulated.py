"""The CUDA launchers of gan_loss on the emulator, compared with float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmunit import reference
from fastmunit.testing import DTYPES
from tests.cuda.emulated import SCHEDULES
from tests.cuda.gan_loss_requests import SHAPES, WEIGHTS, backward, check, forward, results
from tests.ops.gan_loss_cases import GAN_TYPES, TARGETS, make_maps, run

each_type = pytest.mark.parametrize("gan_type", GAN_TYPES)


@pytest.mark.parametrize("dtypes", [*([dtype] for dtype in DTYPES), DTYPES], ids=str)
@each_type
def test_matches_float64(gan_type, dtypes):
    for shift in range(len(TARGETS)):
        maps, targets = make_maps(dtypes, ["nchw", "channels_last"], SHAPES, seed=10 * shift)
        check(maps, [*targets[shift:], *targets[:shift]], WEIGHTS, gan_type)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_threads_may_run_in_any_order(schedule):
    maps, targets = make_maps([torch.float32, torch.bfloat16], shapes=SHAPES)
    arguments = (maps, targets, WEIGHTS, "nsgan", torch.ones(len(maps)))
    for ours, plain in zip(results(*arguments, schedule=schedule), results(*arguments), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("shift", [2, 4, 8])
def test_any_alignment(shift):
    for dtype in (torch.float32, torch.bfloat16):
        if shift % dtype.itemsize == 0:
            maps, targets = make_maps([dtype], shapes=SHAPES[:1])
            check(maps, targets, [1.0], "lsgan", shifts={"x0": shift, "dx0": shift})


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.data_too_large])
@given(
    shapes=st.lists(st.lists(st.integers(1, 20), max_size=4).map(tuple), min_size=1, max_size=32),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5),
    gan_type=st.sampled_from(GAN_TYPES),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_matches_float64_anywhere(shapes, dtypes, gan_type, seed, data):
    generator = torch.Generator().manual_seed(seed)
    kinds = [dtypes[k % len(dtypes)] for k in range(len(shapes))]
    maps = [
        2 * torch.randn(s, generator=generator, dtype=torch.float64).to(d) for s, d in zip(shapes, kinds, strict=True)
    ]
    length = {"min_size": len(maps), "max_size": len(maps)}
    weights = data.draw(st.lists(st.floats(-10, 10), **length))
    targets = [data.draw(st.sampled_from(TARGETS if s and s[0] % 2 == 0 else TARGETS[:3])) for s in shapes]
    wants = data.draw(st.lists(st.booleans(), **length).filter(any))
    check(maps, targets, weights, gan_type, wants, schedule=data.draw(st.sampled_from(SCHEDULES)))


@pytest.mark.parametrize("upstream", [1.0, float("inf")])
@each_type
def test_nonfinite_and_kinks(gan_type, upstream):
    for value in (0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan")):
        maps, weights, dvalues = [torch.full((2,), value)] * 4, [1.0, 2.0, 3.0, 4.0], torch.full((4,), upstream)
        ours = results(maps, TARGETS, weights, gan_type, dvalues)
        plain = run(reference.gan_loss, maps, TARGETS, weights, gan_type, dvalues)
        if upstream == 1.0 or gan_type != "nsgan":
            torch.testing.assert_close(ours, plain, equal_nan=True)
        else:
            assert not any(gradient.isfinite().any() for gradient in ours[2:])


def test_empty_maps_and_launches():
    maps, targets = [torch.zeros(0, 3), torch.ones(2), torch.zeros(0)], ["fake_real", "fake", "real"]
    values, total, reply = forward(maps, targets, [1.0, 1.0, 0.0], "lsgan")
    assert values.isnan().tolist() == [True, False, True]
    assert values[1] == 1
    assert total.isnan()
    assert reply.launches == 2
    values, _, reply = forward(maps[:1], targets[:1], [1.0], "lsgan")
    assert values.isnan().all()
    assert reply.launches == 1
    (dx,), reply = backward(torch.ones(1), torch.ones(()), maps[:1], targets[:1], [1.0], "lsgan")
    assert dx.shape == (0, 3)
    assert reply.launches == 0


def test_sums_do_not_lose_small_terms():
    """The mean of 2^20 equal values, which a float32 sum would not reach."""
    values = forward([torch.full((2**20,), 0.1)], ["generator"], [1.0], "hinge")[0]
    assert values.item() == pytest.approx(-0.1, rel=1e-6)
