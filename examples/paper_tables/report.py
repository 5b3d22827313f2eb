"""Result tables in Markdown and HTML: mean ± deviation over seeds, the published figures, and rankings that hold."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.paper_tables import published
from examples.paper_tables.published import Ordering
from fastmunit.files import write_text

FRUITS = ("apple to tomato", "tomato to apple", "apple to cherry", "cherry to apple", "tomato to cherry",
          "cherry to tomato")  # fmt: skip

Results = Sequence[Mapping[str, Any]]

_STYLE = """
main { max-width: 1100px; margin: 0 auto; padding: 24px; font: 15px/1.5 system-ui, sans-serif; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 14px 2px 0; text-align: left; border-bottom: 1px solid #ddd; }
pre { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Value:
    """A measured value.

    Attributes:
        mean: Mean over seeds.
        deviation: Standard deviation over seeds. None for one seed.
        error: Standard error of the measurement with one seed, from its confidence interval. None without an interval.
        seeds: Number of seeds.
    """

    mean: float
    deviation: float | None
    error: float | None
    seeds: int

    @property
    def spread(self) -> float:
        """Size of differences that are noise."""
        return self.deviation if self.deviation is not None else self.error or 0.0

    def __str__(self) -> str:
        digits = 3 if abs(self.mean) < 10 else 1
        if self.deviation is not None:
            return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}"


@dataclass(frozen=True)
class Table:
    """A table of text with a heading and a note."""

    heading: str
    note: str
    head: list[str]
    rows: list[list[str]]


def write_report(output: Path, settings: Mapping[str, Any], results: Results) -> None:
    """Write tables.md and tables.html into `output`."""
    tables = [table for table in (_table_1(results), _table_2(results)) if table is not None]
    tables += [_orders(results), _models(results)]
    seeds = len(settings["seeds"])
    spread = "± is the standard deviation over seeds" if seeds > 1 else "one seed shows no spread between trainings"
    facts = [
        f"{settings['minutes per model']:g} minutes per model, {seeds} seed{'s' if seeds > 1 else ''}: {spread}.",
        f"{settings['inputs']} inputs, {settings['outputs of each']} outputs per input.",
        f"Quality is {settings['quality']} (lower is better). Diversity is {settings['diversity']} (higher is more "
        "diverse).",
        "Fruits-360 by Mihai Oltean (CC BY-SA 4.0), 64x64; test images are held-out blocks of frames.",
        "The paper's figures and the rankings among them are unverified: see examples/paper_tables/published.py.",
    ]
    if settings["changed keys"]:
        facts.append(f"Changed in every configuration: {', '.join(settings['changed keys'])}.")
    if settings["untrained"]:
        facts.append(f"Left out because they are not trained: {'; '.join(settings['untrained'])}.")
    if settings["missing"]:
        facts.append(f"Left out because no such configuration is shipped: {', '.join(settings['missing'])}.")
    write_text(output / "tables.md", _markdown(tables, facts, settings["command"]))
    write_text(output / "tables.html", _page(tables, facts, settings["command"]))


def values(results: Results, table: int, figure: str, **where: str) -> dict[str, Value]:
    """Return the value of a figure per system, over seeds. `figure` is the start of the name of the figure."""
    found: dict[str, list[tuple[float, float | None]]] = {}
    for result in results:
        if result["table"] != table or any(result.get(key) != value for key, value in where.items()):
            continue
        for entry in result["figures"]:
            if entry["name"].startswith(figure):
                error = None if entry["low"] is None else (entry["high"] - entry["low"]) / (2 * 1.96)
                found.setdefault(result["system"], []).append((entry["value"], error))
    return {
        name: Value(
            statistics.fmean(value for value, _ in measured),
            statistics.stdev(value for value, _ in measured) if len(measured) > 1 else None,
            measured[0][1],
            len(measured),
        )
        for name, measured in found.items()
    }


def _table_1(results: Results) -> Table | None:
    quality, diversity = values(results, 1, "KID"), values(results, 1, "LPIPS")
    if not diversity:
        return None
    real = _real(results)
    rows = []
    for name, paper in published.TABLE_1.items():
        if name == "real data":
            own = [str(real[kind]) if kind in real else "–" for kind in ("quality", "diversity")]
        elif name in diversity:
            own = [str(quality[name]) if name in quality else "–", str(diversity[name])]
        else:
            continue
        rows.append([name, *own, _number(paper.shoes_quality, "{} %"), _number(paper.shoes_diversity, "{:.3f}"),
                     _number(paper.handbags_quality, "{} %"), _number(paper.handbags_diversity, "{:.3f}")])  # fmt: skip
    return Table(
        "Table 1 in miniature: edges → fruit",
        "The paper's quality is the percentage of judges who prefer a system to MUNIT (higher is more diverse).",
        ["", "quality: KID ↓", "diversity ↑", "paper: shoes, quality ↑", "diversity ↑", "handbags, quality ↑",
         "diversity ↑"],
        rows,
    )  # fmt: skip


def _real(results: Results) -> dict[str, Value]:
    """Return quality and diversity of real images, which every result of table 1 has as references."""
    found = {}
    for result in results:
        for entry in result["figures"] if result["table"] == 1 else ():
            for kind, prefix in (("quality", "KID"), ("diversity", "LPIPS")):
                if entry["name"].startswith(prefix) and entry["references"]:
                    reference = next(iter(entry["references"].values()))
                    error = None if reference["low"] is None else (reference["high"] - reference["low"]) / (2 * 1.96)
                    found[kind] = Value(reference["value"], None, error, 1)
    return found


def _table_2(results: Results) -> Table | None:
    systems = [name for name in published.TABLE_2 if any(r["table"] == 2 and r["system"] == name for r in results)]
    if not systems:
        return None
    rows = []
    for direction in FRUITS:
        cis, score = (values(results, 2, figure, direction=direction) for figure in ("CIS", "IS"))
        cells = [str(kind[name]) if name in kind else "–" for name in systems for kind in (cis, score)]
        if any(cell != "–" for cell in cells):
            rows.append([direction, *cells])
    averages = {figure: _average_over_directions(results, figure) for figure in ("CIS", "IS")}
    rows.append(
        ["**average**", *(str(averages[f][n]) if n in averages[f] else "–" for n in systems for f in ("CIS", "IS"))]
    )
    for direction in next(iter(published.TABLE_2.values())):
        cells = [_number(value, "{:.3f}") for name in systems for value in published.TABLE_2[name][direction]]
        rows.append([f"paper: {direction}", *cells])
    accuracies = sorted(
        {f"{r['direction'].split(' to ')[1]}: {entry['note'].split('; ', 2)[-1]}"
         for r in results if r["table"] == 2 for entry in r["figures"] if entry["name"].startswith("CIS")}
    )  # fmt: skip
    return Table(
        "Table 2 in miniature: apples, tomatoes, cherries",
        "Mean KL, higher is more diverse. Classes are varieties; " + "; ".join(accuracies) + ".",
        ["", *(f"{name}: {figure}" for name in systems for figure in ("CIS", "IS"))],
        rows,
    )


def _average_over_directions(results: Results, figure: str) -> dict[str, Value]:
    """Return the mean per system over the directions that all systems have, with its deviation over seeds."""
    by_direction = [values(results, 2, figure, direction=d) for d in dict.fromkeys(_directions(results))]
    by_direction = [found for found in by_direction if found]
    names = dict.fromkeys(name for found in by_direction for name in found)
    shared = [found for found in by_direction if len(found) == len(names)]
    averages = {}
    for name in names if shared else ():
        measured = [found[name] for found in shared]
        errors = [value.error for value in measured]
        error = None if None in errors else math.hypot(*(e for e in errors if e is not None)) / len(errors)
        averages[name] = Value(statistics.fmean(v.mean for v in measured), _deviation(results, figure, name), error,
                               measured[0].seeds)  # fmt: skip
    return averages


def _directions(results: Results) -> list[str]:
    return [result["direction"] for result in results if result["table"] == 2]


def _deviation(results: Results, figure: str, name: str) -> float | None:
    """Return the standard deviation over seeds of the mean over directions. None for one seed."""
    by_seed: dict[int, list[float]] = {}
    for result in results:
        for entry in result["figures"] if result["table"] == 2 and result["system"] == name else ():
            if entry["name"].startswith(figure):
                by_seed.setdefault(result["seed"], []).append(entry["value"])
    means = [statistics.fmean(measured) for measured in by_seed.values()]
    return statistics.stdev(means) if len(means) > 1 else None


def _orders(results: Results) -> Table:
    """Compare the rankings of the paper with the results."""
    measured = {
        (1, "diversity"): values(results, 1, "LPIPS"),
        (1, "quality"): values(results, 1, "KID"),
        (2, "CIS"): _average_over_directions(results, "CIS"),
        (2, "IS"): _average_over_directions(results, "IS"),
    }
    if "diversity" in (real := _real(results)):
        measured[1, "diversity"]["real data"] = real["diversity"]
    rows = []
    held = small = compared = 0
    for order in published.orderings():
        verdict = _verdict(order, measured[order.table, order.measure])
        if verdict:
            rows.append([str(order.table), order.measure, f"{order.better} before {order.worse}", verdict])
            compared += 1
            held += verdict.startswith("holds")
            small += verdict.startswith("holds") and "small difference" in verdict
    return Table(
        "Rankings of the paper",
        f"{held} of {compared} hold, {small} of them by a small difference. Differences below twice the spread (over "
        "seeds, or with one seed, of the measurement) are called small.",
        ["table", "measure", "in the paper", "here"],
        rows,
    )


def _models(results: Results) -> Table:
    """List the models with their devices, iterations and training times."""
    rows = []
    for result in results:
        pair = "edges → fruit" if result["table"] == 1 else " ↔ ".join(sorted(result["direction"].split(" to ")))
        record = result["training"]
        row = [str(result["table"]), pair, result["system"], str(result["seed"]), f"{record['iterations']:,}",
               f"{record['seconds'] / 60:.1f}", "; ".join(record["devices"])]  # fmt: skip
        if row not in rows:  # both directions of a pair come from one model
            rows.append(row)
    devices = "; ".join(dict.fromkeys(result["measuring"]["device"] for result in results))
    return Table(
        "Models",
        f"Trained for a fixed time, not for a number of iterations. Measured on: {devices}.",
        ["table", "data", "system", "seed", "iterations", "minutes", "trained on"],
        rows,
    )


def _verdict(order: Ordering, found: Mapping[str, Value]) -> str:
    if order.better not in found or order.worse not in found:
        return ""
    better, worse = found[order.better], found[order.worse]
    difference = better.mean - worse.mean
    if order.measure == "quality":
        difference = -difference  # smaller distances are better
    small = abs(difference) < 2 * (better.spread**2 + worse.spread**2) ** 0.5
    holds = "holds" if difference > 0 else "does not hold"
    return f"{holds} ({better} and {worse}{', a small difference' if small else ''})"


def _number(value: float | None, form: str = "{}") -> str:
    return "–" if value is None else form.format(value)


def _markdown(tables: Sequence[Table], facts: Sequence[str], command: str) -> str:
    lines = ["# The MUNIT paper's tables in miniature", "", *(f"- {fact}" for fact in facts), ""]
    lines += ["```bash", command, "```", ""]
    for table in tables:
        lines += [f"## {table.heading}", "", table.note, ""]
        lines += [f"| {' | '.join(table.head)} |", f"|{'---|' * len(table.head)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    return "\n".join(lines)


def _page(tables: Sequence[Table], facts: Sequence[str], command: str) -> str:
    body = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    parts = []
    for table in tables:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
        rows = ""
        for row in table.rows:
            cells = "".join(f"<td>{html.escape(cell.strip('*'))}</td>" for cell in row)
            rows += f"<tr>{cells}</tr>"
        parts.append(
            f"<h2>{html.escape(table.heading)}</h2><p>{html.escape(table.note)}</p><table><tr>{head}</tr>{rows}</table>"
        )
    title = "The MUNIT paper's tables in miniature"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}'
        f"</style></head><body><main><h1>{title}</h1><ul>{body}</ul><pre>{html.escape(command)}</pre>{''.join(parts)}"
        "</main></body></html>\n"
    )
