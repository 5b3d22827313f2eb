"""Times of launches and steps: measured on a GPU with events around replayed graphs, made up in a dry run."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from bench.harness import WARM_UP_STEPS, captured, seconds_of_step, seconds_on_gpu
from bench.on_gpu.clock import Clock

Call = Callable[[], object]

ROUNDS = 5
STEP_ROUNDS = 3
WARM_UP_SECONDS = 0.03  # in which an idle GPU raises its clocks
# Minimum number of launches on warm buffers, so the first one, which is cold, has little weight.
MIN_WARM_LAUNCHES = 20
MIN_SETS, MAX_SETS = 4, 1024
FLUSHED_REPEATS = 10

FAKE_LAUNCH_SECONDS = 4e-6
FAKE_BYTES_PER_SECOND = 2e12
FAKE_STEP_SECONDS = 0.02


@dataclass(frozen=True)
class Launches:
    """A call to time.

    Attributes:
        calls: The same work on several sets of buffers.
        bytes_moved: Bytes that one call reads and writes.
    """

    calls: Sequence[Call]
    bytes_moved: int


@dataclass(frozen=True)
class Times:
    """Median seconds of a call.

    Attributes:
        cold: Time on buffers that are not in the level-two cache: the sets in turn.
        warm: Time on one set repeatedly.
    """

    cold: float
    warm: float


class Timer(Protocol):
    """A timer of launches and steps."""

    def sets(self, bytes_moved: int) -> int:
        """Return the number of sets of buffers for cold times, if one call moves `bytes_moved`."""

    def times(self, launches: Mapping[str, Launches]) -> dict[str, Times]:
        """Measure competitors in interleaved rounds."""

    def flushed(self, launches: Launches) -> float:
        """Measure a call after writes have filled the level-two cache, as `pytest bench --benchmark` does."""

    def step_seconds(self, call: Call) -> list[float]:
        """Measure a whole step, host and device, after a warm-up. Return the mean of each of several rounds."""


class GpuTimer:
    """A timer with events around replays of graphs of many calls, which excludes the time of the host."""

    def sets(self, bytes_moved: int) -> int:
        """Return the number of sets that together are four times as large as the level-two cache."""
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return min(MAX_SETS, max(MIN_SETS, math.ceil(4 * cache / max(1, bytes_moved))))

    def times(self, launches: Mapping[str, Launches]) -> dict[str, Times]:
        """Measure competitors in interleaved rounds."""
        graphs: dict[tuple[str, bool], tuple[Call, int]] = {}
        for name, work in launches.items():
            repeats = max(MIN_WARM_LAUNCHES, len(work.calls))
            graphs[name, True] = (captured(_in_turn(work.calls)), len(work.calls))
            graphs[name, False] = (captured(_repeated(work.calls[0], repeats)), repeats)
        _warm_up([replay for replay, _ in graphs.values()])
        rounds = [{key: _seconds(replay) / calls for key, (replay, calls) in graphs.items()} for _ in range(ROUNDS)]
        medians = {key: statistics.median(each[key] for each in rounds) for key in graphs}
        return {name: Times(medians[name, True], medians[name, False]) for name in launches}

    def flushed(self, launches: Launches) -> float:
        """Measure a call after writes have filled the level-two cache."""
        replay = captured(launches.calls[0])
        return statistics.median(seconds_on_gpu(replay, FLUSHED_REPEATS) for _ in range(STEP_ROUNDS))

    def step_seconds(self, call: Call) -> list[float]:
        """Measure a whole step."""
        for _ in range(WARM_UP_STEPS):
            call()
        return [seconds_of_step(call) for _ in range(STEP_ROUNDS)]


class DryTimer:
    """A timer that runs each call once, computes a fake time with a formula and advances `clock` by it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def sets(self, bytes_moved: int) -> int:
        """Return 2."""
        return 2

    def times(self, launches: Mapping[str, Launches]) -> dict[str, Times]:
        """Make up times: the second competitor takes twice as long as the first, the third three times as long."""
        times = {}
        for place, (name, work) in enumerate(launches.items(), 1):
            seconds = place * self._run(work)
            times[name] = Times(seconds, seconds / 2)
        return times

    def flushed(self, launches: Launches) -> float:
        """Make up a time."""
        return self._run(launches)

    def step_seconds(self, call: Call) -> list[float]:
        """Make up a time."""
        call()
        self._clock.advance(FAKE_STEP_SECONDS)
        return [FAKE_STEP_SECONDS]

    def _run(self, work: Launches) -> float:
        work.calls[-1]()
        seconds = FAKE_LAUNCH_SECONDS + work.bytes_moved / FAKE_BYTES_PER_SECOND
        self._clock.advance(seconds)
        return seconds


def _in_turn(calls: Sequence[Call]) -> Call:
    """Return a call of all `calls` that keeps all results, so each has its own memory."""
    return lambda: [call() for call in calls]


def _repeated(call: Call, times: int) -> Call:
    """Return a call that calls `call` `times` times, with results in the same memory."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def _warm_up(calls: Sequence[Call]) -> None:
    end = time.perf_counter() + WARM_UP_SECONDS
    while True:
        for call in calls:
            call()
        torch.cuda.synchronize()
        if time.perf_counter() > end:
            return


def _seconds(replay: Call) -> float:
    """Return the time of a replay between two events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3
