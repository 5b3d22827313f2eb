"""The evaluations of a run: records, and the file with one of them per line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from fastmunit.errors import FastmunitError
from fastmunit.files import printable, write_text
from fastmunit.metrics.results import Score
from fastmunit.runs.checkpoints.run_folder import remove
from fastmunit.systems.parts import resume_checks


class Figure(BaseModel):
    """One score of an evaluation.

    Attributes:
        measure: Name of the measure, as in `eval_metrics`.
        name: Name of the score in reports.
        value: The score.
        low: Lower end of its 95 % interval; None without one.
        high: Upper end of its 95 % interval.
        better: "higher" or "lower"; empty if neither is better.
        references: Values to compare with, by name.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    measure: str
    name: str
    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    better: Literal["higher", "lower", ""]
    references: Mapping[str, FiniteFloat] = Field(default_factory=dict)

    @classmethod
    def of(cls, measure: str, score: Score) -> Figure:
        """Return a score of a measure as a figure."""
        estimate = score.estimate
        return cls.model_validate(
            {
                "measure": measure,
                "name": score.name,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "better": score.better,
                "references": {name: reference.value for name, reference in score.references.items()},
            }
        )

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.name} {self.value:.3g}{interval}"

    def is_better_than(self, other: float) -> bool:
        """Return True if the value is better than another one."""
        if not self.better:
            return False
        return self.value < other if self.better == "lower" else self.value > other

    def improves_on(self, earlier: Figure) -> bool:
        """Return True if the value is better than the whole interval of an earlier figure."""
        end = earlier.low if self.better == "lower" else earlier.high
        return self.is_better_than(earlier.value if end is None else end)


class EvaluationRecord(BaseModel):
    """One evaluation of a run.

    Attributes:
        iteration: Iterations done.
        seconds: Training time before it.
        duration: Seconds that it took.
        direction: "a2b" or "b2a".
        inputs: Number of test images that were translated.
        samples: Number of outputs of each.
        conditions: Digest of images, inputs and styles: figures of records with equal digests can be compared.
        figures: The scores; that which decides about the best checkpoint comes first.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    iteration: int = Field(ge=0)
    seconds: FiniteFloat = Field(ge=0)
    duration: FiniteFloat = Field(ge=0)
    direction: Literal["a2b", "b2a"]
    inputs: int = Field(ge=0)
    samples: int = Field(ge=0)
    conditions: str
    figures: list[Figure]

    def scalars(self) -> dict[str, float]:
        """Return values and ends of intervals by names without spaces, as loggers need them."""
        scalars: dict[str, float] = {}
        for figure in self.figures:
            name = f"evaluation/{re.sub(r'[^A-Za-z0-9._-]+', '_', figure.name)}"
            ends = {f"{name}/low": figure.low, f"{name}/high": figure.high}
            scalars |= {name: figure.value, **{key: end for key, end in ends.items() if end is not None}}
        return scalars

    def __str__(self) -> str:
        return ", ".join(map(str, self.figures))


def write_records(path: Path, records: Sequence[EvaluationRecord]) -> None:
    """Write one record per line, in JSON, or remove the file if there are none. It is replaced atomically.

    Raises:
        FastmunitError: If it cannot be written.
    """
    if records:
        write_text(path, "".join(f"{record.model_dump_json()}\n" for record in records))
    else:
        remove(path)


def read_records(path: Path) -> list[EvaluationRecord]:
    """Read the records of a file, sorted by iteration. There are none without a file.

    Raises:
        FastmunitError: If the file cannot be read or is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FastmunitError(f"{printable(path)} cannot be read ({error}): move it away to start a new one.") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(EvaluationRecord.model_validate_json(line))
        except ValidationError as error:
            raise FastmunitError(
                f"{printable(path)}, line {number}: {resume_checks.explain(error)}. Correct or remove the line, or "
                "move the file away to start a new one."
            ) from error
    return sorted(records, key=lambda record: record.iteration)
