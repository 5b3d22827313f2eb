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
    """Unpack the demo data into a folder, for use as `data_root`.

    The folder gets trainA (edge drawings) and trainB (photos of other fruits), testA and testB (pairs with equal
    stems), and the license: CC BY-SA 4.0, from Fruits-360 by Mihai Oltean. The folder appears complete or not at all.
    In an existing folder, files that are missing or have another size are replaced and all others are kept.

    Args:
        folder: The folder to unpack into. It and its parents are created.

    Returns:
        The path of the folder.

    Raises:
        DataError: If `folder` is a file, or its subfolders hold images that are not part of the demo data.
        FastmunitError: If the folder cannot be written.
    """
    return _unpack(Path(folder), omitted="pairsA/")


def unpack_paired_demo(folder: str | os.PathLike[str]) -> Path:
    """Unpack the demo data as pairs into a folder, for use as `data_root` with `pairs: folders`.

    Like `unpack_demo`, except that trainA holds the edge drawings of the photos in trainB, with equal stems.

    Args:
        folder: The folder to unpack into. It and its parents are created.

    Returns:
        The path of the folder.

    Raises:
        DataError: If `folder` is a file, or its subfolders hold images that are not part of these pairs.
        FastmunitError: If the folder cannot be written.
    """
    return _unpack(Path(folder), omitted="trainA/")


def _unpack(target: Path, omitted: str) -> Path:
    """Unpack the archive without one of its folders trainA and pairsA; the other becomes trainA."""
    archive = resources.files("fastmunit.data") / "demo.zip"
    with archive.open("rb") as stream, zipfile.ZipFile(stream) as content:
        entries = [entry for entry in content.infolist() if not entry.filename.startswith(omitted)]
        for entry in entries:
            entry.filename = entry.filename.replace("pairsA/", "trainA/")
        _refuse_other_images(target, {entry.filename for entry in entries})
        missing = [entry for entry in entries if not _is_complete(target / entry.filename, entry.file_size)]
        if not missing:
            return target
        try:
            _extract(content, missing, target)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FastmunitError(
                f"cannot unpack the demo data into {target}: {reason}. Free some space or choose a folder you can "
                "write to."
            ) from error
    return target


def _extract(content: zipfile.ZipFile, entries: list[zipfile.ZipInfo], target: Path) -> None:
    """Extract entries into a folder next to `target` and rename it, or its files, to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    try:
        complete = partial / target.name
        complete.mkdir()  # with the user's usual permissions, unlike `partial`
        content.extractall(complete, entries)
        try:
            complete.replace(target)
            return
        except OSError:
            if not target.is_dir():
                raise
        # The folder existed before, or another process has just created it.
        for path in [path for path in complete.rglob("*") if path.is_file()]:
            destination = target / path.relative_to(complete)
            destination.parent.mkdir(parents=True, exist_ok=True)
            path.replace(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_complete(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _refuse_other_images(target: Path, names: set[str]) -> None:
    """Raise if `target` holds other images: training on a mixture of them and the demo's would go unnoticed."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file: give a folder for the demo data.")
    for part in sorted({name.split("/")[0] for name in names if "/" in name}):
        if (target / part).is_dir():
            for path in (target / part).iterdir():
                if f"{part}/{path.name}" not in names and not path.name.startswith("."):
                    raise DataError(f"{path} is not part of the demo data: give an empty or new folder.")
