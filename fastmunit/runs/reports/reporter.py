"""The callback that writes losses.csv, sample grids and report.html."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fastmunit.config import Config
from fastmunit.files import printable, write_text
from fastmunit.runs.callbacks import Callback, Status
from fastmunit.runs.checkpoints.run_folder import RunFolder, remove
from fastmunit.runs.evaluations import Evaluations
from fastmunit.runs.reports import image_grid, training_report
from fastmunit.runs.reports.evaluation_log import EvaluationRecord
from fastmunit.runs.reports.html import Picture
from fastmunit.runs.reports.loss_log import LossLog
from fastmunit.systems.base import System
from fastmunit.systems.parts import public_checkpoint

if TYPE_CHECKING:
    from fastmunit.runs.result import TrainingResult

_SECONDS_BETWEEN_REPORTS = 20.0
_EARLIER_GRIDS = 6


class Reporter(Callback):
    """A callback that keeps losses.csv, the sample grids and report.html of a run up to date.

    Args:
        folder: The run folder.
        config: Configuration of the run.
        facts: Names and values of further facts for the report.
        rows: Contents of the rows of a sample grid.
        resume_at: Iterations done already. Later entries in the logs are dropped.
        tensorboard: True if the run has TensorBoard logs.
        evaluations: Evaluations of the run.
        notify: Function that takes sentences for the user.

    Attributes:
        results: Pictures at the top of the report.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        facts: Mapping[str, str],
        rows: Sequence[str],
        resume_at: int,
        tensorboard: bool,
        evaluations: Evaluations,
        notify: Callable[[str], None],
    ) -> None:
        self.results: list[Picture] = []
        self._folder, self._config, self._facts, self._rows = folder, config, dict(facts), rows
        self._tensorboard, self._evaluations, self._notify = tensorboard, evaluations, notify
        self._losses = LossLog(folder.losses, resume_at)
        self._grids: list[Picture] = []
        self._earlier_grids: dict[Path, Picture] = {}  # encoded once, not for every report
        self._written = -_SECONDS_BETWEEN_REPORTS
        if resume_at:
            self._restore_images(resume_at)

    def started(self, status: Status, trainer: System) -> None:
        """Write the report."""
        self._write(status, "running")

    def logged(self, status: Status) -> None:
        """Log the losses and, from time to time, write the report.

        If logs/ was removed, it is created again; only the removed logs are lost.

        Raises:
            FastmunitError: If the run folder is gone, or a file cannot be written.
        """
        self._folder.require_present()
        if not self._folder.logs.is_dir():
            self._notify(f"{printable(self._folder.logs)} was removed while training: logging continues in a new one.")
        self._losses.append(status.iterations, status.seconds, status.learning_rate, status.losses)
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_REPORTS:
            self._write(status, "running")

    def evaluated(self, status: Status, evaluation: EvaluationRecord, best: bool) -> None:
        """Write the report from time to time."""
        self._folder.require_present()
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_REPORTS:
            self._write(status, "running")

    def sampled(self, status: Status, grids: Mapping[str, Tensor], kept: bool) -> None:
        """Save the grids as gen_*_current.jpg and, if they are kept, as numbered files; write the report."""
        self._folder.require_present()
        self._grids = []
        for name, grid in grids.items():
            direction, part = name.split("_")
            image_grid.save(grid, self._image(direction, part, "current"))
            if kept:
                image_grid.save(grid, self._image(direction, part, public_checkpoint.digits(status.iterations)))
            caption = f"{direction}, {part} images, iteration {status.iterations:,}"
            self._grids.append(Picture(caption, image_grid.jpeg(grid)))
        self._write(status, "running")

    def ended(self, result: TrainingResult) -> None:
        """Write the final report."""
        self._write(result.status, "stopped" if result.interrupted else "finished")

    def failed(self, status: Status, error: BaseException) -> None:
        """Write the report with the error."""
        self._write(status, "failed", str(error) or type(error).__name__)

    def _write(self, status: Status, state: str, problem: str | None = None) -> None:
        """Write report.html.

        Raises:
            TrainingError: If the run folder is gone.
        """
        self._folder.require_present()
        page = training_report.render(
            title=f"fastmunit · {printable(self._folder.root.resolve().name)}",
            state=state,
            status=status,
            config=self._config,
            curves=self._losses.curves,
            evaluations=self._evaluations.records,
            best=self._evaluations.best,
            facts=self._facts,
            commands=self._commands(state),
            results=self.results,
            grids=self._grids,
            rows=self._rows,
            earlier=self._earlier(),
            problem=problem,
        )
        write_text(self._folder.report, page)
        self._written = time.monotonic()

    def _image(self, direction: str, part: str, moment: str) -> Path:
        return self._folder.images / f"gen_{direction}_{part}_{moment}.jpg"

    def _restore_images(self, iterations: int) -> None:
        """Remove numbered grids of iterations that will be trained again, and show the latest grids."""
        for direction in ("a2b", "b2a"):
            for part in ("train", "test"):
                for number, path in self._numbered(direction, part).items():
                    if number > iterations:
                        remove(path)
        for part in ("test", "train"):
            for direction in ("a2b", "b2a"):
                path = self._image(direction, part, "current")
                if path.is_file():
                    self._grids.append(Picture(f"{direction}, {part} images, last session", image_grid.jpeg(path)))

    def _numbered(self, direction: str, part: str) -> dict[int, Path]:
        """Return the numbered grids by iteration, ascending."""
        pattern = re.compile(rf"gen_{direction}_{part}_({public_checkpoint.DIGITS})\.jpg", re.ASCII)
        matches = (pattern.fullmatch(path.name) for path in self._folder.images.glob("gen_*_*.jpg"))
        return dict(sorted((int(match[1]), self._folder.images / match[0]) for match in matches if match))

    def _earlier(self) -> list[Picture]:
        """Return up to six numbered test grids, spread evenly over the run."""
        numbered = list(self._numbered("a2b", "test").items())
        count = min(_EARLIER_GRIDS, len(numbered))
        chosen = [numbered[round(i * (len(numbered) - 1) / max(1, count - 1))] for i in range(count)]
        self._earlier_grids = {
            path: self._earlier_grids.get(path)
            or Picture(f"a2b, iteration {number:,}", image_grid.jpeg(path, max_width=900))
            for number, path in chosen
        }
        return list(self._earlier_grids.values())

    def _commands(self, state: str) -> dict[str, str]:
        root = shlex.quote(str(self._folder.root))
        commands = {}
        if state in ("stopped", "failed"):
            commands["Continue the training"] = f"fastmunit train --output {root} --resume"
        commands["Translate images of domain A"] = (
            f"fastmunit translate --checkpoint {root} --input FOLDER --output translated --direction a2b"
            f"{' --which best' if self._evaluations.best is not None else ''}"
        )
        if set(self._config.channels("a2b")) <= {1, 3}:
            commands["Draw on a web page that runs this model in the browser"] = (
                f"fastmunit page {root} --output {shlex.quote(str(self._folder.page))}"
            )
        if self._tensorboard:
            commands["All losses in TensorBoard"] = f"tensorboard --logdir {shlex.quote(str(self._folder.logs))}"
        return commands
