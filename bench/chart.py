"""Draw the chart of docs/project/benchmarks.md and write its table: `python -m bench.chart [--times FILE]`.

docs/project/benchmarks.json has all figures. Competitors without a time were not measured, and the chart says so.
`--times` first replaces the times of the CPU by those of a run:

    python -m pytest bench --benchmark -k step_time --benchmark-json times.json
    python -m bench.chart --times times.json
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

DOCS = Path(__file__).parents[1] / "docs/project"
FIGURES, CHART, TEXT = DOCS / "benchmarks.json", DOCS / "benchmarks.svg", DOCS / "benchmarks.md"
BEGIN, END = "<!-- The table is written by `python -m bench.chart`. -->\n", "<!-- End of the table. -->\n"
BASELINE = "reference_step float32"
BENCHMARK = "bench_step_time"
NOT_MEASURED = "not measured"

_WIDTH, _LEFT, _BARS = 840, 200, 480
_TOP, _ROW, _HEAD = 64, 26, 30


def svg(figures: Mapping[str, Any]) -> str:
    """Return the chart: a panel per device, a bar per competitor, each panel with its own scale."""
    panels = []
    y = _TOP
    for panel in figures["panels"]:
        times = panel["times"]
        longest = max(times.values())
        y += _HEAD
        bars = [
            {
                "name": name,
                "y": y + 8 + _ROW * row,
                "width": round(_BARS * times[key] / longest) if key in times else 0,
                "label": label(panel, key),
                "ours": is_ours(key),
            }
            for row, (key, name) in enumerate(figures["rows"].items())
        ]
        panels.append({"name": f"{panel['name']}, measured {panel['date']}", "y": y, "bars": bars})
        y += _ROW * len(bars) + 8
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("steps.svg.j2")
    texts = {"title": figures["title"], "subtitle": figures["subtitle"]}
    return template.render(**texts, panels=panels, width=_WIDTH, height=y + 16, left=_LEFT) + "\n"


def is_ours(key: str) -> bool:
    """Return True for our step, False for the public one."""
    return not key.startswith("reference_step")


def label(panel: Mapping[str, Any], key: str) -> str:
    """Return the time of a competitor with its unit, and how many times as fast as the baseline it is."""
    times = panel["times"]
    if key not in times:
        return NOT_MEASURED
    factor = "" if key == BASELINE else f" · {times[BASELINE] / times[key]:.2f}x"
    return f"{times[key]} {panel['unit']}{factor}"


def table(figures: Mapping[str, Any]) -> str:
    """Return the same figures as a Markdown table."""
    panels = figures["panels"]
    head = ["a training step", *(f"{panel['name']}, {panel['date']}" for panel in panels)]
    rows = [[name, *(label(panel, key) for panel in panels)] for key, name in figures["rows"].items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def with_table(text: str, figures: Mapping[str, Any]) -> str:
    """Return the text with the table between its two comments replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(figures)}\n{END}{rest.split(END)[1]}"


def take_times(figures: dict[str, Any], run: Mapping[str, Any]) -> None:
    """Replace the times and the date of the CPU by those of a run of pytest-benchmark.

    Raises:
        ValueError: If the run has no time of a competitor.
    """
    found = [each["extra_info"] for each in run["benchmarks"] if each["name"] == BENCHMARK]
    missing = [key for key in figures["rows"] if not found or key not in found[0]]
    if missing:
        raise ValueError(f"the run has no time of {missing[0]}: run pytest bench --benchmark -k {BENCHMARK[6:]}")
    panel = figures["panels"][0]
    panel["times"] = {key: round(found[0][key], 2) for key in figures["rows"]}
    panel["date"] = run["datetime"][:10]


def main() -> None:
    """Write the chart and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=Path, help="JSON of pytest-benchmark with the times of the CPU")
    arguments = parser.parse_args()
    figures = json.loads(FIGURES.read_text())
    if arguments.times is not None:
        take_times(figures, json.loads(arguments.times.read_text()))
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    CHART.write_text(svg(figures))
    TEXT.write_text(with_table(TEXT.read_text(), figures))


if __name__ == "__main__":
    main()
