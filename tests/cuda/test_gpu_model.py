"""The model of kernels' times: its arithmetic."""

from dataclasses import replace

import pytest

from bench.gpu_model import FITTED, GPUS, Launch, Phase, call_us

H100 = GPUS["H100"]


def test_a_phase_takes_what_takes_longest():
    def us(**phase):
        return Launch(264, 256, 1, (Phase(**phase),)).us(H100)

    assert us(bytes_moved=2.3e9) == pytest.approx(1000)
    assert us(bytes_moved=5e9, cached=True) == pytest.approx(1000)
    assert us(round_trips=3, cached=True) == pytest.approx(2 * 3 * FITTED.cached_round_trip_us)
    assert us(round_trips=3) == pytest.approx(2 * 3 * FITTED.round_trip_us)  # two waves
    assert us(wait_us=0.5) == pytest.approx(2 * 0.5)
    cycles = 2 * 8 * 700 / (4 * FITTED.instructions_per_cycle)  # two blocks of eight warps
    assert us(instructions=700) == pytest.approx(cycles / 1755)
    assert us(instructions=700, bytes_moved=2.3e9, round_trips=3) == pytest.approx(1000)


def test_calls_have_the_time_of_their_launches():
    launch = Launch(1, 32, 1, (Phase(wait_us=1),))
    assert call_us([launch] * 3, H100) == pytest.approx(FITTED.call_us + 2 * FITTED.launch_us + 3)
    calls = [launch, replace(launch, dependent=True)]
    assert call_us(calls, H100) == pytest.approx(FITTED.call_us + FITTED.dependent_launch_us + 2)
