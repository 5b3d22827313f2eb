"""Search of folders for images by extension, through links, with a list of the files left out."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastmunit.data.formats import readable_extensions
from fastmunit.errors import DataError
from fastmunit.files import printable, require_regular_file, resolved
from fastmunit.image_files.open import is_image_file

# Number of names listed in a message.
_MAX_LISTED = 3


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder.

    Attributes:
        folder: The folder.
        paths: Paths of its images, sorted.
        left_out: Sorted names, relative to the folder, of files that are not read. Names without a reason are files
            whose extension is not an image extension.
    """

    folder: Path
    paths: list[Path]
    left_out: list[str]

    @property
    def note(self) -> str | None:
        """One line about the files left out, or None if there are none."""
        if not self.left_out:
            return None
        more = f" and {len(self.left_out) - _MAX_LISTED} more" if len(self.left_out) > _MAX_LISTED else ""
        files = "1 file" if len(self.left_out) == 1 else f"{len(self.left_out):,} files"
        return f"{printable(self.folder)}: {files} left out: {', '.join(self.left_out[:_MAX_LISTED])}{more}."


def require_folder(folder: str | os.PathLike[str], what: str, fix: str = "create it or correct the path") -> Path:
    """Check that a folder exists.

    Args:
        folder: Path to check.
        what: Name of the folder, as the first words of the message.
        fix: Advice, as the last words of the message.

    Raises:
        DataError: If the path does not exist, cannot be read, or is not a folder.
    """
    try:
        is_folder = stat.S_ISDIR(Path(folder).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{what} {printable(folder)} does not exist: {fix}.") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{what} {printable(folder)} cannot be read ({reason}): {fix}.") from error
    if not is_folder:
        raise DataError(f"{what} {printable(folder)} is not a folder: {fix}.")
    return Path(folder)


def find_images(folder: str | os.PathLike[str], also: frozenset[str] = frozenset()) -> FoundImages:
    """Find the image files below `folder`, recursively, and files with an extension in `also`.

    Files with one of the `readable_extensions`, in upper or lower case, are images, and so are files and folders of the
    formats in `image_files`. Hidden files (".name"), and files
    in hidden folders that are not images, are left out without being counted. Links to folders are followed after all
    other folders. Each folder is entered once, and parents of `folder` are never entered, so that loops of links end.

    Raises:
        DataError: If the folder is missing, cannot be read, or contains no image.
    """
    root = require_folder(folder, "image folder")
    paths: list[Path] = []
    left_out: list[str] = []
    extensions = readable_extensions() | also
    for path, problem in _entries(root):
        extension = os.path.splitext(path.name)[1].lower()  # noqa: PTH122 - many files
        if problem is None and (extension in extensions or is_image_file(path)):
            paths.append(path)
        elif not (name := printable(os.path.relpath(path, root))).startswith(".") and "/." not in name:
            left_out.append(name if problem is None else f"{name} ({problem})")
    images = FoundImages(root, sorted(paths, key=str), sorted(left_out))
    if not paths:
        raise DataError(
            f"image folder {printable(root)} contains no images: add some (.jpg, .png, .tif, .webp or another format "
            f"that Pillow reads).{f' {images.note}' if images.note else ''}"
        )
    return images


def input_images(path: str | os.PathLike[str], also: frozenset[str] = frozenset()) -> FoundImages:
    """Return what `find_images` finds below a folder, or a single file if `path` is a file.

    Raises:
        DataError: If `find_images` raises, or `path` does not exist or is not a regular file.
    """
    if is_image_file(path):
        return FoundImages(Path(path).parent, [Path(path)], [])
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for names that are too long
        return find_images(path, also)
    require_regular_file(path, "input", DataError)
    return FoundImages(Path(path).parent, [Path(path)], [])


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the sorted paths of the images below a folder; see `find_images`, which may raise DataError."""
    return find_images(folder).paths


def _entries(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield all files below a folder except hidden ones, each with the reason why it cannot be read, if any."""
    entered = {_identity(parent) for parent in resolved(root).parents}
    folders, links = [str(root)], list[str]()
    while folders or links:
        linked = not folders
        folder = heapq.heappop(links) if linked else folders.pop()
        try:
            identity = _identity(folder)
            if identity in entered:
                if linked:
                    yield Path(folder), "a link to a parent folder or to one already read"
                continue
            entered.add(identity)
            with os.scandir(folder) as iterator:
                entries = list(iterator)
        except OSError as error:
            raise DataError(
                f"image folder {printable(folder)} cannot be read ({error.strerror}): check its permissions."
            ) from error
        for entry in entries:
            is_folder, is_link = entry.is_dir(follow_symlinks=False), _links_to_folder(entry)
            if (is_folder or is_link) and not entry.name.startswith(".") and is_image_file(entry.path):
                yield Path(folder, entry.name), None
            elif is_folder:
                folders.append(entry.path)
            elif entry.name.startswith("."):
                continue
            elif is_link:
                heapq.heappush(links, entry.path)
            else:
                yield Path(folder, entry.name), _problem(entry)


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _links_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself: reading the file reports it
        return False


def _problem(entry: os.DirEntry[str]) -> str | None:
    """Return why a file cannot be an image, if so. Broken links are accepted: reading them reports the error."""
    try:
        if entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
            return None
    except OSError:
        return None
    return "not a regular file"
