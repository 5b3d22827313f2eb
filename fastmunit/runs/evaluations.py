"""The evaluations of a run: its records, its best checkpoint, and whether it goes on."""

from __future__ import annotations

from fastmunit import distributed
from fastmunit.runs.checkpoints.best import Best, read_best, write_best
from fastmunit.runs.checkpoints.run_folder import RunFolder, remove
from fastmunit.runs.evaluator import Evaluator
from fastmunit.runs.reports.evaluation_log import EvaluationRecord, read_records, write_records
from fastmunit.systems.base import System
from fastmunit.systems.parts import public_checkpoint

NO_IMPROVEMENT = "no improvement"
"""Reason why `eval_patience` ends a run; see `TrainingResult.ended`."""


class Evaluations:
    """The evaluations of a run. Every process must call the constructor and `add`; only the first one writes files.

    Args:
        folder: The run folder.
        evaluator: Measures the system; None if there are no evaluations in this session.
        resume_at: Iterations of the checkpoint that the run continues from; later records are dropped. None starts a
            new run.

    Attributes:
        records: The records so far, by iteration.
        best: The best checkpoint; None if there is none, or none that can be compared with this session's evaluations.

    Raises:
        FastmunitError: If the file of records is damaged or cannot be read.
    """

    def __init__(self, folder: RunFolder, evaluator: Evaluator | None, resume_at: int | None) -> None:
        self._folder, self._evaluator, self._resume_at = folder, evaluator, resume_at
        self.records: list[EvaluationRecord] = []
        saved: list[int] = []
        if resume_at is not None:
            with distributed.Together():
                mine = self._read() if distributed.rank() == 0 else ([], [])
                records, saved = distributed.exchange(mine)[0]
            self.records = [record for record in records if record.iteration <= resume_at]
        # Those of the best checkpoint so far and of all others that could be it.
        self._candidates = [record for record in self.records if record.iteration in saved]
        self.best = None if evaluator is None else evaluator.best(self._candidates)

    def _read(self) -> tuple[list[EvaluationRecord], list[int]]:
        records = read_records(self._folder.evaluations)
        return records, public_checkpoint.numbers(self._folder.checkpoints, "gen")

    def restore(self) -> None:
        """Write the files as they were at the checkpoint that the run continues from.

        Raises:
            FastmunitError: If a file cannot be read or written.
        """
        write_records(self._folder.evaluations, self.records)
        if self.best is not None:
            write_best(self._folder, self.best)
        elif self._resume_at is None:
            remove(self._folder.best)
        else:
            earlier = read_best(self._folder)
            if earlier is not None and earlier.iteration > self._resume_at:
                remove(self._folder.best)

    def is_due(self, iteration: int) -> bool:
        """Return True if an iteration is one of those that are evaluated and has no record yet."""
        evaluated = any(record.iteration == iteration for record in self.records[-1:])
        return self._evaluator is not None and self._evaluator.is_due(iteration) and not evaluated

    def add(self, trainer: System, iteration: int, seconds: float) -> Best | None:
        """Measure the system and add a record; return it as `Best` if it is the best so far.

        Args:
            trainer: The system.
            iteration: Iterations done.
            seconds: Training time so far.
        """
        assert self._evaluator is not None
        record = self._evaluator.measure(trainer, iteration, seconds)
        self.records.append(record)
        distributed.on_first(lambda: write_records(self._folder.evaluations, self.records))
        best = self._evaluator.best([*self._candidates, record])
        if best is None or best.iteration != iteration:
            return None
        self._candidates = [record]
        self.best = best
        return best

    @property
    def is_over(self) -> bool:
        """True if `eval_patience` ends the training."""
        return self._evaluator is not None and self._evaluator.is_over(self.records)
