"""The config.json of a model folder: what the folder holds, facts about the model, and its configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError
from fastmunit.files import printable, require_regular_file
from fastmunit.model_folder.about import About
from fastmunit.section import Section, explain

NAME = "config.json"
VERSION: Final = 1

_FORMAT: Final = "fastmunit model folder"
_MAX_BYTES = 1_000_000
_ELSEWHERE = ("data_root", "data_module", "vgg_model_path")
"""Keys that name files or code of the machine that trained, besides data_folder_* and data_list_*."""


class Header(Section):
    """The keys of config.json.

    Attributes:
        format: Name of the format.
        version: Version of the format.
        fastmunit: Version of fastmunit that wrote the folder.
        contents: "system": all networks. "generators": those that translate. "translator": their parts for one
            direction.
        direction: Direction of a translator.
        sha256: SHA-256 of model.safetensors.
        about: Facts about the model.
        config: The configuration.
    """

    format: Literal["fastmunit model folder"] = _FORMAT
    version: Literal[1] = VERSION
    fastmunit: Annotated[str, Field(max_length=100)] = ""
    contents: Literal["system", "generators", "translator"]
    direction: Literal["a2b", "b2a"] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    about: About = About()
    config: dict[str, Any]


def portable(config: Config) -> Config:
    """Return a copy without paths of the machine that trained, and without the name of code that would be run."""
    names = [key for key in type(config).model_fields if key.startswith(("data_folder_", "data_list_"))]
    return config.model_copy(update=dict.fromkeys([*names, *_ELSEWHERE]), deep=True)


def to_json(header: Header) -> str:
    """Return the text of config.json.

    Raises:
        ConfigError: If a value is NaN or infinite, which JSON does not have.
    """
    try:
        return json.dumps(header.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise ConfigError(f"the configuration has a value that JSON does not have ({error}): change it.") from error


def read(path: str | os.PathLike[str]) -> tuple[Header, Config]:
    """Read a config.json.

    Raises:
        CheckpointError: If the file is missing, too large, not JSON, or not that of a model folder.
        ConfigError: If a key or value of the configuration is wrong.
    """
    source = printable(path)
    values = _parse(Path(path))
    if values.get("format") != _FORMAT:
        raise CheckpointError(
            f"{source} is not the config.json of a fastmunit model folder: give a folder that save_pretrained wrote."
        )
    if values.get("version") != VERSION:
        raise CheckpointError(
            f"{source} has version {str(values.get('version'))[:20]}, and this fastmunit reads version {VERSION}: "
            "install a newer fastmunit."
        )
    try:
        header = Header.model_validate(values)
    except ValidationError as error:
        raise CheckpointError(explain(error, Header, source)) from None
    if (header.contents == "translator") != (header.direction is not None):
        raise CheckpointError(f"{source}: a translator has a direction, and no other model has one: get it again.")
    return header, portable(Config.from_dict(header.config, source=source))


def _parse(path: Path) -> dict[str, Any]:
    require_regular_file(path, "configuration", CheckpointError)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise CheckpointError(f"{printable(path)} is larger than {_MAX_BYTES:,} bytes: it is not a config.json.")
        values = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, a number of many digits
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{printable(path)} cannot be read as JSON ({reason}): get the folder again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{printable(path)} has no keys at its top level: get the folder again.")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is given twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")
