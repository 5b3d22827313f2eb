"""A record of the files that earlier calls wrote into an output folder, for removing stale ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
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
    """A record of the outputs of each image in a folder, kept in a file with one line per image.

    A later call for the same image with fewer styles removes the outputs that it does not overwrite. Only recorded
    files that have not changed since are removed.

    Args:
        folder: The output folder. It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / RECORD_FILE
        self._entries: dict[tuple[str, str], list[_File]] = {}
        lines = self._read()
        for line in lines:
            entry = _parsed(line)
            if entry is not None:
                name, kind, files = entry
                self._entries[name, kind] = files
        if len(lines) > len(self._entries):
            write_text(self._file, "".join(map(_line, self._entries, self._entries.values())))

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
        stale = [file for file in self._entries.get((name, kind), []) if file.path not in current]
        removed = [self._folder / file.path for file in stale if self._remove(file, keep)]
        self._entries[name, kind] = files
        try:
            with self._file.open("a", encoding="utf-8") as record:
                record.write(_line((name, kind), files))
        except OSError as error:
            raise FastmunitError(f"cannot write {printable(self._file)}: {error.strerror or error}.") from error
        return removed

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


def _described(path: Path, folder: Path) -> _File:
    status = path.stat()
    return _File(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns)


def _line(key: tuple[str, str], files: Sequence[_File]) -> str:
    return json.dumps({"image": key[0], "kind": key[1], "files": files}) + "\n"


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
