"""A record of the files that earlier calls wrote into an output folder, for removing stale ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fastmunit.errors import FastmunitError
from fastmunit.files import printable, require_regular_file, resolved, write_text

RECORD_FILE = ".fastmunit-outputs.jsonl"


class _File(NamedTuple):
    """A written file: its path relative to the folder, its size and its modification time."""

    path: str
    size: int
    modified: int


class OutputRecord:
    """A record of the outputs of each image in a folder, kept in a file of lines.

    A line adds outputs of an image to those of the lines above it, or forgets them if it has none. A later call for the
    same image with fewer styles removes the outputs that it does not overwrite. Only recorded files that have not
    changed since are removed.

    Args:
        folder: The output folder. It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / RECORD_FILE
        self._entries: dict[tuple[str, str], dict[str, _File]] = {}
        lines = self._read()
        for line in lines:
            entry = _parsed(line)
            if entry is not None:
                self._note(*entry)
        if len(lines) > len(self._entries):
            write_text(self._file, "".join(_line(key, files.values()) for key, files in self._entries.items()))

    def start(self, name: str, kind: str, planned: Collection[Path], keep: Collection[Path] = ()) -> list[Path]:
        """Remove the outputs of an earlier call before new ones are written, so that the two never stand side by side.

        Args:
            name: What the outputs belong to, such as `Input.name` of an image.
            kind: Kind of outputs, such as "style". Outputs of other kinds stay.
            planned: The outputs that will be written, in the folder.
            keep: Resolved paths that must stay.

        Returns:
            The removed files that are not planned.

        Raises:
            FastmunitError: If the record cannot be written.
        """
        removed = self._remove_all(self._entries.get((name, kind), {}).values(), keep)
        if (name, kind) in self._entries:
            self._append((name, kind), [])
        return [path for path in removed if path not in planned]

    def add(self, name: str, kind: str, *written: Path) -> None:
        """Record outputs as soon as they are written, so that a later call finds them even after an interruption.

        Args:
            name: As in `start`.
            kind: As in `start`.
            written: The outputs, in the folder.

        Raises:
            FastmunitError: If the record cannot be written.
        """
        self._append((name, kind), [_described(path, self._folder) for path in written])

    @contextmanager
    def interruptible(self, name: str, kind: str, planned: Collection[Path]) -> Iterator[None]:
        """Record those of the planned outputs that a block has written before it raises anything.

        Args:
            name: As in `start`.
            kind: As in `start`.
            planned: The outputs, in the folder. If the block succeeds, `replace` or `add` records them.
        """
        before = {path: _state(path) for path in planned}
        try:
            yield
        except BaseException:
            written = [path for path, state in before.items() if _state(path) not in (None, state)]
            if written:
                self.add(name, kind, *written)
            raise

    def replace(self, name: str, kind: str, written: Sequence[Path], keep: Collection[Path] = ()) -> list[Path]:
        """Record the outputs of an image, and remove outputs of an earlier call that are not among them.

        Args:
            name: `Input.name` of the image.
            kind: Kind of outputs, such as "style". Outputs of other kinds stay.
            written: The outputs, in the folder.
            keep: Resolved paths that must stay.

        Returns:
            The removed files.

        Raises:
            FastmunitError: If the record cannot be written.
        """
        files = [_described(path, self._folder) for path in written]
        current = {file.path for file in files}
        earlier = self._entries.get((name, kind), {})
        removed = self._remove_all([file for path, file in earlier.items() if path not in current], keep)
        self._append((name, kind), *([[], files] if earlier else [files]))
        return removed

    def _append(self, key: tuple[str, str], *lines: Sequence[_File]) -> None:
        """Write lines for the outputs of one image at once."""
        for files in lines:
            self._note(*key, files)
        try:
            with self._file.open("a", encoding="utf-8") as record:
                record.write("".join(_line(key, files) for files in lines))
        except OSError as error:
            raise FastmunitError(f"cannot write {printable(self._file)}: {error.strerror or error}.") from error

    def _note(self, name: str, kind: str, files: Sequence[_File]) -> None:
        """Follow a line of the record."""
        if files:
            self._entries.setdefault((name, kind), {}).update({file.path: file for file in files})
        else:
            self._entries.pop((name, kind), None)

    def _remove_all(self, files: Iterable[_File], keep: Collection[Path]) -> list[Path]:
        """Remove files that have not changed, and return them."""
        return [self._folder / file.path for file in files if self._remove(file, keep)]

    def _remove(self, file: _File, keep: Collection[Path]) -> bool:
        path = self._folder / file.path
        try:
            parent = resolved(path.parent)
            if resolved(self._folder) not in (parent, *parent.parents):
                return False
            if path.is_symlink() or resolved(path) in keep:
                return False
            if not path.is_file() or _described(path, self._folder) != file:
                return False
            path.unlink()
        except OSError:  # a file that cannot be examined stays, as it may not be ours
            return False
        return True

    def _read(self) -> list[str]:
        if not self._file.exists():
            return []
        require_regular_file(self._file, "record of outputs", FastmunitError)
        try:
            return self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise FastmunitError(
                f"cannot read {printable(self._file)} ({error.strerror}): check its permissions."
            ) from error


def _state(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from one that replaces it: inode and modification time. None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _described(path: Path, folder: Path) -> _File:
    status = path.stat()
    return _File(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns)


def _line(key: tuple[str, str], files: Iterable[_File]) -> str:
    return json.dumps({"image": key[0], "kind": key[1], "files": [*files]}) + "\n"


def _parsed(line: str) -> tuple[str, str, list[_File]] | None:
    """Parse a line. Return None for one that we did not write, or that a crash cut short."""
    try:
        content: Any = json.loads(line)
        files = [_File(str(path), int(size), int(modified)) for path, size, modified in content["files"]]
        name, kind = str(content["image"]), str(content["kind"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if any(PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts for file in files):
        return None
    return name, kind, files
