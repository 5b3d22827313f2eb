"""TensorBoard logs with the public trainer's tags: the attribute names of the losses."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from fastmunit.errors import TrainingError
from fastmunit.files import printable
from fastmunit.runs.callbacks import Callback, Status
from fastmunit.runs.reports.evaluation_log import EvaluationRecord


class TensorBoardLogger(Callback):
    """A callback that writes losses and kept sample grids as TensorBoard event files.

    It does nothing if the tensorboard package is not installed; see `available`. Events are written in the caller's
    thread: torch's SummaryWriter has a thread of its own, which ends in a traceback when the folder is removed or the
    disk is full.

    Args:
        folder: Folder of the event files. It is created again if it is removed while its parent exists.
        resume_at: Iterations done already. TensorBoard then hides later steps in older event files.

    Attributes:
        available: True if the tensorboard package is installed.

    Raises:
        TrainingError: If the files cannot be written, here and in all hooks.
    """

    def __init__(self, folder: Path, resume_at: int = 0) -> None:
        self._folder = self._path = folder
        self._file: IO[bytes] | None = None
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer import record_writer
            from torch.utils.tensorboard import summary
        except ImportError:
            self.available = False
            return
        self.available = True
        self._messages: Any = event_pb2
        self._records: Any = record_writer
        self._summaries: Any = summary
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write([{"step": resume_at + 1, "session_log": session}] if resume_at else [])

    def logged(self, status: Status) -> None:
        """Log the losses."""
        if self.available:
            summaries = [self._summaries.scalar(name, value) for name, value in status.losses.items()]
            self._write([{"step": status.iterations, "summary": summary} for summary in summaries])

    def evaluated(self, status: Status, evaluation: EvaluationRecord, best: bool) -> None:
        """Log the scores and the ends of their intervals."""
        if self.available:
            scalars = evaluation.scalars().items()
            summaries = [self._summaries.scalar(name, value) for name, value in scalars]
            self._write([{"step": status.iterations, "summary": summary} for summary in summaries])

    def sampled(self, status: Status, grids: Mapping[str, Tensor], kept: bool) -> None:
        """Log the grids that are kept."""
        if self.available and kept:
            summaries = [self._summaries.image(name, grid, dataformats="CHW") for name, grid in grids.items()]
            self._write([{"step": status.iterations, "summary": summary} for summary in summaries])

    def finished(self) -> None:
        """Close the file; everything is written already."""
        if self._file is not None:
            with suppress(OSError):  # of an earlier write, which has raised its own error
                self._file.close()
            self._file = None

    def _write(self, events: list[dict[str, Any]]) -> None:
        try:
            if self._file is None or not self._path.exists():
                self.finished()
                self._file = self._open()
                events = [{"file_version": "brain.Event:2"}, *events]
            writer = self._records.RecordWriter(self._file)
            for event in events:
                writer.write(self._messages.Event(wall_time=time.time(), **event).SerializeToString())
            writer.flush()
        except OSError as error:
            raise TrainingError(
                f"cannot write TensorBoard logs into {printable(self._folder)}: {error.strerror}. Free some space or "
                "check the folder, and resume."
            ) from error

    def _open(self) -> IO[bytes]:
        """Create a file with a new name.

        TensorBoard looks for "tfevents" in names and reads files in the order of their names.
        """
        self._folder.mkdir(exist_ok=True)
        stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = next(path for n in count() if not (path := self._folder / f"{stem}.{n}").exists())
        return self._path.open("wb")
