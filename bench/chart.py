"""Draw the charts of docs/project/benchmarks.md and write their tables: `python -m bench.chart`.

docs/project/benchmarks.json has all figures with their machines, dates and commands. What was not measured has no
value, and the chart says so. `--times` first replaces the values of every panel whose benchmark is in a run:

    python -m pytest bench --benchmark -k step_time --benchmark-json times.json
    python -m bench.chart --times times.json --machine epyc

A chart has `rows` (a key and a name each), `ours` (the rows to draw in color) and `panels`. A panel has its `values`,
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

_WIDTH, _MARGIN, _TOP, _ROW, _HEAD, _LETTER = 840, 16, 44, 26, 30, 8


def svg(figures: Mapping[str, Any], chart: str) -> str:
    """Return a chart: a panel per device or input, a bar per row, each panel with its own scale."""
    content = figures["charts"][chart]
    measured = panels_of(content)
    columns = content.get("columns", 1)
    across = (_WIDTH - _MARGIN) // columns
    labels = [label(content, panel, key) for panel in measured for key in content["rows"]]
    start = _LETTER * max(map(len, content["rows"].values())) + 10
    longest = across - _MARGIN - start - 8 - _LETTER * max(map(len, labels))
    high = _HEAD + 8 + _ROW * len(content["rows"])
    subtitles = [text for text in (content["subtitle"], place(figures, content)) if text]
    top = _TOP + 20 * len(subtitles)
    panels = []
    for number, panel in enumerate(measured):
        left, y = _MARGIN + number % columns * across, top + _HEAD + number // columns * high
        bars = [
            {
                "name": name,
                "x": left + start,
                "y": y + 8 + _ROW * row,
                "width": round(longest * panel["values"].get(key, 0) / max(panel["values"].values())),
                "label": label(content, panel, key),
                "ours": key in content["ours"],
            }
            for row, (key, name) in enumerate(content["rows"].items())
        ]
        panels.append({"name": heading(figures, content, panel), "x": left, "y": y, "bars": bars})
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    height = top + high * -(-len(measured) // columns) + 16
    template = environment.get_template("chart.svg.j2")
    return (
        template.render(title=content["title"], subtitles=subtitles, panels=panels, width=_WIDTH, height=height) + "\n"
    )


def drawn(figures: Mapping[str, Any]) -> list[str]:
    """Return the names of the charts that have a measured panel."""
    return [name for name, chart in figures["charts"].items() if panels_of(chart)]


def panels_of(chart: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the panels that have been measured."""
    return [panel for panel in chart["panels"] if panel["values"]]


def place(figures: Mapping[str, Any], chart: Mapping[str, Any]) -> str:
    """Return the machine and dates of a chart, or nothing if its panels have several machines."""
    panels = panels_of(chart)
    machines = {figures["machines"][panel["machine"]]["name"] for panel in panels}
    dates = sorted({panel["date"] for panel in panels})
    return f"{machines.pop()}, {' and '.join(dates)}" if len(machines) == 1 else ""


def heading(figures: Mapping[str, Any], chart: Mapping[str, Any], panel: Mapping[str, Any]) -> str:
    """Return the name of a panel, with its machine and date if the chart has several machines."""
    if place(figures, chart):
        return panel["name"]
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
    """Return the figures of a chart as a Markdown table, with a column per panel, or per row if that takes fewer."""
    panels = panels_of(chart)
    cells = [["", *(panel["name"] for panel in panels)]]
    cells += [[name, *(label(chart, panel, key) for panel in panels)] for key, name in chart["rows"].items()]
    if len(panels) > len(chart["rows"]):
        cells = [list(column) for column in zip(*cells, strict=True)]
    cells[0][0] = chart["table_head"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], ["---"] * len(cells[0]), *cells[1:])) + "\n"


def sources(figures: Mapping[str, Any], chart: str) -> str:
    """Return where the figures come from: a line per machine, with the dates and commands of its panels."""
    runs: dict[str, dict[str, list[str]]] = {}
    for panel in panels_of(figures["charts"][chart]):
        names = runs.setdefault(panel["machine"], {}).setdefault(f"{panel['date']}, {panel['command']}", [])
        names.append(panel["name"])
    lines = []
    for key, commands in runs.items():
        machine = figures["machines"][key]
        panels = ", ".join(name for names in commands.values() for name in names)
        what = f"{panels}: " if len(runs) > 1 else ""
        lines.append(f"- {what}{machine['description']}; {machine['versions']}; {'; '.join(commands)}.\n")
    return "".join(lines)


def section(figures: Mapping[str, Any], chart: str) -> str:
    """Return what the text has about a chart: the picture, its table and its sources."""
    content = figures["charts"][chart]
    if not panels_of(content):
        return f"{content['title']}: not measured yet ({content['panels'][0]['command']}).\n"
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

    If a chart already has panels of the machine, others stay.

    Raises:
        ValueError: If the machine is not described, no benchmark of the run belongs to a panel, or one has no value for
            a row.
    """
    if machine not in figures["machines"]:
        raise ValueError(f"no machine {machine!r}: describe it under `machines` in {FIGURES.name}")
    found = {each["name"]: dict(_recorded(each["extra_info"])) for each in run["benchmarks"]}
    panels = []
    for chart in figures["charts"].values():
        measured = [panel for panel in chart["panels"] if panel.get("benchmark") in found]
        same = [panel for panel in measured if panel["machine"] == machine]
        panels += [(chart, panel) for panel in same or measured]
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
    """Write the charts, the text, the headlines of the README and the durations of trainings."""
    from bench import durations, headlines

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("--machine", help="key of the machine that ran it")
    arguments = parser.parse_args()
    figures = json.loads(FIGURES.read_text())
    if arguments.times is not None:
        take_times(figures, json.loads(arguments.times.read_text()), arguments.machine)
        FIGURES.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    for chart in drawn(figures):
        (CHARTS / f"{chart}.svg").write_text(svg(figures, chart))
    TEXT.write_text(with_sections(TEXT.read_text(), figures))
    headlines.README.write_text(headlines.with_headlines(headlines.README.read_text(), figures))
    durations.PAGE.write_text(durations.with_durations(durations.PAGE.read_text(), figures))


if __name__ == "__main__":
    main()
