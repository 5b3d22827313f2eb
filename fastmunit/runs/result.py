"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from fastmunit.runs.callbacks import Status
from fastmunit.runs.checkpoints.run_folder import RunFolder
from fastmunit.runs.reports.html import Picture
from fastmunit.runs.reports.reporter import Reporter
from fastmunit.systems.base import System


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        iterations: Iterations done, including those before a resume.
        seconds: Training time, including that before a resume.
        iterations_per_second: Mean speed since the start or resume.
        ended: "finished" (max_iter), "time" (the time limit), "no improvement" (eval_patience) or the name of the
            signal that stopped the run.
        folder: The run folder.
        trainer: The trained system.
        reporter: Writer of the report; None in processes other than the first.
        status: Progress at the end.
    """

    iterations: int
    seconds: float
    iterations_per_second: float
    ended: str
    folder: RunFolder
    trainer: System
    reporter: Reporter | None
    status: Status

    @property
    def interrupted(self) -> bool:
        """True if a signal stopped the run."""
        return self.ended.startswith("SIG")

    def add_to_report(self, picture: Picture) -> None:
        """Show a picture at the top of the run's report."""
        if self.reporter is not None:
            self.reporter.results.append(picture)
            self.reporter.ended(self)
