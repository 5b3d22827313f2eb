"""The CUDA launchers of weighted_l1 on the emulator, compared with float64."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmunit.testing import DTYPES
from tests.cuda.emulated import SCHEDULES
from tests.cuda.weighted_l1_requests import backward, check, forward, make_pairs, plain

WEIGHTS = [10.0, 0.5, -1.0, 0.0, 3.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_matches_float64(layout, dtype):
    check(*make_pairs([dtype], layout), WEIGHTS)


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_mixed_dtypes(dtypes):
    shapes = [(1, 1, 8, 16), (1, 3, 5, 7)]
    inputs, targets = make_pairs(dtypes[:1], shapes=shapes)[0], make_pairs(dtypes[1:], shapes=shapes)[1]
    check(inputs, targets, [1.0, 2.0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_threads_may_run_in_any_order(schedule):
    inputs, targets = make_pairs([torch.float32, torch.bfloat16])
    expected = forward(inputs, targets, WEIGHTS)
    results = forward(inputs, targets, WEIGHTS, schedule=schedule)
    assert all(torch.equal(a, b) for a, b in zip(results[:3], expected[:3], strict=True))
    slopes = (torch.ones(len(inputs)), torch.ones(()))
    gradients = [
        backward(*slopes, expected[2], inputs, targets, WEIGHTS, schedule=order)[0] for order in ("forward", schedule)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("dtype", "shift"),
    [(dtype, shift) for dtype in (torch.float32, torch.bfloat16) for shift in (2, 4, 8) if shift % dtype.itemsize == 0],
    ids=str,
)
def test_any_alignment(dtype, shift):
    inputs, targets = make_pairs([dtype], shapes=[(1, 3, 40, 40)])
    for name in ("input0", "target0", "dinput0", "dtarget0"):
        check(inputs, targets, [1.0], shifts={name: shift})
    check(inputs, targets, [1.0], shifts={"signs": shift - 1})


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.data_too_large])
@given(
    shapes=st.lists(st.lists(st.integers(1, 20), max_size=4).map(tuple), min_size=1, max_size=16),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_matches_float64_anywhere(shapes, dtypes, seed, data):
    generator = torch.Generator().manual_seed(seed)
    kinds = itertools.cycle(dtypes)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).to(next(kinds)) for s in shapes * 2]
    weights = data.draw(st.lists(st.floats(-10, 10), min_size=len(shapes), max_size=len(shapes)))
    needed = data.draw(st.lists(st.booleans(), min_size=len(tensors), max_size=len(tensors)))
    schedule = data.draw(st.sampled_from(SCHEDULES))
    check(tensors[: len(shapes)], tensors[len(shapes) :], weights, needed, schedule=schedule)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_signs_of_nonfinite_and_equal_values(dtype):
    special = torch.tensor([0.0, -0.0, 1.0, -2.0, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    input, target = (x.reshape(-1).repeat(5) for x in torch.meshgrid(special, special, indexing="ij"))
    for kept in (torch.ones_like(input, dtype=torch.bool), (input - target).isfinite()):
        a, b = input[kept], target[kept]
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        values, total, signs, _ = forward([a], [b], [2.0])
        for slope in (1.0, float("inf"), float("nan")):
            (da, db), _ = backward(torch.ones(1, dtype=wide), torch.tensor(slope, dtype=wide), signs, [a], [b], [2.0])
            expected = plain([a], [b], [2.0], torch.ones(1), slope)
            torch.testing.assert_close([values, total, da, db], expected, equal_nan=True)


def test_without_signs_and_empty_pairs():
    inputs = [torch.zeros(0, 3), torch.ones(2), torch.zeros(0)]
    targets = [torch.zeros_like(x) for x in inputs]
    values, total, _, reply = forward(inputs, targets, [1.0, 1.0, 0.0], keep_signs=False)
    assert values.isnan().tolist() == [True, False, True]
    assert values[1] == 1
    assert total.isnan()
    assert reply.launches == 2
    values, _, signs, reply = forward(inputs[:1], targets[:1], [1.0])
    assert values.isnan().all()
    assert reply.launches == 1
    (dx, dy), reply = backward(torch.ones(1), torch.ones(()), signs, inputs[:1], targets[:1], [1.0])
    assert dx.shape == dy.shape == (0, 3)
    assert reply.launches == 0


def test_sums_do_not_lose_small_terms():
    """The mean of 2^22 equal values, which a float32 sum would not reach."""
    x = torch.full((2**22,), 0.1)
    values = forward([x], [torch.zeros_like(x)], [1.0], keep_signs=False)[0]
    assert values.item() == pytest.approx(0.1, rel=1e-6)
