"""Writing of model folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import atomic_write, printable, require_regular_file, resolved
from fastmunit.model_folder import card, config_file, tensors
from fastmunit.model_folder.about import About
from fastmunit.model_folder.config_file import Header, portable
from fastmunit.model_folder.tensors import States, WeightType

_DATA_LICENSE = "DATA_LICENSE.txt"
_MAX_LICENSE = 200_000
_MAX_PICTURE = 2_000_000
_PICTURES = {b"\x89PNG": "sample.png", b"\xff\xd8\xff": "sample.jpg"}
FILES = (config_file.NAME, tensors.NAME, card.NAME, *_PICTURES.values(), _DATA_LICENSE)
"""Names of all files that a model folder may have."""


@dataclass
class Model:
    """The content of a model folder.

    Attributes:
        contents: "system", "generators" or "translator"; see `Header`.
        states: Weights by kind ("gen", "dis", "ema") and network.
        config: The configuration.
        directions: Directions that the model translates in.
        recipes: Names of configurations that `config` may be derived from, for the card.
        about: Facts for the card.
    """

    contents: Literal["system", "generators", "translator"]
    states: States
    config: Config
    directions: tuple[str, ...]
    recipes: Sequence[str]
    about: About = field(default_factory=About)


def write_folder(
    folder: str | os.PathLike[str], model: Model, *, dtype: WeightType | None = None, name: str | None = None
) -> None:
    """Write a model folder, or replace an earlier one. config.json is written last and completes it.

    Args:
        folder: Folder. It is created if it is missing.
        model: The model.
        dtype: Type to store the weights in. None keeps theirs.
        name: Name under which the card's example loads the model. None is the name of the folder.

    Raises:
        FastmunitError: If the folder holds other files or cannot be written, or a weight is NaN or infinite.
    """
    target = Path(folder)
    _require_free(target)
    weights = tensors.to_bytes(model.states, dtype)
    header = Header(
        fastmunit=_version(),
        contents=model.contents,
        direction=model.directions[0] if model.contents == "translator" else None,  # type: ignore[arg-type]
        sha256=hashlib.sha256(weights).hexdigest(),
        about=model.about,
        config=portable(model.config).to_dict(),
    )
    files = {config_file.NAME: config_file.to_json(header).encode(), tensors.NAME: weights}
    picture = None if model.about.picture is None else _picture(model.about.picture)
    if picture is not None:
        files[picture[0]] = picture[1]
    if model.about.data_license is not None:
        files[_DATA_LICENSE] = _bytes_of(model.about.data_license, "data license", _MAX_LICENSE)
    name = name or printable(resolved(target).name)
    text = card.render(
        header,
        model,
        name=name,
        title=model.about.title or name.rpartition("/")[2],
        picture=None if picture is None else picture[0],
        data_license=_DATA_LICENSE if _DATA_LICENSE in files else None,
        weight_bytes=len(weights),
    )
    with ExitStack() as stack:  # the files are renamed in reverse order
        for file, content in {**files, card.NAME: text.encode()}.items():
            stack.enter_context(atomic_write(target / file)).write(content)
    for file in {*_PICTURES.values(), _DATA_LICENSE} - set(files):  # of the model that was replaced
        (target / file).unlink(missing_ok=True)


def extras(folder: Path) -> dict[str, Path]:
    """Return the picture and the data license of a model folder as values of `About`."""
    pictures = [folder / name for name in _PICTURES.values() if (folder / name).is_file()]
    license_file = folder / _DATA_LICENSE
    found = {"picture": pictures[0]} if pictures else {}
    return {**found, "data_license": license_file} if license_file.is_file() else found


def _require_free(folder: Path) -> None:
    """Raise FastmunitError unless the folder is new, empty or a model folder. Hidden files, such as .git, may stay."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FastmunitError(f"{printable(folder)} is a file: give the path of a folder.")
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if not names:
        return
    try:
        config_file.read(folder / config_file.NAME)
    except FastmunitError:
        raise FastmunitError(
            f"{printable(folder)} holds other files ({', '.join(sorted(names)[:3])[:200]}): give a new folder, or an "
            "earlier model folder."
        ) from None


def _picture(path: Path) -> tuple[str, bytes]:
    """Return the name and the bytes of a sample picture."""
    data = _bytes_of(path, "picture", _MAX_PICTURE)
    for start, name in _PICTURES.items():
        if data.startswith(start):
            return name, data
    raise FastmunitError(f"picture {printable(path)} is no PNG or JPEG file: convert it.")


def _bytes_of(path: Path, what: str, limit: int) -> bytes:
    require_regular_file(path, what, CheckpointError)
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FastmunitError(f"{what} {printable(path)} cannot be read ({error.strerror}): check the file.") from error
    if len(data) > limit:
        raise FastmunitError(f"{what} {printable(path)} has more than {limit:,} bytes: give a smaller one.")
    return data


def _version() -> str:
    try:
        return version("fastmunit")
    except PackageNotFoundError:
        return ""
