"""Draw the charts of docs/project/benchmarks.md and write their tables: `python -m bench.chart`.

docs/project/benchmarks.json has all figures with their machines, dates and commands. What was not measured has no
value, and the chart says so. `--times` first replaces the values of every panel whose benchmark is in a run:

    python -m pytest bench --benchmark -k step_time --benchmark-json times.json
    python -m bench.chart --times times.json --machine epyc

A chart has `rows` (a key and a name each), of which `ours` are drawn in color, and `panels`. A panel has its `values`,
of all or of some rows, and where they come from: a key of `machines`, a `date` and a `command`. If a benchmark measures
them, `benchmark` is its name. `keys` maps rows to what it records, if that is not the key of the row, and `scale`
converts it into the panel's `unit`.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

DOCS = Path(__file__).parents[1] / "docs/project"
FIGURES, CHARTS, TEXT = DOCS / "benchmarks.json", DOCS / "charts", DOCS / "benchmarks.md"
NOT_MEASURED = "not measured"

_WIDTH, _LEFT, _BARS = 840, 200, 450
_TOP, _ROW, _HEAD = 64, 26, 30


def svg(figures: Mapping[str, Any], chart: str) -> str:
    """Return a chart: a panel per device or input, a bar per row, each panel with its own scale."""
    content = figures["charts"][chart]
    panels = []
    y = _TOP
    for panel in content["panels"]:
        longest = max(panel["values"].values())
        y += _HEAD
        bars = [
            {
                "name": name,
                "y": y + 8 + _ROW * row,
                "width": round(_BARS * panel["values"][key] / longest) if key in panel["values"] else 0,
                "label": label(content, panel, key),
                "ours": key in content["ours"],
            }
            for row, (key, name) in enumerate(content["rows"].items())
        ]
        panels.append({"name": heading(figures, panel), "y": y, "bars": bars})
        y += _ROW * len(bars) + 8
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    texts = {"title": content["title"], "subtitle": content["subtitle"]}
    template = environment.get_template("chart.svg.j2")
    return template.render(**texts, panels=panels, width=_WIDTH, height=y + 16, left=_LEFT) + "\n"


def heading(figures: Mapping[str, Any], panel: Mapping[str, Any]) -> str:
    """Return the name of a panel with its machine and date."""
    return f"{panel['name']} ({figures['machines'][panel['machine']]['name']}, {panel['date']})"


def label(chart: Mapping[str, Any], panel: Mapping[str, Any], key: str) -> str:
    """Return the value of a row with its unit, and how it compares with the baseline, if the chart has one."""
    values = panel["values"]
    if key not in values:
        return NOT_MEASURED
    text = f"{values[key]:,} {panel['unit']}"
    baseline = chart.get("baseline")
    if baseline not in values or key == baseline:
        return text
    if chart.get("relative") == "percent":
        return f"{text} · {values[key] / values[baseline]:.0%}"
    return f"{text} · {values[baseline] / values[key]:.2f}x"


def table(chart: Mapping[str, Any]) -> str:
    """Return the figures of a chart as a Markdown table."""
    panels = chart["panels"]
    head = [chart["table_head"], *(panel["name"] for panel in panels)]
    rows = [[name, *(label(chart, panel, key) for panel in panels)] for key, name in chart["rows"].items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def sources(figures: Mapping[str, Any], chart: str) -> str:
    """Return where the figures come from: a line per machine, date and command."""
    panels: dict[tuple[str, str, str], list[str]] = {}
    for panel in figures["charts"][chart]["panels"]:
        panels.setdefault((panel["machine"], panel["date"], panel["command"]), []).append(panel["name"])
    lines = []
    for (key, date, command), names in panels.items():
        machine = figures["machines"][key]
        what = f"{', '.join(names)}: " if len(panels) > 1 else ""
        lines.append(f"{what}{machine['description']}; {machine['versions']}; {date}; {command}.")
    return "\n".join(f"- {line[0].upper()}{line[1:]}" for line in lines) + "\n"


def section(figures: Mapping[str, Any], chart: str) -> str:
    """Return what the text has about a chart: the picture, its table and its sources."""
    content = figures["charts"][chart]
    picture = f"![{content['title']}]({CHARTS.name}/{chart}.svg)\n"
    return "\n".join([picture, table(content), sources(figures, chart)])


def markers(chart: str) -> tuple[str, str]:
    """Return the comments around the section of a chart."""
    return f"<!-- {chart}: written by `python -m bench.chart` -->\n", f"<!-- end of {chart} -->\n"


def with_sections(text: str, figures: Mapping[str, Any]) -> str:
    """Return the text with the section of each chart replaced."""
    for chart in figures["charts"]:
        begin, end = markers(chart)
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{section(figures, chart)}\n{end}{rest.split(end)[1]}"
    return text


def take_times(figures: dict[str, Any], run: Mapping[str, Any], machine: str) -> None:
    """Replace the values, machine and date of each panel whose benchmark is in a run of pytest-benchmark.

    Raises:
        ValueError: If the machine is not described, no benchmark of the run belongs to a panel, or one has no value for
            a row.
    """
    if machine not in figures["machines"]:
        raise ValueError(f"no machine {machine!r}: describe it under `machines` in {FIGURES.name}")
    found = {each["name"]: dict(_recorded(each["extra_info"])) for each in run["benchmarks"]}
    panels = [
        (chart, panel)
        for chart in figures["charts"].values()
        for panel in chart["panels"]
        if panel.get("benchmark") in found
    ]
    if not panels:
        raise ValueError("the run has no benchmark of a chart: run pytest bench --benchmark -k step_time")
    for chart, panel in panels:
        recorded = found[panel["benchmark"]]
        keys = panel.get("keys") or {key: key for key in chart["rows"]}
        missing = [key for key in keys.values() if key not in recorded]
        if missing:
            raise ValueError(f"{panel['benchmark']} has no value of {missing[0]}")
        scale = panel.get("scale", 1)
        panel["values"] = {row: _rounded(recorded[key] * scale) for row, key in keys.items()}
        panel.update(machine=machine, date=run["datetime"][:10])


def _recorded(info: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield what a benchmark recorded: times of a comparison in microseconds, counts, or times of steps in seconds."""
    if "ours_us" in info:
        ours = info["ours_us"]
        yield from (("ours", ours), ("copy", ours / info["ours_over_copy"]))
        yield from ((name, ours * info[f"{name}_over_ours"]) for name in ("eager", "compiled"))
        return
    for key, value in info.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}: {name}", number) for name, number in value.items())
        else:
            yield key, value


def _rounded(value: float) -> float:
    """Round to three digits; larger values to whole numbers."""
    return round(value) if value >= 100 else float(f"{value:.3g}")


def main() -> None:
    """Write the charts and the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("--machine", help="key of the machine that ran it")
    arguments = parser.parse_args()
    figures = json.loads(FIGURES.read_text())
    if arguments.times is not None:
        take_times(figures, json.loads(arguments.times.read_text()), arguments.machine)
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    for chart in figures["charts"]:
        (CHARTS / f"{chart}.svg").write_text(svg(figures, chart))
    TEXT.write_text(with_sections(TEXT.read_text(), figures))


if __name__ == "__main__":
    main()
