"""The image files of each domain: from folders or lists, and as pairs."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from fastmunit.config import Config
from fastmunit.data.folders import find_images, require_folder
from fastmunit.data.formats import without_extension
from fastmunit.data.lists import read_image_list
from fastmunit.errors import ConfigError, DataError
from fastmunit.files import printable

# Number of files without a partner listed in a message.
_MAX_LISTED = 3

Part = Literal["train", "test"]
Domain = Literal["a", "b"]
Half = Literal["left", "right"]
PARTS: tuple[Part, ...] = get_args(Part)
DOMAINS: tuple[Domain, ...] = get_args(Domain)


@dataclass(frozen=True)
class DomainFiles:
    """The images of one domain in the training or test data.

    Attributes:
        source: Folder or list file that they are from, for messages.
        paths: Paths of the images, in the order of the dataset.
        half: Half of each image that belongs to this domain, or None for the whole image.
        note: One line about files of the folder that were left out, or None if there are none.
    """

    source: Path
    paths: list[Path]
    half: Half | None = None
    note: str | None = None


def domain_files(config: Config, part: Part, domain: Domain) -> DomainFiles:
    """Return the images of one domain in the training or test data of a configuration.

    If `data_root` is set, they are in its folder trainA, trainB, testA or testB. Otherwise they are in
    `data_folder_{part}_{domain}`: the images listed in `data_list_{part}_{domain}`, or all images if there is no list.

    With `pairs: folders`, image k of A and image k of B have equal names below their folders, except for the extension
    and the Unicode form (a letter with an accent may be one character or two).
    With `pairs: side_by_side`, A is the left and B the right half of each image. The images are in the folders train,
    and test or val, of `data_root`, or in `data_folder_{part}_a` with `data_list_{part}_a`.

    Raises:
        ConfigError: If the configuration sets neither.
        DataError: If `find_images` or `read_image_list` raises, or an image has no partner or more than one.
    """
    match config.pairs:
        case "side_by_side":
            files = _joined_files(config, part)
            return replace(files, half="left" if domain == "a" else "right")
        case "folders":
            a, b = _single_files(config, part, "a"), _single_files(config, part, "b")
            paths_a, paths_b = _partners(a, b)
            return replace(a, paths=paths_a) if domain == "a" else replace(b, paths=paths_b)
    return _single_files(config, part, domain)


def _single_files(config: Config, part: Part, domain: Domain) -> DomainFiles:
    """Return the images of one domain without regard to pairs."""
    if config.data_root is not None:
        root = require_folder(config.data_root, "data_root", "it must contain trainA, trainB, testA and testB")
        return _in_folder(root / f"{part}{domain.upper()}")
    return _folder_or_list(config, part, domain, "trainA, trainB, testA, testB")


def _folder_or_list(config: Config, part: Part, domain: Domain, in_root: str) -> DomainFiles:
    folder_key, list_key = f"data_folder_{part}_{domain}", f"data_list_{part}_{domain}"
    folder_name: str | None = getattr(config, folder_key)
    list_name: str | None = getattr(config, list_key)
    if folder_name is None:
        raise ConfigError(
            f"no data: set data_root (a folder with {in_root}), or {folder_key} and {list_key}, or data_module."
        )
    if list_name is None:
        return _in_folder(folder_name)
    return DomainFiles(Path(list_name), read_image_list(list_name, folder_name))


def _joined_files(config: Config, part: Part) -> DomainFiles:
    """Return the images whose left half belongs to A and whose right half belongs to B."""
    if config.data_root is None:
        return _folder_or_list(config, part, "a", "train, and test or val")
    root = require_folder(
        config.data_root, "data_root", "with pairs side_by_side it must contain train, and test or val"
    )
    folder = root / part
    if part == "test" and not folder.is_dir() and (root / "val").is_dir():
        folder = root / "val"
    return _in_folder(folder)


def _in_folder(folder: str | os.PathLike[str]) -> DomainFiles:
    images = find_images(folder)
    return DomainFiles(images.folder, images.paths, note=images.note)


def _partners(a: DomainFiles, b: DomainFiles) -> tuple[list[Path], list[Path]]:
    """Return the images of A in their order, and the images of B with equal names in the same order."""
    named_a, named_b = _by_name(a), _by_name(b)
    alone = [(named_a[name], b) for name in named_a if name not in named_b]
    alone += [(named_b[name], a) for name in named_b if name not in named_a]
    if alone:
        named = ", ".join(
            f"{printable(path)} (none in {printable(other.source)})" for path, other in alone[:_MAX_LISTED]
        )
        more = f" and {len(alone) - _MAX_LISTED} more" if len(alone) > _MAX_LISTED else ""
        raise DataError(
            f"pairs folders: {len(alone)} images have no partner of the same name: {named}{more}. Add or remove "
            "images, or set pairs to unpaired."
        )
    return list(named_a.values()), [named_b[name] for name in named_a]


def _by_name(files: DomainFiles) -> dict[str, Path]:
    """Map the name that paired images share (path below the folder, without extension, in NFC) to each image."""
    folder = files.source if files.source.is_dir() else Path(os.path.commonpath([path.parent for path in files.paths]))
    named: dict[str, Path] = {}
    for path in files.paths:
        relative = path.relative_to(folder)
        name = unicodedata.normalize("NFC", relative.with_name(without_extension(relative.name)).as_posix())
        if name in named:
            raise DataError(
                f"pairs folders: {printable(named[name])} and {printable(path)} have the same name except for the "
                "suffix or the Unicode form: remove one."
            )
        named[name] = path
    return named
