"""Facts about a checkpoint for its model card: iterations, data, scores, and a sample picture, from its run folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastmunit.config import Config
from fastmunit.errors import FastmunitError
from fastmunit.files import printable
from fastmunit.model_folder.about import About, Metric
from fastmunit.runs.checkpoints.run_folder import RunFolder
from fastmunit.systems.parts.public_checkpoint import DIGITS, is_public

EVALUATION = Path("evaluation/evaluation.json")
"""Scores in a run folder, as `fastmunit evaluate` writes them."""

_MAX_BYTES = 20_000_000


def about_checkpoint(file: Path, config: Config) -> About:
    """Return what is known about a gen_*.pt or ema_*.pt and its run. What cannot be read is left out.

    The picture is samples.png, or else the newest sample grid. The license of the data is a LICENSE.txt next to them.
    Scores of another checkpoint are left out.
    """
    match = re.fullmatch(rf"(?:gen|ema)_({DIGITS})\.pt", file.name, re.ASCII)
    about = About(iterations=int(match[1]) if match else None, public_weights=is_public(file))
    if config.data_root is not None:
        root = Path(config.data_root)
        about.data = root.name
        about.data_license = _existing(root / "LICENSE.txt")
    if file.parent.name == "checkpoints":
        run = RunFolder(file.parent.parent)
        about.title = printable(run.root.resolve().name)
        about.picture = _existing(run.root / "samples.png", *sorted(run.images.glob("gen_*_test_current.jpg")))
        about.metrics = tuple(_metrics(run.root / EVALUATION, file.name))
    return about


def _existing(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _metrics(path: Path, checkpoint: str) -> Iterator[Metric]:
    """Yield the finite scores in an evaluation.json if it is that of the checkpoint."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return
        content = json.loads(path.read_text("utf-8"))
        if Path(content["checkpoint"]).name != checkpoint:
            return
        scores = [(each["direction"], figure) for each in content["evaluations"] for figure in each["figures"]]
        metrics = [_metric(direction, figure) for direction, figure in scores if math.isfinite(figure["value"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, FastmunitError):
        return
    yield from metrics[:1000]


def _metric(direction: str, figure: dict[str, Any]) -> Metric:
    keys = ("name", "value", "low", "high", "better")
    return Metric.model_validate({"direction": direction, **{key: figure[key] for key in keys}})
