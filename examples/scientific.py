"""The parts that the examples with slides, volumes and scenes share: training, `fastmunit translate`, pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import fastmunit
from fastmunit import Config
from fastmunit.errors import FastmunitError
from fastmunit.runs import ProgressBar

RECIPE = Path(__file__).with_name("scientific.yaml")
_GAP, _CAPTION = 6, 22


def needed(module: str, package: str) -> ModuleType:
    """Import a module. Raises FastmunitError with the command that installs its package if it is absent."""
    try:
        __import__(module)
    except ImportError as error:
        raise FastmunitError(f"this example needs {package}: pip install {package} ({error}).") from error
    return sys.modules[module]


def train(folder: Path, minutes: float, seed: int, changes: Mapping[str, Any], recipe: str | Path = RECIPE) -> Path:
    """Train on the files in trainA and trainB of a folder, or train on after an earlier call. Return the run folder.

    Args:
        folder: Folder with the data, which gets the run folder `run`.
        minutes: Time of this training.
        seed: Seed of weights, crops and styles.
        changes: Keys of the configuration that differ from the recipe, such as gen.dim.
        recipe: A YAML file, or the name of a shipped configuration.
    """
    folders = {
        f"data_folder_{part}_{domain}": str(folder / f"train{domain.upper()}")
        for part in ("train", "test")
        for domain in "ab"
    }
    settings = {**changes, **folders, "seed": seed}
    config = Config.load(recipe, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    run = folder / "run"
    result = fastmunit.train(config, run, time_limit=60 * minutes, resume=True, callbacks=[ProgressBar(timed=True)])
    if result.interrupted:
        raise SystemExit(130)  # the exit status of Ctrl-C in a shell
    print(f"{run}: {result.iterations:,} iterations.")
    return run


def translate(run: Path, image: Path, output: Path, *options: str) -> list[Path]:
    """Translate a file with the command `fastmunit translate`, which is printed. Return its outputs in their order.

    Raises:
        FastmunitError: If the command fails.
    """
    arguments = ["translate", "--checkpoint", str(run), "--input", str(image), "--output", str(output), *options]
    print("fastmunit", *arguments, flush=True)
    if subprocess.run([sys.executable, "-m", "fastmunit", *arguments], check=False).returncode:
        raise FastmunitError(f"{image} was not translated: see the message above.")
    return sorted(path for path in output.iterdir() if path.name.startswith(f"{image.name.split('.')[0]}_"))


def gray(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Convert values (H, W) to RGB (H, W, 3) uint8: black at `low`, white at `high`."""
    scaled = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return np.repeat(np.rint(255 * np.nan_to_num(scaled)).astype(np.uint8)[..., None], 3, axis=2)


def save_panels(path: Path, rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> None:
    """Write a picture with panels of equal size (H, W, 3) in rows, and one caption per column at the top."""
    height, width = rows[0][0].shape[:2]
    size = (len(captions) * (width + _GAP) - _GAP, _CAPTION + len(rows) * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, caption in enumerate(captions):
        left = column * (width + _GAP)
        draw.text((left + 2, 2), caption, "black", font)
        for row, panels in enumerate(rows):
            sheet.paste(Image.fromarray(panels[column]), (left, _CAPTION + row * (height + _GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=88)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation of two arrays of equal shape."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
