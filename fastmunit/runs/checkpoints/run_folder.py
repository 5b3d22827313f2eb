"""The folder of one run: what lies where in it, and who may write to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fastmunit.config import Config
from fastmunit.errors import FastmunitError, TrainingError
from fastmunit.files import is_unicode, require_writable, shown
from fastmunit.systems.parts import public_checkpoint

_LOCK = ".lock"
_PATH_KEYS = ("data_root", "vgg_model_path")
_held: set[IO[str]] = set()  # files of the locks that this process holds


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
        return public_checkpoint.snapshot_path(self.checkpoints, "state", iterations)

    def contents(self) -> list[str]:
        """Names of what lies in the folder, empty folders left out; nothing when it does not exist.

        Raises:
            TrainingError: the path is a file.
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
            FastmunitError: read-only, disk full, a file stands in the way, or a name that is not UTF-8: TensorBoard and
                config.yaml cannot hold it.
        """
        if not is_unicode(str(self.root)):
            raise TrainingError(f"the name of output {shown(self.root)} is not UTF-8: choose another --output.")
        try:
            for folder in (self.checkpoints, self.images, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FastmunitError(
                f"cannot make the folder {folder}: {error.strerror}. Choose an --output you can write to."
            ) from error
        require_writable(self.checkpoints / public_checkpoint.OPTIMIZER_FILE)

    def require_present(self) -> None:
        """Check that the folder is still there, before something is written into it.

        Raises:
            TrainingError: it was removed or moved. It is not made again: whoever removed it wants the run gone, or has
                begun another one in its place.
        """
        if not self.root.is_dir():
            raise TrainingError(
                f"the run folder {shown(self.root)} is gone: it was removed or moved while training. Nothing was "
                "written since; if it was moved, --resume continues it in its new place."
            )

    def remove_partial_files(self) -> None:
        """Remove what a killed process left of files that it was writing. Call it only while holding the lock."""
        for folder in (self.root, self.checkpoints, self.images, self.logs):
            for path in folder.glob(".*.partial"):
                with suppress(OSError):
                    path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it when the process ends in whatever way.

        Processes that this one forks do not hold it, so that they may outlive it.

        Raises:
            TrainingError: another process is training in this folder.
            FastmunitError: the folder cannot be written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / _LOCK).open("a", encoding="utf-8")
        except OSError as error:
            raise FastmunitError(
                f"cannot write into {self.root}: {error.strerror}. Choose an --output you can write to."
            ) from error
        with lock as file:
            if not _try_lock(file):
                raise TrainingError(
                    f"another process is training in {self.root}: wait for it, or give another --output folder."
                )
            _held.add(file)
            try:
                yield
            finally:
                _held.discard(file)


def with_absolute_paths(config: Config) -> Config:
    """A copy that names the same files from every working directory: a run can be resumed from anywhere."""
    values = config.to_dict()
    for key, value in values.items():
        if value is not None and (key in _PATH_KEYS or key.startswith(("data_folder_", "data_list_"))):
            values[key] = str(Path(value).absolute())
    return Config.from_dict(values)


def remove(path: Path) -> None:
    """Remove a file, or a folder and all in it, if it is there. Raises FastmunitError when it cannot be removed."""
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


def _let_go_in_child() -> None:
    """Close the locks that a forked process has inherited: a lock ends when its file is closed everywhere."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


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
