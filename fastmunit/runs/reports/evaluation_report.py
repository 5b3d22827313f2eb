"""The HTML page of an evaluation: scores with their intervals, and contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastmunit.data.failures import unreadable
from fastmunit.runs.reports import html
from fastmunit.runs.reports.html import Picture
from fastmunit.runs.reports.image_grid import grid, jpeg

if TYPE_CHECKING:
    from fastmunit.metrics.results import Evaluation, Score

_MAX_NAMED_FAILURES = 5


def render(title: str, facts: Mapping[str, str], evaluations: Sequence[Evaluation]) -> str:
    """Render the page as HTML that needs no other file and no network.

    Args:
        title: Heading.
        facts: Names and values of facts about the evaluation, such as the checkpoint.
        evaluations: Results, one per direction.
    """
    return html.render(
        "evaluation.html.j2",
        title=title,
        facts=facts,
        evaluations=evaluations,
        axis_of=_axis,
        pictures_of=_pictures,
        unreadable=unreadable,
        max_named_failures=_MAX_NAMED_FAILURES,
    )


def _pictures(evaluation: Evaluation) -> list[Picture]:
    return [Picture(sheet.caption, jpeg(grid(sheet.rows))) for sheet in evaluation.sheets]


def _axis(score: Score) -> dict[str, Any] | None:
    """Place value, interval and references on one axis from 0. Return None if the axis would be empty."""
    estimate = score.estimate
    interval = (estimate.low, estimate.high) if estimate.low is not None and estimate.high is not None else ()
    marks = [reference.value for reference in score.references.values()]
    values = [0.0, estimate.value, *interval, *marks]
    low, high = min(values), max(values)
    if high <= low:
        return None

    def place(value: float) -> float:
        return round(6 + 188 * (value - low) / (high - low), 1)

    return {
        "value": place(estimate.value),
        "interval": [place(end) for end in interval],
        "marks": [place(mark) for mark in marks],
    }
