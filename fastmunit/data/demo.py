"""The built-in demo data: edge drawings and photos of fruits, 64x64 (made by tools/make_demo_data.py)."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import torch
from PIL import Image

from fastmunit.data.drawing import draw_edges
from fastmunit.data.images import decode_image
from fastmunit.errors import DataError, FastmunitError

_DRAWN_AT_ONCE = 16


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
            _write(target, lambda whole: content.extractall(whole, missing))
        except OSError as error:
            reason = error.strerror or str(error)
            raise FastmunitError(
                f"cannot unpack the demo data into {target}: {reason}. Free some space or choose a folder you can "
                "write to."
            ) from error
    return target


def unpack_paired_demo(folder: str | os.PathLike[str]) -> Path:
    """Writes the demo data as pairs into `folder` and returns it, to be used as `data_root` with `pairs: folders`.

    trainB and testB hold the photos of `unpack_demo`, trainA and testA their edge drawings, with equal stems: the
    archive's own for testA, those of `draw_edges` for trainA, which take about twenty seconds on one processor core.
    Whole or absent as there; a folder that has all of them is kept.

    Raises:
        DataError: a file stands where a folder is needed, or the folders hold images of another origin.
        FastmunitError: the folder cannot be written.
    """
    target = Path(folder)
    archive = resources.files("fastmunit.data") / "demo.zip"
    with archive.open("rb") as stream, zipfile.ZipFile(stream) as content:
        entries = [entry for entry in content.infolist() if not entry.filename.startswith("trainA/")]
        photos = [Path(entry.filename) for entry in entries if entry.filename.startswith("trainB/")]
        drawings = {photo: f"trainA/{photo.stem}.png" for photo in photos}
        _refuse_other_images(target, {entry.filename for entry in entries} | set(drawings.values()))
        missing = [entry for entry in entries if not _is_whole(target / entry.filename, entry.file_size)]
        if not missing and all((target / name).is_file() for name in drawings.values()):
            return target
        try:
            _write(target, lambda whole: _unpack_and_draw(content, entries, drawings, whole))
        except OSError as error:
            reason = error.strerror or str(error)
            raise FastmunitError(
                f"cannot write the demo's pairs into {target}: {reason}. Free some space or choose a folder you can "
                "write to."
            ) from error
    return target


def _unpack_and_draw(
    content: zipfile.ZipFile, entries: list[zipfile.ZipInfo], drawings: Mapping[Path, str], whole: Path
) -> None:
    content.extractall(whole, entries)
    photos = list(drawings)
    for start in range(0, len(photos), _DRAWN_AT_ONCE):
        some = photos[start : start + _DRAWN_AT_ONCE]
        images = draw_edges(torch.stack([decode_image(whole / photo, 3) for photo in some]))
        for photo, image in zip(some, images, strict=True):
            # Not `save_image`, which waits for the disk after every file: the folder is renamed when all are there.
            path = whole / drawings[photo]
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)


def _write(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside `target` and rename it, or its files, onto `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    try:
        whole = partial / target.name
        whole.mkdir()  # with the user's usual permissions, unlike `partial`
        fill(whole)
        try:
            whole.replace(target)
            return
        except OSError:
            if not target.is_dir():
                raise
        # The folder is there already, or another process has just made it.
        for path in [path for path in whole.rglob("*") if path.is_file()]:
            destination = target / path.relative_to(whole)
            destination.parent.mkdir(parents=True, exist_ok=True)
            path.replace(destination)
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
