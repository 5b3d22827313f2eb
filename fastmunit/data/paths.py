"""Which files make up a domain: folders, and lists of paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastmunit.config import Config
from fastmunit.errors import ConfigError, DataError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff")

Part = Literal["train", "test"]
Domain = Literal["a", "b"]


@dataclass(frozen=True)
class DomainFiles:
    """The images of one domain in one part of the data.

    Attributes:
        source: the folder or list file they come from, for messages.
        paths: the images, in the order of the dataset.
    """

    source: Path
    paths: list[Path]


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

    Raises:
        ConfigError: the configuration names neither.
        DataError: as `list_images` and `read_image_list`.
    """
    if config.data_root is not None:
        folder = Path(config.data_root)
        if not folder.is_dir():
            raise DataError(
                f"data_root {folder} does not exist or is not a folder: it must hold trainA, trainB, testA and testB."
            )
        folder /= f"{part}{domain.upper()}"
        return DomainFiles(folder, list_images(folder))
    folder_key, list_key = f"data_folder_{part}_{domain}", f"data_list_{part}_{domain}"
    folder_name: str | None = getattr(config, folder_key)
    list_name: str | None = getattr(config, list_key)
    if folder_name is None:
        raise ConfigError(
            f"no data: set data_root (a folder with trainA, trainB, testA, testB), or {folder_key} and {list_key}."
        )
    if list_name is None:
        return DomainFiles(Path(folder_name), list_images(folder_name))
    return DomainFiles(Path(list_name), read_image_list(list_name, folder_name))


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"image folder {error.filename} cannot be read ({error.strerror}): check its permissions.")
