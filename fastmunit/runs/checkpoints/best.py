"""best.json: which checkpoint of a run has the best score, and by which measure."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from fastmunit.errors import CheckpointError
from fastmunit.files import printable, write_text
from fastmunit.runs.checkpoints.run_folder import RunFolder
from fastmunit.systems.parts import resume_checks


class Best(BaseModel):
    """The best checkpoint of a run.

    Attributes:
        iteration: Number of the checkpoint.
        measure: Name of the measure, as in `eval_metrics`.
        score: Name of the score in reports.
        direction: "a2b" or "b2a".
        value: The score.
        low: Lower end of its 95 % interval; None without one.
        high: Upper end of its 95 % interval.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    iteration: int = Field(ge=0)
    measure: str
    score: str
    direction: str
    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None


def read_best(folder: RunFolder) -> Best | None:
    """Return the content of best.json, or None if there is none.

    Raises:
        CheckpointError: If it is damaged.
    """
    try:
        return Best.model_validate_json(folder.best.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = resume_checks.explain(error) if isinstance(error, ValidationError) else error.strerror
        raise CheckpointError(
            f"{printable(folder.best)} cannot be used ({reason}): remove it, and resume the run to write it again."
        ) from error


def write_best(folder: RunFolder, best: Best) -> None:
    """Write best.json atomically. Raises FastmunitError if that fails."""
    write_text(folder.best, best.model_dump_json(indent=1) + "\n")
