"""The file page.json: what the page shows, and what translates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

import fastmunit

SETTINGS_FILE = "page.json"
STATIC = Path(__file__).parent / "static"
MODELS = "models"
SHOWN_CHANNELS = frozenset((1, 3))
"""Numbers of channels that the page can show."""
_TITLE = "Draw, and see it translated"
_STYLES = 12
_SEED = 0
_COLORS = ("#ffffff", "#000000")

Kind = Literal["normal", "seed", "none"]


@dataclass(frozen=True)
class Samples:
    """Sample pictures.

    Attributes:
        files: Paths of the pictures of each domain ("a", "b"), relative to the page.
        colors: Colors of paper and ink of each domain, as in CSS.
        has_license: True if the data have a license file, which is next to the pictures.
    """

    files: Mapping[str, list[str]] = field(default_factory=dict)
    colors: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    has_license: bool = False


def page_settings(
    system: str,
    size: tuple[int, int],
    directions: Mapping[str, tuple[Kind, int]],
    *,
    title: str | None = None,
    samples: Samples | None = None,
    engine: Literal["browser", "server"] = "browser",
) -> dict[str, Any]:
    """Return the content of page.json.

    Args:
        system: System of the model.
        size: Height and width of drawings.
        directions: Kind and length of the style codes of each direction.
        title: Title of the page.
        samples: Sample pictures.
        engine: Where the model runs.
    """
    samples = samples or Samples()
    return {
        "title": title or _TITLE,
        "fastmunit": fastmunit.__version__,
        "system": system,
        "engine": engine,
        "size": size,
        "directions": [
            {"name": name, "folder": f"{MODELS}/{name}", "colors": samples.colors.get(name[0], _COLORS)}
            for name in directions
        ],
        "styles": {name: _first_styles(*kind_and_length) for name, kind_and_length in directions.items()},
        "samples": {domain: samples.files.get(domain, []) for domain in "ab"},
        "data_license": samples.has_license,
    }


def _first_styles(kind: Kind, length: int) -> list[list[float]]:
    """Return the style codes that `fastmunit.translate` draws, or codes of zeros if it draws seeds of noise."""
    if kind == "none":
        return []
    if kind == "seed":
        return [[0.0] * length] * _STYLES
    return torch.randn(_STYLES, length, generator=torch.Generator().manual_seed(_SEED)).tolist()
