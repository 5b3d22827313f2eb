"""The benchmarks' fixture and the table of their ratios."""

import pytest
from harness import Comparison, table

_comparisons = pytest.StashKey[list[Comparison]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_comparisons] = []


@pytest.fixture
def compare(benchmark, request):
    """A function that checks a `Comparison` and, under --benchmark, times it."""

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[_comparisons]:
        terminalreporter.section("ratios")
        terminalreporter.write_line(table(config.stash[_comparisons]))
