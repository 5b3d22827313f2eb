"""The README.md of a model folder: its model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.model_folder.config_file import Header, portable
from fastmunit.section import brief

if TYPE_CHECKING:
    from fastmunit.model_folder.about import Metric
    from fastmunit.model_folder.save import Model

NAME = "README.md"

_PUBLIC_LICENSE = "cc-by-nc-sa-4.0"
_NOTICE = (
    "> **Non-commercial use only.** These weights come from a file of the public MUNIT or UNIT trainer. Its repository "
    "puts\n> code and trained models under CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/)."
)
_MAX_DIFFERENCES = 15


def render(
    header: Header,
    model: Model,
    *,
    name: str,
    title: str,
    picture: str | None,
    data_license: str | None,
    weight_bytes: int,
) -> str:
    """Return the model card as Markdown with the metadata block that the Hugging Face Hub reads.

    Args:
        header: Content of config.json.
        model: The model.
        name: Name under which the example loads the model.
        title: Heading.
        picture: Name of the sample picture in the folder, if there is one.
        data_license: Name of the license text of the data in the folder, if there is one.
        weight_bytes: Size of model.safetensors.
    """
    about, config = header.about, model.config
    unnamed = "not stated; state it before you share the model"
    license_link = f"[{data_license}]({data_license})" if data_license else unnamed
    rows = {
        "System": config.system,
        "Directions": ", ".join(model.directions),
        "Data": _cell(about.data) or unnamed,
        "License of the data": license_link,
        "License of the weights": _cell(about.license) or (_PUBLIC_LICENSE if about.public_weights else unnamed),
        "Recipe": _recipe(config, model.recipes),
        "Seed": f"{config.seed}",
        "Iterations": "not recorded" if about.iterations is None else f"{about.iterations:,}",
        "Training images": f"{config.crop_image_height}×{config.crop_image_width}; "
        f"channels: {config.input_dim_a} in A, {config.input_dim_b} in B",
        "Weights": f"{weight_bytes / 1e6:.1f} MB",
        "Written by": f"fastmunit {header.fastmunit}".strip(),
    }
    parts = [
        f"---\n{yaml.safe_dump(_metadata(header, config), sort_keys=False, allow_unicode=True)}---",
        f"# {_cell(title)}",
        _NOTICE if about.public_weights else "",
        about.description.strip(),
        f"![Inputs and translations]({picture})" if picture else "",
        "## Use",
        f'```python\nimport fastmunit\n\nimages = fastmunit.translate({_quoted(name)}, "input.png")\n```',
        "## Facts",
        _table(["", ""], [[key, value] for key, value in rows.items()]),
        "## Scores",
        _scores(about.metrics),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(header: Header, config: Config) -> dict[str, Any]:
    """Return the metadata of the card. The Hub knows licenses by short names; others are "other" with their name."""
    license_name = _PUBLIC_LICENSE if header.about.public_weights else header.about.license.strip()
    values: dict[str, Any] = {}
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_name.lower()):
        values["license"] = license_name.lower()
    elif license_name:
        values |= {"license": "other", "license_name": license_name}
    return {
        **values,
        "library_name": "fastmunit",
        "pipeline_tag": "image-to-image",
        "tags": ["fastmunit", config.system],
    }


def _scores(metrics: Sequence[Metric]) -> str:
    if not metrics:
        return "The model has not been evaluated."
    rows = []
    for metric in metrics:
        interval = "" if metric.low is None or metric.high is None else f" [{metric.low:.4g}, {metric.high:.4g}]"
        better = f"{metric.better} is better" if metric.better else ""
        rows.append([metric.direction, _cell(metric.name), f"{metric.value:.4g}{interval}", better])
    return _table(["direction", "score", "value [95 % interval]", ""], rows)


def _recipe(config: Config, recipes: Sequence[str]) -> str:
    """Name the most similar of some configurations, and the keys that differ."""
    values = _flat(portable(config).to_dict())
    compared: dict[str, list[str]] = {}
    for recipe in dict.fromkeys(recipes):
        try:
            theirs = _flat(portable(Config.load(recipe)).to_dict())
        except ConfigError:  # a system of a third party may have none
            continue
        compared[recipe] = [key for key in values if values[key] != theirs.get(key)]
    if not compared:
        return "all keys are in config.json"
    nearest = min(compared, key=lambda recipe: len(compared[recipe]))
    changes = [key for key in compared[nearest] if key != "seed"]
    shown = ", ".join(f"`{key}={_cell(brief(values[key]))}`" for key in changes[:_MAX_DIFFERENCES])
    more = f" and {len(changes) - _MAX_DIFFERENCES} more keys" if len(changes) > _MAX_DIFFERENCES else ""
    return f"`{nearest}`" + (f" with {shown}{more}" if shown else "")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_leaves(values, ""))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """Return text for one cell of a table or a heading."""
    return " ".join(text.split()).replace("|", "\\|")


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
