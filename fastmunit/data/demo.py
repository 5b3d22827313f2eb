"""The built-in demo data: edge drawings and photos of fruits, 64x64 (made by tools/make_demo_data.py)."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from importlib import resources
from pathlib import Path

from fastmunit.errors import DataError, FastmunitError


def unpack_demo(folder: str | os.PathLike[str]) -> Path:
    """Unpacks the demo data into `folder` and returns it, to be used as `data_root`.

    It gets trainA and testA (edge drawings), trainB and testB (photos; testA and testB hold pairs with equal stems) and
    the licence: CC BY-SA 4.0, from Fruits-360 by Mihai Oltean. The data are unpacked beside `folder` and renamed, so
    that it is whole or absent; what is there already is kept, and files that are missing or have another size are put
    back.

    Raises:
        DataError: a file stands where a folder is needed, or the folders hold images of another origin.
        FastmunitError: the folder cannot be written.
    """
    target = Path(folder)
    archive = resources.files("fastmunit.data") / "demo.zip"
    with archive.open("rb") as stream, zipfile.ZipFile(stream) as content:
        entries = content.infolist()
        _refuse_other_images(target, {entry.filename for entry in entries})
        missing = [entry for entry in entries if not _is_whole(target / entry.filename, entry.file_size)]
        if not missing:
            return target
        try:
            _unpack(content, missing, target)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FastmunitError(
                f"cannot unpack the demo data into {target}: {reason}. Free some space or choose a folder you can "
                "write to."
            ) from error
    return target


def _unpack(content: zipfile.ZipFile, entries: list[zipfile.ZipInfo], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    try:
        whole = partial / target.name
        whole.mkdir()  # with the user's usual permissions, unlike `partial`
        content.extractall(whole, entries)
        try:
            whole.replace(target)
            return
        except OSError:
            if not target.is_dir():
                raise
        # The folder is there already, or another process has just made it.
        for entry in entries:
            destination = target / entry.filename
            destination.parent.mkdir(parents=True, exist_ok=True)
            (whole / entry.filename).replace(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _refuse_other_images(target: Path, names: set[str]) -> None:
    """Training on a mixture of the demo's and somebody's own images would be a silent mistake."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file: give a folder for the demo data.")
    for part in sorted({name.split("/")[0] for name in names if "/" in name}):
        if (target / part).is_dir():
            for path in (target / part).iterdir():
                if f"{part}/{path.name}" not in names and not path.name.startswith("."):
                    raise DataError(f"{path} is not of the demo data: give an empty or new folder.")
