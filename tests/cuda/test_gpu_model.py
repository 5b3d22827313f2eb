"""The model of kernel times: its arithmetic, and its predictions for kernels that were measured on an H100."""

from dataclasses import replace

import pytest

from bench.gpu_model import FITTED, GPUS, Launch, Phase, call_parts, call_us
from bench.old_kernels import MEASURED

H100 = GPUS["H100"]


def test_a_phase_takes_the_time_of_its_slowest_part():
    def us(**phase):
        return sum(Launch(264, 256, 1, (Phase(**phase),)).parts(H100).values())

    assert us(bytes_moved=2.3e9) == pytest.approx(1000)
    assert us(bytes_moved=5e9, cached=True) == pytest.approx(1000)
    assert us(round_trips=3, cached=True) == pytest.approx(2 * 3 * FITTED.cached_round_trip_us)
    assert us(round_trips=3) == pytest.approx(2 * 3 * FITTED.round_trip_us)  # two waves
    assert us(wait_us=0.5) == pytest.approx(2 * 0.5)
    cycles = 2 * 8 * 700 / (4 * FITTED.instructions_per_cycle)  # two blocks of eight warps
    assert us(instructions=700) == pytest.approx(cycles / 1755)
    assert us(instructions=700, bytes_moved=2.3e9, round_trips=3) == pytest.approx(1000)


def test_a_call_takes_the_time_of_its_launches():
    launch = Launch(1, 32, 1, (Phase(wait_us=1),))
    assert call_us([launch] * 3, H100) == pytest.approx(FITTED.call_us + 2 * FITTED.launch_us + 3)
    calls = [launch, replace(launch, dependent=True)]
    assert call_us(calls, H100) == pytest.approx(FITTED.call_us + FITTED.dependent_launch_us + 2)


def test_parts_add_up_by_cause():
    phases = (Phase(instructions=700, round_trips=1), Phase(bytes_moved=2.3e9, instructions=700), Phase(wait_us=0.5))
    parts = call_parts([Launch(132, 256, 1, phases)], H100)
    assert parts["bytes"] == pytest.approx(1000)
    assert parts["issue slots"] == pytest.approx(H100.issue_us(8 * 700))
    assert (parts["barriers"], parts["round trips"], parts["launches"]) == (0.5, 0, FITTED.call_us)


def test_measured_times_are_reproduced():
    errors = [call_us(row.launches, H100) / row.us - 1 for row in MEASURED]
    assert sum(abs(error) <= 0.25 for error in errors) >= 6, errors


def test_copies_are_reproduced():
    for row in MEASURED:
        channels, side = row.shape
        values = channels * (side**2 + (side + 2) ** 2) + (channels * (2 * side**2 + (side + 2) ** 2)) * row.backward
        assert H100.copy_us(values * (4 if row.layout == "nchw" else 2)) == pytest.approx(row.copy_us, rel=0.05)
