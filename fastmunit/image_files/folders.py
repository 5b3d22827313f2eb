"""Images that are folders, written next to their target and renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastmunit.errors import DataError
from fastmunit.files import printable


def require_free(path: Path) -> None:
    """Raise DataError if a folder that must be created exists and is not empty, or is a file.

    An existing image is not replaced, because a folder cannot be replaced in one step.
    """
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        raise DataError(f"{printable(path)} exists and is not an empty folder: delete it or choose another path.")


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder next to `path`, and rename it to `path` when the block succeeds. Otherwise, delete it.

    Raises:
        DataError: If `path` exists and is not an empty folder.
        OSError: If the disk is full or the folder cannot be written.
    """
    require_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".partial"))
    try:
        yield partial
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o777 & ~mask)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
