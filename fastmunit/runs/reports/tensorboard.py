"""TensorBoard scalars and images, with the public trainer's tags: the losses' attribute names."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

import torch

from fastmunit.errors import TrainingError
from fastmunit.files import shown


class ScalarLog:
    """Writes TensorBoard event files; does nothing where the tensorboard package is absent (see `available`).

    Events are written in the thread of the caller: torch's SummaryWriter has one of its own, which ends in a traceback
    when the folder is removed or the disk is full.

    Args:
        folder: where the event files go; it is made again when it is removed, in a folder that is there.
        resume_at: iterations done already: later steps in older event files are hidden.

    Attributes:
        available: whether the tensorboard package is installed.

    Raises:
        TrainingError: here and in all methods: the files cannot be written.
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

    def scalars(self, iterations: int, values: Mapping[str, float]) -> None:
        """Log each value under its name at step `iterations`."""
        if self.available:
            summaries = [self._summaries.scalar(name, value) for name, value in values.items()]
            self._write([{"step": iterations, "summary": summary} for summary in summaries])

    def image(self, iterations: int, name: str, image: torch.Tensor) -> None:
        """Log an image, uint8 (3, H, W), at step `iterations`."""
        if self.available:
            summary = self._summaries.image(name, image, dataformats="CHW")
            self._write([{"step": iterations, "summary": summary}])

    def close(self) -> None:
        """Close the file; everything is written already."""
        if self._file is not None:
            with suppress(OSError):  # of a write that failed, which was told then
                self._file.close()
            self._file = None

    def _write(self, events: list[dict[str, Any]]) -> None:
        try:
            if self._file is None or not self._path.exists():
                self.close()
                self._file = self._open()
                events = [{"file_version": "brain.Event:2"}, *events]
            writer = self._records.RecordWriter(self._file)
            for event in events:
                writer.write(self._messages.Event(wall_time=time.time(), **event).SerializeToString())
            writer.flush()
        except OSError as error:
            raise TrainingError(
                f"cannot write TensorBoard logs into {shown(self._folder)}: {error.strerror}. Free some space or check "
                "the folder, and resume."
            ) from error

    def _open(self) -> IO[bytes]:
        """Create a file of a new name: TensorBoard looks for "tfevents" and reads files in the order of their names."""
        self._folder.mkdir(exist_ok=True)
        stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = next(path for n in count() if not (path := self._folder / f"{stem}.{n}").exists())
        return self._path.open("wb")
