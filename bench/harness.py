"""Comparison of an op with its reference: results are checked first, then timed in interleaved rounds of one run."""

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastmunit.testing import assert_as_exact_as

ROUNDS = 11
MIN_ROUNDS = 4
ROUND_SECONDS = 0.02
COMPARISON_SECONDS = 6.0
# The device of the inputs: a GPU if there is one.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# More than any level-two cache holds: writing it evicts the inputs.
FLUSH_BYTES = 256 * 2**20
MAX_REPEATS = 1_000_000 if DEVICE == "cpu" else 50  # each also writes FLUSH_BYTES
GPU_STEPS = 10
WARM_UP_STEPS = 1 if DEVICE == "cpu" else 5


@contextmanager
def without_tf32() -> Iterator[None]:
    """Disable TF32 for float32 comparisons. By default, convolutions on a GPU round their inputs to TF32's 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory for the next tensor, as torch's allocator for GPUs does.

    Otherwise large results use fresh pages in one round and used pages in another, and a page fault costs as much as
    the op that writes the page. Has no effect with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_threshold, 2**30)


def copy_of(bytes_moved: int) -> Callable[[], object]:
    """Return a copy that reads and writes half of `bytes_moved` each: the lower bound of a memory-bound op."""
    # Not zeros, whose pages may all map to the same physical page.
    source = torch.ones(max(1, bytes_moved // 2), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def seconds_on_cpu(call: Callable[[], object], repeats: int) -> float:
    """Return the mean time of `repeats` consecutive calls, with warm caches."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call as a CUDA graph and return its replay, which excludes the time of Python and torch.

    Everything that is compiled at the first call is compiled here.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def seconds_on_gpu(call: Callable[[], object], repeats: int) -> float:
    """Return the mean time of a call between two events on the GPU, each with a cold level-two cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=DEVICE)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.fmean(start.elapsed_time(end) for start, end in events) * 1e-3


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """Return the mean time of a call on `DEVICE`."""
    return seconds_on_gpu(call, repeats) if DEVICE == "cuda" else seconds_on_cpu(call, repeats)


def check_results(
    name: str,
    ours: Sequence[Tensor],
    reference: Sequence[Tensor],
    exact: Sequence[Tensor],
    scales: Sequence[float | None] | None = None,
) -> None:
    """Assert that each of our results is as exact as that of plain PyTorch.

    Args:
        name: Name of the comparison, for the message.
        ours: Our results.
        reference: Results of plain PyTorch in the same dtype.
        exact: Results of plain PyTorch in float64.
        scales: Scales of the errors; see `fastmunit.testing.assert_as_exact_as`.

    Raises:
        AssertionError: If a result is less exact, or the numbers of results differ.
    """
    results = zip(ours, reference, exact, scales or [None] * len(exact), strict=True)
    for index, (result, plain, wide, scale) in enumerate(results):
        assert_as_exact_as(result, plain, wide, f"{name}, result {index}", scale=scale)


@dataclass
class Comparison:
    """A comparison of an op with its reference on one input.

    Attributes:
        op: Name of the op and pass, for the table.
        case: Shape, layout and dtype, for the table.
        group: Name of a group of cases, for which the table has the geometric mean of the ratios.
        ours: Runs the op and returns its results.
        reference: The same in plain PyTorch.
        exact: The same in plain PyTorch with float64 inputs.
        compiled: The reference under torch.compile.
        bytes_moved: Minimum number of bytes that the op must read and write.
        scales: Scales of the errors of the results; see `fastmunit.testing.assert_as_exact_as`.
    """

    op: str
    case: str
    group: str
    ours: Callable[[], Sequence[Tensor]]
    reference: Callable[[], Sequence[Tensor]]
    exact: Callable[[], Sequence[Tensor]]
    compiled: Callable[[], Sequence[Tensor]]
    bytes_moved: int
    scales: Sequence[float | None] | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def check(self) -> None:
        """Assert that our results are as exact as those of the reference. A wrong result gets no time."""
        name = f"{self.op}, {self.case}"
        check_results(name, self.ours(), self.reference(), self.exact(), self.scales)

    def time(self) -> None:
        """Time ours, the reference, the compiled reference and the copy, in interleaved rounds."""
        calls: dict[str, Callable[[], object]] = {
            "ours": self.ours,
            "eager": self.reference,
            "compiled": self.compiled,
            "copy": copy_of(self.bytes_moved),
        }
        if DEVICE == "cuda":
            calls = {name: captured(call) for name, call in calls.items()}
        repeats = {}
        round_seconds = 0.0
        for name, call in calls.items():
            call()  # compiles, and warms caches
            seconds = seconds_of(call, 1)
            repeats[name] = min(MAX_REPEATS, max(1, int(ROUND_SECONDS / seconds)))
            round_seconds += repeats[name] * seconds
            self.seconds[name] = []
        for _ in range(max(MIN_ROUNDS, min(ROUNDS, int(COMPARISON_SECONDS / round_seconds)))):
            for name, call in calls.items():
                self.seconds[name].append(seconds_of(call, repeats[name]))

    def ratios(self) -> dict[str, float]:
        """Return ratios of the minimum times over the rounds, and our minimum and median time in microseconds.

        Other processes only ever add time, so the minimum is the most stable.
        """
        minimum = {name: min(seconds) for name, seconds in self.seconds.items()}
        return {
            "ours_us": minimum["ours"] * 1e6,
            "ours_median_us": statistics.median(self.seconds["ours"]) * 1e6,
            "eager_over_ours": minimum["eager"] / minimum["ours"],
            "compiled_over_ours": minimum["compiled"] / minimum["ours"],
            "ours_over_copy": minimum["ours"] / minimum["copy"],
        }


def table(comparisons: Sequence[Comparison]) -> str:
    """Return a table with a line per comparison and the geometric means of each group."""
    width = max(len(f"{comparison.op} {comparison.case}") for comparison in comparisons)
    line = f"{{:<{width}}}  {{:>10}}  {{:>12}}  {{:>15}}  {{:>9}}"
    lines = [line.format("op and input", "ours in µs", "eager / ours", "compiled / ours", "ours/copy")]
    groups: dict[str, list[dict[str, float]]] = {}
    for comparison in comparisons:
        ratios = comparison.ratios()
        groups.setdefault(f"{comparison.op}, {comparison.group}", []).append(ratios)
        lines.append(_row(line, f"{comparison.op} {comparison.case}", f"{ratios['ours_us']:.0f}", ratios))
    lines.append("geometric means")
    for name, members in groups.items():
        means = {
            key: math.exp(statistics.fmean(math.log(ratios[key]) for ratios in members))
            for key in ("eager_over_ours", "compiled_over_ours", "ours_over_copy")
        }
        lines.append(_row(line, f"{name}, {len(members)} inputs", "", means))
    return "\n".join(lines)


def _row(line: str, name: str, time_of_ours: str, ratios: dict[str, float]) -> str:
    values = (ratios["eager_over_ours"], ratios["compiled_over_ours"], ratios["ours_over_copy"])
    return line.format(name, time_of_ours, *(f"{value:.2f}" for value in values))


@dataclass
class Count:
    """An exact number, such as bytes, for ours and for the reference."""

    name: str
    ours: int
    eager: int

    def ratios(self) -> dict[str, float]:
        """Return both numbers and eager / ours."""
        return {"ours": self.ours, "eager": self.eager, "eager_over_ours": self.eager / self.ours}


def count_table(counts: Sequence[Count]) -> str:
    """Return a table with a line per count."""
    width = max(len(count.name) for count in counts)
    line = f"{{:<{width}}}  {{:>12}}  {{:>12}}  {{:>12}}"
    lines = [line.format("what", "ours", "eager", "eager / ours")]
    for count in counts:
        lines.append(line.format(count.name, count.ours, count.eager, f"{count.eager / count.ours:.2f}"))
    return "\n".join(lines)


def seconds_of_step(call: Callable[[], object]) -> float:
    """Return the time of a call, host and device; on a GPU the mean of several consecutive calls."""
    if DEVICE == "cpu":
        return seconds_on_cpu(call, 1)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(GPU_STEPS):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / GPU_STEPS


@dataclass
class StepTimes:
    """Times of whole steps, which take seconds each and run in interleaved rounds.

    Attributes:
        name: Name for the table.
        calls: A step of each competitor.
        baseline: Name of the competitor that the others are compared with.
        share: The share of a competitor's time that counts, if not all of it.
    """

    name: str
    calls: dict[str, Callable[[], object]]
    baseline: str
    share: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, rounds: int = 3) -> None:
        """Warm up, on a GPU until graphs are captured, then time `rounds` interleaved rounds and keep the minimum."""
        for call in self.calls.values():
            for _ in range(WARM_UP_STEPS):
                call()
        self.seconds = dict.fromkeys(self.calls, math.inf)
        for _ in range(rounds):
            for name, call in self.calls.items():
                seconds = seconds_of_step(call) * self.share.get(name, 1.0)
                self.seconds[name] = min(self.seconds[name], seconds)

    def lines(self) -> list[str]:
        """Return a line per competitor: seconds, and the seconds of the baseline divided by them."""
        baseline = self.seconds[self.baseline]
        return [
            f"{self.name}: {name} {s:.3g} s, {self.baseline} / this {baseline / s:.2f}"
            for name, s in self.seconds.items()
        ]
