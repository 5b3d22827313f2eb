"""The HTML page of an evaluation: figures with their intervals, and sample sheets."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from fastmunit.data.failures import unreadable
from fastmunit.runs.reports.html import STYLE
from fastmunit.runs.reports.image_grid import grid, jpeg

if TYPE_CHECKING:
    from fastmunit.metrics.results import Evaluation, Figure, Sheet

_NAMED_FAILURES = 5
_OWN_STYLE = """
table.figures { width: 100%; } table.figures td, table.figures th { padding: 6px 14px 6px 0; text-align: left; }
table.figures th { color: var(--soft); font-weight: 600; font-size: 12px; border-bottom: 1px solid var(--line); }
table.figures td { border-bottom: 1px solid var(--line); color: var(--ink); }
table.figures td.value { font-weight: 600; white-space: nowrap; } table.figures td.interval { white-space: nowrap; }
table.figures td.low { color: var(--soft); }
td.bar { width: 22%; min-width: 120px; } td.bar svg { height: 22px; }
line.interval { stroke: var(--c0); stroke-width: 2; } .dot { fill: var(--c0); }
.mark { stroke: var(--c1); stroke-width: 2; } .facts dd { overflow-wrap: anywhere; }
.facts div:first-child { grid-column: span 2; }
"""


def render(title: str, facts: Mapping[str, str], evaluations: Sequence[Evaluation]) -> str:
    """Build the page: HTML that needs no other file and no network.

    Args:
        title: heading.
        facts: name → value of what was measured, and how.
        evaluations: one for each direction.
    """
    cells = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    sections = "".join(_direction(evaluation) for evaluation in evaluations)
    written = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}{_OWN_STYLE}</style></head><body><main><header><h1>{html.escape(title)}</h1></header>"
        f'<p class="note">Intervals hold the true value in about 95 of 100 evaluations like this one (bootstrap over '
        "inputs); without enough inputs there is none. In the drawings: value and interval, and references as ticks."
        f'</p><dl class="facts">{cells}</dl>{sections}<footer>Written {written}.</footer></main></body></html>\n'
    )


def _direction(evaluation: Evaluation) -> str:
    arrow = "A → B" if evaluation.direction == "a2b" else "B → A"
    rows = "".join(_row(figure) for figure in evaluation.figures)
    skipped = "".join(
        f'<p class="note">{html.escape(name)}: not measured, {html.escape(reason)}.</p>'
        for name, reason in evaluation.skipped.items()
    )
    if evaluation.failures:
        listed = "; ".join(str(failure) for failure in evaluation.failures[:_NAMED_FAILURES])
        more = len(evaluation.failures) - _NAMED_FAILURES
        text = f"{unreadable(len(evaluation.failures))}, and the figures are of the others: {listed}"
        skipped += f'<p class="note">{html.escape(text)}{f" and {more} more" if more > 0 else ""}</p>'
    head = "<tr><th>measure</th><th>value</th><th>95 % interval</th><th></th><th>compare with</th></tr>"
    sheets = "".join(_sheet(sheet) for sheet in evaluation.sheets)
    return (
        f'<h2>{arrow}</h2><div class="card"><table class="figures">{head}{rows}</table>{skipped}</div>'
        f'<h2>Samples {arrow}</h2><div class="cards">{sheets}</div>'
    )


def _row(figure: Figure) -> str:
    estimate = figure.estimate
    interval = "–" if estimate.low is None or estimate.high is None else f"{estimate.low:.4g} … {estimate.high:.4g}"
    better = {"higher": "↑", "lower": "↓"}.get(figure.better, "")
    references = "<br>".join(
        f"{html.escape(name)}: {html.escape(str(reference))}" for name, reference in figure.references.items()
    )
    note = f'<br><span class="note">{html.escape(figure.note)}</span>' if figure.note else ""
    return (
        f'<tr><td>{html.escape(figure.name)} {better}{note}</td><td class="value">{estimate.value:.4g}</td>'
        f'<td class="interval">{interval}</td><td class="bar">{_drawing(figure)}</td>'
        f'<td class="low">{references}</td></tr>'
    )


def _drawing(figure: Figure) -> str:
    """Value, interval and references on one axis from 0."""
    estimate = figure.estimate
    ends = [end for end in (estimate.low, estimate.high, estimate.value, 0.0) if end is not None]
    marks = [reference.value for reference in figure.references.values()]
    low, high = min(ends + marks), max(ends + marks)
    if high <= low:
        return ""

    def at(value: float) -> str:
        return f"{6 + 188 * (value - low) / (high - low):.1f}"

    lines = ""
    if estimate.low is not None and estimate.high is not None:
        lines = f'<line class="interval" x1="{at(estimate.low)}" x2="{at(estimate.high)}" y1="11" y2="11"/>'
    ticks = "".join(f'<line class="mark" x1="{at(mark)}" x2="{at(mark)}" y1="4" y2="18"/>' for mark in marks)
    return (
        '<svg viewBox="0 0 200 22" role="img"><line class="grid" x1="6" x2="194" y1="11" y2="11"/>'
        f'{lines}{ticks}<circle class="dot" cx="{at(estimate.value)}" cy="11" r="4"/></svg>'
    )


def _sheet(sheet: Sheet) -> str:
    picture = base64.b64encode(jpeg(grid(sheet.rows))).decode()
    caption = html.escape(sheet.caption, quote=True)
    return (
        f'<figure class="card"><figcaption>{caption}</figcaption>'
        f'<img class="small" alt="{caption}" src="data:image/jpeg;base64,{picture}"></figure>'
    )
