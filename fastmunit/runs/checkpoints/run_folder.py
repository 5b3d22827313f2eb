"""Layout and locking of a run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fastmunit.config import Config
from fastmunit.errors import FastmunitError, TrainingError
from fastmunit.files import is_unicode, printable, require_writable, resolved, try_lock
from fastmunit.systems.parts import public_checkpoint

_LOCK = ".lock"
_PATH_KEYS = ("data_root", "vgg_model_path")
_held: set[IO[str]] = set()  # lock files that this process holds


class RunFolder:
    """The paths in a run folder. Names are those of the public trainer's `outputs/<config>` folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.checkpoints = self.root / "checkpoints"
        self.images = self.root / "images"
        self.logs = self.root / "logs"
        self.losses = self.logs / "losses.csv"
        self.evaluations = self.logs / "evaluations.jsonl"
        self.best = self.checkpoints / "best.json"
        self.report = self.root / "report.html"
        self.evaluation = self.root / "evaluation"

    @property
    def page(self) -> Path:
        """The folder next to this one for a page that `fastmunit page` writes."""
        root = self.root if self.root.name else resolved(self.root)
        return root.with_name(f"{root.name}-page")

    def state(self, iterations: int) -> Path:
        """Return the path of a checkpoint's exact-resume state."""
        return public_checkpoint.checkpoint_path(self.checkpoints, "state", iterations)

    def contents(self) -> list[str]:
        """List the names in the folder, without empty folders; nothing if it does not exist.

        Raises:
            TrainingError: If the path is a file, or the folder cannot be read.
        """
        if self.root.exists() and not self.root.is_dir():
            raise TrainingError(f"output {self.root} is a file, not a folder: choose another --output.")
        try:
            return sorted(path.name for path in self.root.iterdir() if path.name != _LOCK and not _is_empty(path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TrainingError(f"output {self.root} cannot be read: {error.strerror}.") from error

    def require_unused(self, allowed: Collection[str] = ()) -> None:
        """Check that a new run would overwrite nothing.

        Args:
            allowed: Names that may exist already.

        Raises:
            TrainingError: If the folder contains anything else.
        """
        others = [name for name in self.contents() if name not in allowed]
        if others:
            names = ", ".join(others[:4]) + (", …" if len(others) > 4 else "")
            raise TrainingError(
                f"output {self.root} is not empty ({names}): add --resume, in Python "
                "resume=True, to continue the run in it, or give another output folder."
            )

    def create(self) -> None:
        """Create the folders and check that they can be written to.

        Raises:
            FastmunitError: If that fails, or the name is not UTF-8, as TensorBoard and config.yaml require.
        """
        if not is_unicode(str(self.root)):
            raise TrainingError(f"the name of output {printable(self.root)} is not UTF-8: choose another --output.")
        try:
            for folder in (self.checkpoints, self.images, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FastmunitError(
                f"cannot create the folder {folder}: {error.strerror}. Choose an --output you can write to."
            ) from error
        require_writable(self.checkpoints / public_checkpoint.OPTIMIZER_FILE)

    def require_present(self) -> None:
        """Check that the folder still exists, before writing into it.

        Raises:
            TrainingError: If it was removed or moved. It is not created again: the user may have deleted the run on
                purpose, or started another one in its place.
        """
        if not self.root.is_dir():
            raise TrainingError(
                f"the run folder {printable(self.root)} is gone: it was removed or moved while training. Nothing was "
                "written since then; if it was moved, --resume continues the run in its new place."
            )

    def remove_partial_files(self) -> None:
        """Remove partial files of a killed process. Call it only while holding the lock."""
        for folder in (self.root, self.checkpoints, self.images, self.logs):
            for path in folder.glob(".*.partial"):
                with suppress(OSError):
                    path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process. The system releases the lock when the process ends for any reason.

        Forked processes do not hold the lock, so they may outlive this process.

        Raises:
            TrainingError: If another process is training in this folder.
            FastmunitError: If the folder cannot be written to.
        """
        require_writable(self.root / _LOCK)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / _LOCK).open("a", encoding="utf-8")
        except OSError as error:
            raise FastmunitError(
                f"cannot write into {self.root}: {error.strerror}. Choose an --output you can write to."
            ) from error
        with lock as file:
            if not try_lock(file):
                raise TrainingError(
                    f"another process is training in {self.root}: wait for it, or give another --output folder."
                )
            _held.add(file)
            try:
                yield
            finally:
                _held.discard(file)


def with_absolute_paths(config: Config) -> Config:
    """Return a copy with absolute paths, so that a run can be resumed from any working directory."""
    values = config.to_dict()
    for key, value in values.items():
        if value is not None and (key in _PATH_KEYS or key.startswith(("data_folder_", "data_list_"))):
            values[key] = str(Path(value).absolute())
    return Config.from_dict(values)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents, if it exists.

    Raises:
        FastmunitError: If it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise FastmunitError(
            f"cannot remove {path}: {error.strerror}. Remove it yourself, or choose an --output you can write to."
        ) from error


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _release_in_child() -> None:
    """Close the lock files that a forked process has inherited: a lock ends when its file is closed everywhere."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
