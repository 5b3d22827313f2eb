"""The folder of one run: what lies where in it, and who may write to it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fastmunit.errors import FastmunitError, TrainingError
from fastmunit.files import write_text

_LOCK = ".lock"


class RunFolder:
    """Paths inside a run folder; the names are those of the public trainer's `outputs/<config>` folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.checkpoints = self.root / "checkpoints"
        self.images = self.root / "images"
        self.logs = self.root / "logs"
        self.losses = self.logs / "losses.csv"
        self.report = self.root / "report.html"

    def state(self, iterations: int) -> Path:
        """File with what exact resume needs beside the public checkpoint files."""
        return self.checkpoints / f"state_{iterations:08d}.pt"

    def contents(self) -> list[str]:
        """Names of what lies in the folder; empty when it does not exist.

        Raises:
            TrainingError: the path is a file.
        """
        if self.root.exists() and not self.root.is_dir():
            raise TrainingError(f"output {self.root} is a file, not a folder: choose another --output.")
        try:
            return sorted(path.name for path in self.root.iterdir() if path.name != _LOCK)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TrainingError(f"output {self.root} cannot be read: {error.strerror}.") from error

    def require_unused(self, allowed: Collection[str] = ()) -> None:
        """Check that a new run would overwrite nothing.

        Args:
            allowed: names that may be there already.

        Raises:
            TrainingError: the folder holds something else.
        """
        found = [name for name in self.contents() if name not in allowed]
        if found:
            shown = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
            raise TrainingError(
                f"output {self.root} is not empty ({shown}): add --resume to continue the run in it, "
                "or give another --output folder."
            )

    def create(self) -> None:
        """Make the folders and check that they can be written to.

        Raises:
            FastmunitError: read-only, disk full, or a file stands in the way.
        """
        probe = self.checkpoints / ".writable"
        try:
            for folder in (self.checkpoints, self.images, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FastmunitError(
                f"cannot make the folder {folder}: {error.strerror}. Choose an --output you can write to."
            ) from error
        write_text(probe, "")
        probe.unlink()

    def remove_partial_files(self) -> None:
        """Remove what a killed process left of files that it was writing. Call it only while holding the lock."""
        for folder in (self.root, self.checkpoints, self.images, self.logs):
            for path in folder.glob(".*.partial"):
                with suppress(OSError):
                    path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it when the process ends in whatever way.

        Raises:
            TrainingError: another process is training in this folder.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK).open("a", encoding="utf-8") as file:
            if not _try_lock(file):
                raise TrainingError(
                    f"another process is training in {self.root}: wait for it, or give another --output folder."
                )
            yield


def _try_lock(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; there two runs in one folder are the user's to avoid
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
