"""What a run writes for people: CSV and TensorBoard losses, sample grids, the HTML report."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fastmunit.config import Config
from fastmunit.files import shown, write_text
from fastmunit.runs.callbacks import Status
from fastmunit.runs.checkpoints.run_folder import RunFolder, remove
from fastmunit.runs.reports import image_grid, training_report
from fastmunit.runs.reports.html import Picture
from fastmunit.runs.reports.loss_log import LossLog
from fastmunit.runs.reports.tensorboard import ScalarLog
from fastmunit.systems.base import System
from fastmunit.systems.parts import public_checkpoint

_SECONDS_BETWEEN_REPORTS = 20.0
_EARLIER_GRIDS = 6


class Reporter:
    """Keeps the logs, the images and report.html of a run up to date.

    Args:
        folder: the run.
        config: its configuration.
        displays: display images by part ("train", "test"): (x_a, x_b), each (display_size, C, H, W) on the device.
        facts: name → value of further facts for the report.
        rows: what the rows of a sample grid show.
        resume_at: iterations done before; later entries in the logs are dropped.
        tell: is called with sentences for the user.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        displays: Mapping[str, tuple[Tensor, Tensor]],
        facts: Mapping[str, str],
        rows: Sequence[str],
        resume_at: int = 0,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.config = folder, config
        self.losses = LossLog(folder.losses, resume_at)
        self.results: list[Picture] = []
        self._displays = dict(displays)
        self._facts = dict(facts)
        self._rows = rows
        self._tell = tell
        self._grids: list[Picture] = []
        self._earlier_grids: dict[Path, Picture] = {}  # encoded once, not for every report
        self._written = -_SECONDS_BETWEEN_REPORTS
        if resume_at:
            self._restore_images(resume_at)
        self.scalars = ScalarLog(folder.logs, resume_at)

    @property
    def logs_scalars(self) -> bool:
        """Whether there are TensorBoard logs."""
        return self.scalars.available

    def log(self, status: Status) -> None:
        """Log the losses of `status` and, now and then, rewrite the report.

        logs/ is made again where it was removed: no more is lost than what was removed.

        Raises:
            FastmunitError: the run folder is gone, or a file cannot be written.
        """
        self.folder.require_present()
        if not self.folder.logs.is_dir():
            self._tell(f"{shown(self.folder.logs)} was removed while training: logging goes on in a new one.")
        self.losses.append(status.iterations, status.seconds, status.learning_rate, status.losses)
        self.scalars.scalars(status.iterations, status.losses)
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_REPORTS:
            self.write(status, "running")

    def display(self, trainer: System, iterations: int, *, keep: bool) -> None:
        """Draw the sample grids as gen_*_current.jpg, and as numbered files too when `keep`."""
        self.folder.require_present()
        self._grids = []
        for part in ("test", "train"):
            x_a, x_b = self._displays[part]
            for direction, picture in image_grid.sample_grids(trainer, x_a, x_b, self.config.seed).items():
                image_grid.save(picture, self._image(direction, part, "current"))
                if keep:
                    image_grid.save(picture, self._image(direction, part, public_checkpoint.digits(iterations)))
                    self.scalars.image(iterations, f"{direction}_{part}", picture)
                caption = f"{direction}, {part} images, iteration {iterations:,}"
                self._grids.append(Picture(caption, image_grid.jpeg(picture)))

    def write(self, status: Status, state: str, problem: str | None = None) -> None:
        """Write report.html; `state` as in `training_report.render`.

        Raises:
            TrainingError: The run folder is gone.
        """
        self.folder.require_present()
        page = training_report.render(
            title=f"fastmunit · {self.folder.root.resolve().name}",
            state=state,
            status=status,
            config=self.config,
            curves=self.losses.curves,
            facts=self._facts,
            commands=self._commands(state),
            results=self.results,
            grids=self._grids,
            rows=self._rows,
            earlier=self._earlier(),
            problem=problem,
        )
        write_text(self.folder.report, page)
        self._written = time.monotonic()

    def close(self) -> None:
        """Flush the logs."""
        self.scalars.close()

    def _image(self, direction: str, part: str, moment: str) -> Path:
        return self.folder.images / f"gen_{direction}_{part}_{moment}.jpg"

    def _restore_images(self, iterations: int) -> None:
        """Drop numbered grids of iterations that will be trained again, and show what the last session drew."""
        for direction in ("a2b", "b2a"):
            for part in ("train", "test"):
                for number, path in self._kept(direction, part).items():
                    if number > iterations:
                        remove(path)
        for part in ("test", "train"):
            for direction in ("a2b", "b2a"):
                path = self._image(direction, part, "current")
                if path.is_file():
                    self._grids.append(Picture(f"{direction}, {part} images, last session", image_grid.jpeg(path)))

    def _kept(self, direction: str, part: str) -> dict[int, Path]:
        """Numbered grids by their iteration, ascending."""
        pattern = re.compile(rf"gen_{direction}_{part}_({public_checkpoint.DIGITS})\.jpg", re.ASCII)
        matches = (pattern.fullmatch(path.name) for path in self.folder.images.glob("gen_*_*.jpg"))
        return dict(sorted((int(match[1]), self.folder.images / match[0]) for match in matches if match))

    def _earlier(self) -> list[Picture]:
        """Up to six kept test grids, spread evenly over the run."""
        kept = list(self._kept("a2b", "test").items())
        count = min(_EARLIER_GRIDS, len(kept))
        chosen = [kept[round(i * (len(kept) - 1) / max(1, count - 1))] for i in range(count)]
        self._earlier_grids = {
            path: self._earlier_grids.get(path)
            or Picture(f"a2b, iteration {number:,}", image_grid.jpeg(path, max_width=900))
            for number, path in chosen
        }
        return list(self._earlier_grids.values())

    def _commands(self, state: str) -> dict[str, str]:
        root = shlex.quote(str(self.folder.root))
        commands = {}
        if state in ("stopped", "failed"):
            commands["Continue the training"] = f"fastmunit train --output {root} --resume"
        commands["Translate images of domain A"] = (
            f"fastmunit translate --checkpoint {root} --input FOLDER --output translated --direction a2b"
        )
        if self.scalars.available:
            commands["All losses in TensorBoard"] = f"tensorboard --logdir {shlex.quote(str(self.folder.logs))}"
        return commands


class SilentReporter(Reporter):
    """Writes nothing: for the processes of a training other than the first."""

    logs_scalars = True  # the first process says where there are none

    def __init__(self) -> None:
        """Open nothing."""

    def log(self, status: Status) -> None:
        """Log nothing."""

    def display(self, trainer: System, iterations: int, *, keep: bool) -> None:
        """Draw nothing."""

    def write(self, status: Status, state: str, problem: str | None = None) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""
