"""Tables of results as Markdown and HTML: mean ± deviation over seeds, the paper's figures, and which orders hold."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paper_figures
from paper_figures import Ordering

from fastmunit.files import write_text
from fastmunit.runs.reports.page import STYLE

FRUITS = ("apple to tomato", "tomato to apple", "apple to cherry", "cherry to apple", "tomato to cherry",
          "cherry to tomato")  # fmt: skip

Results = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Value:
    """A measured value.

    Attributes:
        mean: over seeds.
        deviation: over seeds; None for one seed.
        error: standard error of the measurement of a single seed, from its interval; None where it has none.
        seeds: how many.
    """

    mean: float
    deviation: float | None
    error: float | None
    seeds: int

    @property
    def spread(self) -> float:
        """What a difference has to exceed to mean something."""
        return self.deviation if self.deviation is not None else self.error or 0.0

    def __str__(self) -> str:
        digits = 3 if abs(self.mean) < 10 else 1
        if self.deviation is not None:
            return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}"


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    heading: str
    note: str
    head: list[str]
    rows: list[list[str]]


def write_report(output: Path, settings: Mapping[str, Any], results: Results) -> None:
    """Write tables.md and tables.html into `output`."""
    tables = [table for table in (_table_1(results), _table_2(results)) if table is not None]
    tables += [_orders(results), _models(results)]
    seeds = len(settings["seeds"])
    spread = "± is the standard deviation over them" if seeds > 1 else "one seed shows no spread between trainings"
    facts = [
        f"{settings['minutes a model']:g} minutes a model, {seeds} seed{'s' if seeds > 1 else ''}: {spread}.",
        f"{settings['inputs']} inputs, {settings['outputs of each']} outputs of each; quality is {settings['quality']}"
        f" (lower is better), diversity {settings['diversity']} (higher is more diverse).",
        "Fruits-360 by Mihai Oltean (CC BY-SA 4.0), 64x64; test images are held-out blocks of frames.",
        "The paper's figures, and the orders among them, are unchecked: see examples/paper_figures.py.",
    ]
    if settings["changed keys"]:
        facts.append(f"Changed in every configuration: {', '.join(settings['changed keys'])}.")
    if settings["untrained"]:
        facts.append(f"Left out, as not trained: {'; '.join(settings['untrained'])}.")
    if settings["missing"]:
        facts.append(f"Left out, as no such configuration is shipped: {', '.join(settings['missing'])}.")
    write_text(output / "tables.md", _markdown(tables, facts, settings["command"]))
    write_text(output / "tables.html", _page(tables, facts, settings["command"]))


def values(results: Results, table: int, figure: str, **where: str) -> dict[str, Value]:
    """System → value of the figure whose name begins so, over seeds."""
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
    for name, paper in paper_figures.TABLE_1.items():
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
        "The paper's quality is the part of workers who prefer a system to MUNIT (higher is better).",
        ["", "quality: KID ↓", "diversity ↑", "paper: shoes, quality ↑", "diversity ↑", "handbags, quality ↑",
         "diversity ↑"],
        rows,
    )  # fmt: skip


def _real(results: Results) -> dict[str, Value]:
    """Quality and diversity of real images: references that every result of table 1 carries."""
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
    systems = [name for name in paper_figures.TABLE_2 if any(r["table"] == 2 and r["system"] == name for r in results)]
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
    for direction in next(iter(paper_figures.TABLE_2.values())):
        cells = [_number(value, "{:.3f}") for name in systems for value in paper_figures.TABLE_2[name][direction]]
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
    """System → mean over directions that all systems have; the deviation is that of the means of each seed."""
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
    """Of the means over directions of each seed; None for one seed."""
    by_seed: dict[int, list[float]] = {}
    for result in results:
        for entry in result["figures"] if result["table"] == 2 and result["system"] == name else ():
            if entry["name"].startswith(figure):
                by_seed.setdefault(result["seed"], []).append(entry["value"])
    means = [statistics.fmean(measured) for measured in by_seed.values()]
    return statistics.stdev(means) if len(means) > 1 else None


def _orders(results: Results) -> Table:
    """Which orders of the paper are found here."""
    measured = {
        (1, "diversity"): values(results, 1, "LPIPS"),
        (1, "quality"): values(results, 1, "KID"),
        (2, "CIS"): _average_over_directions(results, "CIS"),
        (2, "IS"): _average_over_directions(results, "IS"),
    }
    if "diversity" in (real := _real(results)):
        measured[1, "diversity"]["real data"] = real["diversity"]
    rows = []
    held = small = judged = 0
    for order in paper_figures.orderings():
        verdict = _verdict(order, measured[order.table, order.measure])
        if verdict:
            rows.append([str(order.table), order.measure, f"{order.better} before {order.worse}", verdict])
            judged += 1
            held += verdict.startswith("holds")
            small += verdict.startswith("holds") and "small difference" in verdict
    return Table(
        "Orders of the paper",
        f"{held} of {judged} hold, {small} of them by a small difference. A difference below twice the spread (over "
        "seeds, or of the measurement where there is one seed) is called small.",
        ["table", "measure", "in the paper", "here"],
        rows,
    )


def _models(results: Results) -> Table:
    """What each model was trained on, and how far."""
    rows = []
    for result in results:
        pair = "edges → fruit" if result["table"] == 1 else " ↔ ".join(sorted(result["direction"].split(" to ")))
        record = result["training"]
        row = [str(result["table"]), pair, result["system"], str(result["seed"]), f"{record['iterations']:,}",
               f"{record['seconds'] / 60:.1f}", "; ".join(record["devices"])]  # fmt: skip
        if row not in rows:  # both directions of a pair are of one model
            rows.append(row)
    devices = "; ".join(dict.fromkeys(result["measuring"]["device"] for result in results))
    return Table(
        "Models",
        f"Trained for a time, not for a number of iterations. Measured on: {devices}.",
        ["table", "data", "system", "seed", "iterations", "minutes", "trained on"],
        rows,
    )


def _verdict(order: Ordering, found: Mapping[str, Value]) -> str:
    if order.better not in found or order.worse not in found:
        return ""
    better, worse = found[order.better], found[order.worse]
    difference = better.mean - worse.mean
    if order.measure == "quality":
        difference = -difference  # of distances, the smaller is better
    small = abs(difference) < 2 * (better.spread**2 + worse.spread**2) ** 0.5
    holds = "holds" if difference > 0 else "does not hold"
    return f"{holds} ({better} and {worse}{', a small difference' if small else ''})"


def _number(value: float | None, form: str = "{}") -> str:
    return "–" if value is None else form.format(value)


def _markdown(tables: Sequence[Table], facts: Sequence[str], command: str) -> str:
    lines = ["# The MUNIT paper's tables in miniature", "", *(f"- {fact}" for fact in facts), "", f"    {command}", ""]
    for table in tables:
        lines += [f"## {table.heading}", "", table.note, ""]
        lines += [f"| {' | '.join(table.head)} |", f"|{'---|' * len(table.head)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    return "\n".join(lines)


def _page(tables: Sequence[Table], facts: Sequence[str], command: str) -> str:
    style = "table { width: 100%; } th { text-align: left; padding-right: 14px; color: var(--soft); }"
    body = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    parts = []
    for table in tables:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
        rows = ""
        for row in table.rows:
            cells = "".join(f"<td>{html.escape(cell.strip('*'))}</td>" for cell in row)
            rows += f"<tr>{cells}</tr>"
        parts.append(
            f'<h2>{html.escape(table.heading)}</h2><p class="note">{html.escape(table.note)}</p>'
            f'<div class="card"><table><tr>{head}</tr>{rows}</table></div>'
        )
    title = "The MUNIT paper's tables in miniature"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}{style}'
        f"</style></head><body><main><h1>{title}</h1><ul>{body}</ul><pre>{html.escape(command)}</pre>{''.join(parts)}"
        "</main></body></html>\n"
    )
