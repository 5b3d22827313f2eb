"""Results of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastmunit.files import printable

if TYPE_CHECKING:
    from torch import Tensor

    from fastmunit.data.failures import Failure
    from fastmunit.metrics.confidence import Estimate


@dataclass(frozen=True)
class Score:
    """One measured value.

    Attributes:
        name: Name in the report, with the network and version that the value depends on.
        estimate: Value and confidence interval.
        better: "higher" or "lower"; empty if neither is better.
        references: Values to compare with, by name, for example the diversity of real images.
        note: Remark for the reader of the report.
        per_input: Value of each input, in the order of the inputs; empty if the report should not list them.
        ranks: End of the captions of two contact sheets, "Most …" and "Least …", which show the inputs with the
            largest and the smallest values, for example "diverse inputs"; empty for no such sheets.
    """

    name: str
    estimate: Estimate
    better: str = ""
    references: dict[str, Estimate] = field(default_factory=dict)
    note: str = ""
    per_input: Sequence[float] = ()
    ranks: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what a report says about the score, for JSON."""
        return {
            "name": self.name,
            **self.estimate.to_dict(),
            "better": self.better,
            "references": {name: estimate.to_dict() for name, estimate in self.references.items()},
            "note": self.note,
        }


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: rows of images (C, H, W) in [-1, 1], and a caption."""

    caption: str
    rows: list[list[Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """The results for one direction.

    Attributes:
        direction: "a2b" or "b2a".
        scores: Scores in the order of the report.
        skipped: Reason per measure that this model does not support.
        per_input: File name, as printable text, and values of each input.
        sheets: Contact sheets: most and least diverse inputs, nearest real images.
        failures: Images that could not be read and were left out.
    """

    direction: str
    scores: list[Score]
    skipped: dict[str, str]
    per_input: list[dict[str, Any]]
    sheets: list[Sheet]
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the contact sheets, for JSON."""
        return {
            "direction": self.direction,
            "figures": [score.to_dict() for score in self.scores],
            "skipped": self.skipped,
            "per_input": self.per_input,
            "failures": [{"file": printable(failure.path), "reason": failure.reason} for failure in self.failures],
        }
