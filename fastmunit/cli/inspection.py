"""The part of `fastmunit evaluate` that inspects a model instead of measuring it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastmunit.cli.output import echo

if TYPE_CHECKING:
    from fastmunit.metrics.inspection import Inspection

SCORES, PAGE = "inspection.json", "inspection.html"
_WORST = 3


def write(output: Path, title: str, facts: Mapping[str, str | int], inspections: Sequence[Inspection]) -> None:
    """Write the scores and the page into a folder."""
    from fastmunit.files import write_text
    from fastmunit.runs.reports.inspection_report import render

    report = {**facts, "inspections": [inspection.to_dict() for inspection in inspections]}
    write_text(output / SCORES, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(output / PAGE, render(title, {name: str(value) for name, value in facts.items()}, inspections))


def show(inspections: Sequence[Inspection]) -> None:
    """Print the worst inputs, and what was left out."""
    for inspection in inspections:
        for rank, worst in enumerate(inspection.inputs[:_WORST], 1):
            scores = ", ".join(f"{name} {value:.3g}" for name, value in worst.scores.items())
            echo(f"{inspection.direction}  {rank}. {worst.file}: {scores}")
        for name, reason in inspection.skipped.items():
            echo(f"{inspection.direction}  {name}: left out, {reason}.")
