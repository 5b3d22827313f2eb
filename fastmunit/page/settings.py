"""The file page.json: what the page shows, and what translates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

import fastmunit
from fastmunit.systems.style_distributions import FittedNormal
from fastmunit.systems.translators import Translator
from fastmunit.translation.style_file import Styles

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
class ShownStyles:
    """The styles of one direction.

    Attributes:
        kind: Styles are numbers ("normal"), seeds of noise ("seed"), or do not exist ("none").
        length: Length of a style code.
        given: Style codes to begin with, with their names. None begins with random ones.
        distribution: Distribution of random styles. None is N(0, I).
    """

    kind: Kind
    length: int
    given: Styles | None = None
    distribution: FittedNormal | None = None

    @classmethod
    def of(cls, translator: Translator, given: Styles | None = None) -> ShownStyles:
        """Describe the styles of a translator."""
        if not translator.style_dim:
            return cls("none", 0)
        is_float = translator.random_styles(1, torch.Generator().manual_seed(_SEED)).is_floating_point()
        distribution = translator.style_distribution
        normal = distribution if isinstance(distribution, FittedNormal) else None
        return cls("normal" if is_float else "seed", translator.style_dim, given, normal)

    @property
    def codes(self) -> list[list[float]]:
        """The first styles: given ones, those that `fastmunit.translate` draws, or zeros if it draws seeds of noise."""
        if self.kind == "none":
            return []
        if self.given is not None:
            return self.given.codes.flatten(1).tolist()
        if self.kind == "seed":
            return [[0.0] * self.length] * _STYLES
        generator = torch.Generator().manual_seed(_SEED)
        if self.distribution is not None:
            return self.distribution.sample(_STYLES, generator).flatten(1).tolist()
        return torch.randn(_STYLES, self.length, generator=generator).tolist()


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
    directions: Mapping[str, ShownStyles],
    *,
    title: str | None = None,
    samples: Samples | None = None,
    engine: Literal["browser", "server"] = "browser",
) -> dict[str, Any]:
    """Return the content of page.json.

    Args:
        system: System of the model.
        size: Height and width of drawings.
        directions: Styles of each direction.
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
        "styles": {name: styles.codes for name, styles in directions.items()},
        "style_names": {
            name: [styles.given.label(index) for index in range(len(styles.given.names))]
            for name, styles in directions.items()
            if styles.given is not None
        },
        "distributions": {
            name: {"mean": styles.distribution.mean.tolist(), "factor": styles.distribution.factor.tolist()}
            for name, styles in directions.items()
            if styles.distribution is not None
        },
        "samples": {domain: samples.files.get(domain, []) for domain in "ab"},
        "data_license": samples.has_license,
    }
