"""The headlines of the README: time and memory of a training step, from the figures of the charts.

`python -m bench.chart` writes them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.chart import label, markers, panels_of

README = Path(__file__).parents[1] / "README.md"
_MEASURES = {"step_time": "time", "memory": "peak memory"}
"""Charts whose panels are rows of the table."""


def headline(figures: Mapping[str, Any]) -> str:
    """Return a sentence with a factor per machine."""
    chart = figures["charts"]["step_time"]
    factors = []
    for panel in reversed(panels_of(chart)):
        factor = panel["values"][chart["baseline"]] / panel["values"]["bfloat16"]
        factors.append(f"{factor:.1f} times ({figures['machines'][panel['machine']]['name']})")
    *others, last = factors
    return (
        f"**A training step of MUNIT in bfloat16 is {', '.join(others)} or {last} as fast as the public trainer's in "
        "float32.**\n"
    )


def table(figures: Mapping[str, Any]) -> str:
    """Return a Markdown table with a row per measured panel and a column per competitor, ours in bold."""
    competitors = figures["charts"]["step_time"]["rows"]
    lines = [["a step, 256 x 256, batch 1", *competitors.values()], ["---"] * (1 + len(competitors))]
    for name, measure in _MEASURES.items():
        chart = figures["charts"][name]
        for panel in reversed(panels_of(chart)):
            cells = [label(chart, panel, key) for key in competitors]
            cells = [
                f"**{cell}**" if key in chart["ours"] else cell for key, cell in zip(competitors, cells, strict=True)
            ]
            lines.append([f"{measure}, {figures['machines'][panel['machine']]['name']}, {panel['date']}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def with_headlines(text: str, figures: Mapping[str, Any]) -> str:
    """Return the README with its sentence and its table replaced."""
    begin, end = markers("headlines")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{headline(figures)}\n{table(figures)}\n{end}{rest.split(end)[1]}"
