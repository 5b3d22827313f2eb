"""Which files make up a domain: folders, lists of paths, and pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastmunit.config import Config
from fastmunit.errors import ConfigError, DataError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff")

# Named files without partner that a message lists.
_SHOWN = 3

Part = Literal["train", "test"]
Domain = Literal["a", "b"]
Half = Literal["left", "right"]


@dataclass(frozen=True)
class DomainFiles:
    """The images of one domain in one part of the data.

    Attributes:
        source: the folder or list file they come from, for messages.
        paths: the images, in the order of the dataset.
        half: the half of each image that shows this domain; None where the whole image does.
    """

    source: Path
    paths: list[Path]
    half: Half | None = None


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Image files below `folder`, recursively, sorted by path.

    Extensions: .jpg .jpeg .png .ppm .bmp .tif .tiff in any case. Hidden files (".name") are left out, and folders that
    are links are not entered.

    Raises:
        DataError: the folder is missing, cannot be read, or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"image folder {root} {kind}: create it or correct the path.")
    paths = []
    for parent, _, names in os.walk(root, onerror=_raise_unreadable):
        paths += [
            Path(parent, name) for name in names if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
        ]
    if not paths:
        raise DataError(f"image folder {root} holds no images: put some of {' '.join(IMAGE_EXTENSIONS)} in it.")
    return sorted(paths, key=str)


def read_image_list(list_file: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Images named by a list file: one path a line, relative to `folder`. Empty lines are skipped, the order is kept.

    Raises:
        DataError: the list or the folder is missing, the list is empty or not UTF-8, or files it names do not exist.
    """
    source, root = Path(list_file), Path(folder)
    if not root.is_dir():
        raise DataError(f"image folder {root} of list {source} does not exist: create it or correct the path.")
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"image list {source} does not exist: create it or correct the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"image list {source} cannot be read as UTF-8 text ({error}): give a text file.") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise DataError(f"image list {source} is empty: write one image path a line, relative to {root}.")
    missing = [(number, line) for number, line in numbered if not (root / line).is_file()]
    if missing:
        number, line = missing[0]
        raise DataError(
            f"image list {source} names {len(missing)} of {len(numbered)} files that do not exist; first, line "
            f"{number}: {root / line}. Lines are paths relative to {root}: correct the list or the folder."
        )
    return [root / line for _, line in numbered]


def domain_files(config: Config, part: Part, domain: Domain) -> DomainFiles:
    """The images that `config` gives for one domain of the training or test data.

    With `data_root`: the folder trainA, trainB, testA or testB in it. Otherwise `data_folder_{part}_{domain}`, with
    `data_list_{part}_{domain}` naming files in it, or all its images when there is no list.

    With `pairs: folders`, image k of A and image k of B have the same name but for its suffix, below their folders.
    With `pairs: side_by_side`, A is the left and B the right half of the images of the folders train, and test or val,
    in `data_root`, or of `data_folder_{part}_a`, with `data_list_{part}_a`.

    Raises:
        ConfigError: the configuration names neither.
        DataError: as `list_images` and `read_image_list`; or an image has no partner, or more than one.
    """
    match config.pairs:
        case "side_by_side":
            files = _joined_files(config, part)
            return DomainFiles(files.source, files.paths, "left" if domain == "a" else "right")
        case "folders":
            a, b = _single_files(config, part, "a"), _single_files(config, part, "b")
            paths_a, paths_b = _partners(a, b)
            return DomainFiles(a.source, paths_a) if domain == "a" else DomainFiles(b.source, paths_b)
    return _single_files(config, part, domain)


def _single_files(config: Config, part: Part, domain: Domain) -> DomainFiles:
    """The images of one domain, whatever the other one holds."""
    if config.data_root is not None:
        folder = Path(config.data_root)
        if not folder.is_dir():
            raise DataError(
                f"data_root {folder} does not exist or is not a folder: it must hold trainA, trainB, testA and testB."
            )
        folder /= f"{part}{domain.upper()}"
        return DomainFiles(folder, list_images(folder))
    return _folder_or_list(config, part, domain, "trainA, trainB, testA, testB")


def _folder_or_list(config: Config, part: Part, domain: Domain, in_root: str) -> DomainFiles:
    folder_key, list_key = f"data_folder_{part}_{domain}", f"data_list_{part}_{domain}"
    folder_name: str | None = getattr(config, folder_key)
    list_name: str | None = getattr(config, list_key)
    if folder_name is None:
        raise ConfigError(f"no data: set data_root (a folder with {in_root}), or {folder_key} and {list_key}.")
    if list_name is None:
        return DomainFiles(Path(folder_name), list_images(folder_name))
    return DomainFiles(Path(list_name), read_image_list(list_name, folder_name))


def _joined_files(config: Config, part: Part) -> DomainFiles:
    """The images whose left half shows A and whose right half shows B."""
    if config.data_root is None:
        return _folder_or_list(config, part, "a", "train, and test or val")
    root = Path(config.data_root)
    if not root.is_dir():
        raise DataError(
            f"data_root {root} does not exist or is not a folder: with pairs side_by_side it must hold train, and test "
            "or val."
        )
    folder = root / part
    if part == "test" and not folder.is_dir() and (root / "val").is_dir():
        folder = root / "val"
    return DomainFiles(folder, list_images(folder))


def _partners(a: DomainFiles, b: DomainFiles) -> tuple[list[Path], list[Path]]:
    """The images of A in their order, and those of B with the same names."""
    named_a, named_b = _by_name(a), _by_name(b)
    alone = [(named_a[name], b) for name in named_a if name not in named_b]
    alone += [(named_b[name], a) for name in named_b if name not in named_a]
    if alone:
        shown = ", ".join(f"{path} (none in {other.source})" for path, other in alone[:_SHOWN])
        more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
        raise DataError(
            f"pairs folders: {len(alone)} images have no partner of the same name: {shown}{more}. Add or remove "
            "images, or set pairs to unpaired."
        )
    return list(named_a.values()), [named_b[name] for name in named_a]


def _by_name(files: DomainFiles) -> dict[str, Path]:
    """Paths below the folder, without suffix, to images."""
    folder = files.source if files.source.is_dir() else Path(os.path.commonpath([path.parent for path in files.paths]))
    named: dict[str, Path] = {}
    for path in files.paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise DataError(f"pairs folders: {named[name]} and {path} have one name but for the suffix: remove one.")
        named[name] = path
    return named


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"image folder {error.filename} cannot be read ({error.strerror}): check its permissions.")
