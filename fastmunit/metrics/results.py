"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastmunit.data.failures import Failure
from fastmunit.files import shown
from fastmunit.metrics.intervals import Estimate


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: with the network and version it depends on.
        estimate: value and interval.
        better: "higher" or "lower"; empty where neither is.
        references: what the value is to be compared with, for example the diversity of real images.
        note: what a reader has to know.
    """

    name: str
    estimate: Estimate
    better: str = ""
    references: dict[str, Estimate] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return {
            "name": self.name,
            **self.estimate.to_dict(),
            "better": self.better,
            "references": {name: estimate.to_dict() for name, estimate in self.references.items()},
            "note": self.note,
        }


@dataclass(frozen=True)
class Sheet:
    """Rows of images (C, H, W) in [-1, 1] that belong side by side, and what they show."""

    caption: str
    rows: list[list[Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one direction.

    Attributes:
        direction: "a2b" or "b2a".
        figures: in the order of the report.
        skipped: measure → why this model has none.
        per_input: for each input its file and its values.
        sheets: most and least diverse inputs, nearest real neighbours.
        failures: images that could not be read; the figures are of the others.
    """

    direction: str
    figures: list[Figure]
    skipped: dict[str, str]
    per_input: list[dict[str, Any]]
    sheets: list[Sheet]
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        return {
            "direction": self.direction,
            "figures": [figure.to_dict() for figure in self.figures],
            "skipped": self.skipped,
            "per_input": self.per_input,
            "failures": [{"file": shown(failure.path), "reason": failure.reason} for failure in self.failures],
        }
