"""Durations of trainings of MUNIT, iterations times the measured time of a step: a table of docs/how_to/choosing.md.

`python -m bench.chart` writes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.chart import markers, panels_of
from fastmunit.runs.reports.training_report import duration

PAGE = Path(__file__).parents[1] / "docs/how_to/choosing.md"
ITERATIONS = (10_000, 100_000, 1_000_000)
_SECONDS = {"ms": 1e-3, "s": 1.0}


def table(figures: Mapping[str, Any]) -> str:
    """Return a Markdown table with a row per machine and a column per number of iterations, in bfloat16."""
    lines = [["iterations", *(f"{count:,}" for count in ITERATIONS)], ["---"] * (1 + len(ITERATIONS))]
    for panel in reversed(panels_of(figures["charts"]["step_time"])):
        seconds = panel["values"]["bfloat16"] * _SECONDS[panel["unit"]]
        name = f"{figures['machines'][panel['machine']]['name']}, {panel['date']}"
        lines.append([name, *(duration(count * seconds) for count in ITERATIONS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def with_durations(text: str, figures: Mapping[str, Any]) -> str:
    """Return the page with its table replaced."""
    begin, end = markers("durations")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table(figures)}\n{end}{rest.split(end)[1]}"
