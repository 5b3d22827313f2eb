"""Fixtures of the benchmarks, and the tables of their results."""

import pytest
import torch

from bench.harness import Comparison, Count, StepTimes, count_table, keep_freed_memory, table

_comparisons = pytest.StashKey[list[Comparison]]()
_counts = pytest.StashKey[list[Count]]()
_step_times = pytest.StashKey[list[StepTimes]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_comparisons] = []
    config.stash[_counts] = []
    config.stash[_step_times] = []
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # as in the public trainer and `fastmunit train`


@pytest.fixture
def compare(benchmark, request):
    """Return a function that checks a `Comparison` and, with --benchmark, times it."""

    def run(comparison: Comparison) -> None:
        comparison.check()
        if benchmark.disabled:
            benchmark(comparison.ours)
            return
        comparison.time()
        benchmark.extra_info.update(comparison.ratios())
        request.config.stash[_comparisons].append(comparison)
        benchmark(comparison.ours)

    return run


@pytest.fixture
def shrink(request) -> int:
    """Return the number to divide sides of maps by. A convolution is checked on small maps unless it is timed."""
    return 1 if request.config.getoption("--benchmark") else 4


@pytest.fixture
def count(benchmark, request):
    """Return a function that records `Count`s; nothing is timed."""

    def record(*counted: Count) -> None:
        for each in counted:
            benchmark.extra_info[each.name] = each.ratios()
            request.config.stash[_counts].append(each)
        benchmark.pedantic(lambda: None)

    return record


@pytest.fixture
def step_times(benchmark, request):
    """Return a function that times the competitors of a `StepTimes` with --benchmark, else runs each once."""

    def run(steps: StepTimes) -> None:
        if benchmark.disabled:
            for call in steps.calls.values():
                call()
        else:
            steps.time()
            benchmark.extra_info.update(steps.seconds)
            request.config.stash[_step_times].append(steps)
        benchmark.pedantic(lambda: None)

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[_comparisons]:
        terminalreporter.section("ratios")
        terminalreporter.write_line(table(config.stash[_comparisons]))
    if config.stash[_counts]:
        terminalreporter.section("counts")
        terminalreporter.write_line(count_table(config.stash[_counts]))
    if config.stash[_step_times]:
        terminalreporter.section("steps")
        for steps in config.stash[_step_times]:
            terminalreporter.write_line("\n".join(steps.lines()))
