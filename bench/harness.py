"""How benchmarks compare an op with its reference: correct first, then timed in interleaved rounds of one run."""

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
LEAST_ROUNDS = 4
ROUND_SECONDS = 0.02
COMPARISON_SECONDS = 6.0
# Where benchmarks make their inputs: a GPU where there is one.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# More than any level-two cache holds: writing it leaves nothing of the inputs there.
FLUSH_BYTES = 256 * 2**20
MOST_REPEATS = 1_000_000 if DEVICE == "cpu" else 50  # each also writes FLUSH_BYTES
GPU_STEPS = 10
WARM_UP_STEPS = 1 if DEVICE == "cpu" else 5


@contextmanager
def without_tf32() -> Iterator[None]:
    """For comparisons of float32: torch's default lets a GPU's convolutions round their inputs to TF32's 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def keep_freed_memory() -> None:
    """Have glibc's malloc keep freed memory for the next tensor, as torch's allocator for GPUs does.

    Otherwise large results come on fresh pages in one round and on used ones in another, and a page fault costs as much
    as the op that writes the page. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_threshold, 2**30)


def copy_of(bytes_moved: int) -> Callable[[], object]:
    """A tensor copy that reads half of `bytes_moved` and writes the other half: the floor of an op bound by memory."""
    # Zeros would be one page of memory, read over and over.
    source = torch.ones(max(1, bytes_moved // 2), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def seconds_on_cpu(call: Callable[[], object], repeats: int) -> float:
    """Mean time of a call among `repeats` in a row, with warm caches."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """What a call launches, as a CUDA graph, so that the GPU's time is measured and not that of Python and torch.

    What is compiled at the first call is compiled here.
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
    """Mean time of a call between two events on the GPU, each with a cold level-two cache."""
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
    """Mean time of a call on `DEVICE`."""
    return seconds_on_gpu(call, repeats) if DEVICE == "cuda" else seconds_on_cpu(call, repeats)


def check_results(
    name: str,
    ours: Sequence[Tensor],
    reference: Sequence[Tensor],
    exact: Sequence[Tensor],
    scales: Sequence[float | None] | None = None,
) -> None:
    """Assert that each of our results is as exact as plain PyTorch's.

    Args:
        name: What is compared, for the message.
        ours: Our results.
        reference: Those of plain PyTorch in the same dtype.
        exact: Those of plain PyTorch in float64.
        scales: What errors are relative to; see `fastmunit.testing.assert_as_exact_as`.

    Raises:
        AssertionError: One is not, or there are more or fewer of them.
    """
    results = zip(ours, reference, exact, scales or [None] * len(exact), strict=True)
    for index, (result, plain, wide, scale) in enumerate(results):
        assert_as_exact_as(result, plain, wide, f"{name}, result {index}", scale=scale)


@dataclass
class Comparison:
    """One op on one input, beside its reference.

    Attributes:
        op: Name of the op and pass, for the table.
        case: Shape, layout and dtype, for the table.
        group: Cases of one group are summed up by the geometric mean of their ratios.
        ours: Runs the op; returns its results.
        reference: The same by plain PyTorch.
        exact: The same by plain PyTorch on float64 inputs.
        compiled: The reference under torch.compile.
        bytes_moved: Bytes that the op has to read and write at least.
        scales: What the errors of the results are relative to; see `fastmunit.testing.assert_as_exact_as`.
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
        """Assert that ours is as exact as the reference. A wrong result gets no ratio."""
        name = f"{self.op}, {self.case}"
        check_results(name, self.ours(), self.reference(), self.exact(), self.scales)

    def time(self) -> None:
        """Time ours, the reference, the compiled reference and the copy, one round of each in turn."""
        calls: dict[str, Callable[[], object]] = {
            "ours": self.ours,
            "eager": self.reference,
            "compiled": self.compiled,
            "copy": copy_of(self.bytes_moved),
        }
        if DEVICE == "cuda":
            calls = {name: captured(call) for name, call in calls.items()}
        repeats = {}
        of_a_round = 0.0
        for name, call in calls.items():
            call()  # compiles, and warms caches
            seconds = seconds_of(call, 1)
            repeats[name] = min(MOST_REPEATS, max(1, int(ROUND_SECONDS / seconds)))
            of_a_round += repeats[name] * seconds
            self.seconds[name] = []
        for _ in range(max(LEAST_ROUNDS, min(ROUNDS, int(COMPARISON_SECONDS / of_a_round)))):
            for name, call in calls.items():
                self.seconds[name].append(seconds_of(call, repeats[name]))

    def ratios(self) -> dict[str, float]:
        """Ratios of the least times over the rounds, and the least and median time of ours in microseconds.

        Other processes only ever add time, so the least is the steadiest.
        """
        least = {name: min(seconds) for name, seconds in self.seconds.items()}
        return {
            "ours_us": least["ours"] * 1e6,
            "ours_median_us": statistics.median(self.seconds["ours"]) * 1e6,
            "eager_over_ours": least["eager"] / least["ours"],
            "compiled_over_ours": least["compiled"] / least["ours"],
            "ours_over_copy": least["ours"] / least["copy"],
        }


def table(comparisons: Sequence[Comparison]) -> str:
    """A line for each comparison and one for the geometric means of each group."""
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
    """An exact number, such as bytes, of ours and of the reference."""

    name: str
    ours: int
    eager: int

    def ratios(self) -> dict[str, float]:
        """Both numbers and eager / ours."""
        return {"ours": self.ours, "eager": self.eager, "eager_over_ours": self.eager / self.ours}


def count_table(counts: Sequence[Count]) -> str:
    """A line for each count."""
    width = max(len(count.name) for count in counts)
    line = f"{{:<{width}}}  {{:>12}}  {{:>12}}  {{:>12}}"
    lines = [line.format("what", "ours", "eager", "eager / ours")]
    for count in counts:
        lines.append(line.format(count.name, count.ours, count.eager, f"{count.eager / count.ours:.2f}"))
    return "\n".join(lines)


def seconds_of_step(call: Callable[[], object]) -> float:
    """Time of a call, host and device; on a GPU the mean of a few in a row."""
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
    """Whole steps of seconds each, run in turn.

    Attributes:
        name: What is timed, for the table.
        calls: A step of each competitor.
        baseline: The one that the others are compared with.
        share: What part of its time counts, where it is not all.
    """

    name: str
    calls: dict[str, Callable[[], object]]
    baseline: str
    share: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, rounds: int = 3) -> None:
        """Run each unmeasured, on a GPU until its graph is captured, then `rounds` times in turn; the least counts."""
        for call in self.calls.values():
            for _ in range(WARM_UP_STEPS):
                call()
        self.seconds = dict.fromkeys(self.calls, math.inf)
        for _ in range(rounds):
            for name, call in self.calls.items():
                seconds = seconds_of_step(call) * self.share.get(name, 1.0)
                self.seconds[name] = min(self.seconds[name], seconds)

    def lines(self) -> list[str]:
        """A line for each competitor: seconds, and the baseline's over them."""
        least = self.seconds[self.baseline]
        return [
            f"{self.name}: {name} {s:.3g} s, {self.baseline} / this {least / s:.2f}" for name, s in self.seconds.items()
        ]
