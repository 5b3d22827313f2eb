"""Reading of text files that list images, one path per line."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from fastmunit.data.folders import require_folder
from fastmunit.errors import DataError
from fastmunit.files import printable, require_regular_file
from fastmunit.image_files.open import is_image_file


def read_image_list(list_file: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Return the images that a list file names, one path per line.

    Empty lines are skipped and the order is kept. Names match files in any Unicode normal form (a letter with an accent
    may be one character or two).

    Args:
        list_file: Text file in UTF-8.
        folder: Folder that the paths are relative to.

    Raises:
        DataError: If the list or the folder is missing, the list is not a regular file, is empty or not UTF-8, or it
            names files that do not exist or are not regular files.
    """
    source = Path(list_file)
    root = require_folder(folder, "image folder", f"the list {printable(source)} names images in it: correct the path")
    require_regular_file(source, "image list", DataError)
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"image list {printable(source)} cannot be read as UTF-8 text ({reason}): give a text file."
        ) from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise DataError(
            f"image list {printable(source)} is empty: write one image path per line, relative to {printable(root)}."
        )
    for number, line in numbered:
        if "\0" in line:
            raise DataError(
                f"image list {printable(source)} has a null byte in line {number}: save it as text in UTF-8, not "
                "UTF-16."
            )
    names = _Names()
    paths: list[Path] = []
    problems: list[str] = []
    for number, line in numbered:
        path = root / line
        try:
            path = names.existing(root, line)
            if not is_image_file(path):  # the format of an image may be a folder
                require_regular_file(path, "image", DataError)
        except DataError as error:
            problems.append(f"line {number}: {error}")
        paths.append(path)
    if problems:
        raise DataError(
            f"image list {printable(source)} names {len(problems)} of {len(numbered)} files that do not exist or "
            f"cannot be read; first, {problems[0]} Lines are paths relative to {printable(root)}: correct the list "
            "or the folder."
        )
    return paths


class _Names:
    """A cache of the names in folders by Unicode normal form. A folder is read once a name in it is missing."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, str]] = {}

    def existing(self, root: Path, line: str) -> Path:
        """Return the existing path that `line` names in any Unicode form, or the path as written if there is none."""
        path = root / line
        if line.isascii() or os.path.lexists(path) or path.is_absolute() != root.is_absolute():
            return path
        path = root
        for part in Path(line).parts:
            exact = path / part
            path = exact if os.path.lexists(exact) else path / self._in(path).get(_normal(part), part)
        return path

    def _in(self, folder: Path) -> dict[str, str]:
        if folder not in self._folders:
            try:
                self._folders[folder] = {_normal(name): name for name in sorted(os.listdir(folder))}
            except OSError:  # the caller reports the file as missing
                self._folders[folder] = {}
        return self._folders[folder]


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
