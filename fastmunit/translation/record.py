"""What earlier calls have written into an output folder, so that outputs that a new call makes stale can go."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fastmunit.errors import FastmunitError
from fastmunit.files import require_regular_file, shown, write_text

RECORD_FILE = ".fastmunit-outputs.jsonl"


class _File(NamedTuple):
    """A file as it was written: its path below the folder, its size and its time of modification."""

    path: str
    size: int
    modified: int


class OutputRecord:
    """The outputs of each image in a folder, in a file with a line per image.

    A later call for the same image with fewer styles removes what it does not write anew. Only files that are recorded
    here and have not changed since are ever removed.

    Args:
        folder: The output folder; it need not exist.
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
        """Record the outputs of an image, and remove those of an earlier call that are not among them.

        Args:
            name: Of the image's outputs.
            kind: Of outputs, such as "style"; those of other kinds stay.
            written: The outputs, below the folder.
            keep: Resolved paths that must stay.

        Returns:
            What was removed.

        Raises:
            FastmunitError: The record cannot be written.
        """
        files = [_described(path, self._folder) for path in written]
        current = {file.path for file in files}
        stale = [file for file in self._entries.get((name, kind), []) if file.path not in current]
        removed = [path for file in stale if (path := self._removed(file, keep)) is not None]
        self._entries[name, kind] = files
        try:
            with self._file.open("a", encoding="utf-8") as record:
                record.write(_line((name, kind), files))
        except OSError as error:
            raise FastmunitError(f"cannot write {shown(self._file)}: {error.strerror or error}.") from error
        return removed

    def _removed(self, file: _File, keep: Collection[Path]) -> Path | None:
        path = self._folder / file.path
        try:
            parent = path.parent.resolve()
            if self._folder.resolve() not in (parent, *parent.parents):
                return None
            if path.is_symlink() or path.resolve() in keep:
                return None
            if not path.is_file() or _described(path, self._folder) != file:
                return None
            path.unlink()
        except OSError:  # it stays, as a file that cannot be looked at may be anybody's
            return None
        return path

    def _read(self) -> list[str]:
        if not self._file.exists():
            return []
        require_regular_file(self._file, "record of outputs", FastmunitError)
        try:
            return self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise FastmunitError(
                f"cannot read {shown(self._file)} ({error.strerror}): check its permissions."
            ) from error


def _described(path: Path, folder: Path) -> _File:
    status = path.stat()
    return _File(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns)


def _line(key: tuple[str, str], files: Sequence[_File]) -> str:
    return json.dumps({"image": key[0], "kind": key[1], "files": files}) + "\n"


def _parsed(line: str) -> tuple[str, str, list[_File]] | None:
    """Return what a line says; None for one that is not ours, or was cut short by a crash."""
    try:
        content: Any = json.loads(line)
        files = [_File(str(path), int(size), int(modified)) for path, size, modified in content["files"]]
        name, kind = str(content["image"]), str(content["kind"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if any(PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts for file in files):
        return None
    return name, kind, files
