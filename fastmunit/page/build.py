"""Write a page: the model as ONNX files, the engine that runs them, sample pictures, and the page itself."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

import fastmunit
from fastmunit.config import Config
from fastmunit.errors import FastmunitError
from fastmunit.export.description import DESCRIPTION_FILE, Description, read_description
from fastmunit.export.write import export
from fastmunit.files import printable, require_writable, write_text
from fastmunit.page.engine_files import copy_engine
from fastmunit.page.samples import write_samples
from fastmunit.systems import registry
from fastmunit.translation.translate import find_checkpoint, load_translator

SETTINGS_FILE = "page.json"
_MODELS = "models"
_STYLES = 12
_SEED = 0
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Page:
    """What was written.

    Attributes:
        directions: Directions that the page translates.
        size: Total size of the files in bytes.
    """

    directions: list[str]
    size: int


def build(
    run: Path,
    output: Path,
    *,
    config: str | None = None,
    engine: Path | None = None,
    title: str | None = None,
) -> Page:
    """Write a page that translates drawings with a trained model in the visitor's browser.

    Args:
        run: Run folder, gen_*.pt, or a folder that `fastmunit export --to onnx` has written. The last has one
            direction; all others have both if the system translates in both.
        output: Folder to write into. It is replaced if it is an earlier page.
        config: Configuration of a gen_*.pt that has no config.yaml next to it.
        engine: Folder with onnxruntime-web. None downloads it with npm.
        title: Title of the page.

    Raises:
        FastmunitError: If the model cannot be used or exported, the engine is missing, or a file cannot be written.
    """
    _require_free(output)
    file, settings = find_checkpoint(run, config)
    if not set(settings.channels("a2b")) <= set(_CHANNELS):
        raise FastmunitError(
            f"the page shows gray and RGB images, but the model has {settings.channels('a2b')} channels: use "
            "`fastmunit translate`."
        )
    with _folder_beside(output) as partial:
        copy_engine(partial / "engine", engine)
        models = _write_models(partial, file, settings)
        size = _size(settings, models)
        samples = write_samples(partial, settings, size)
        _copy_static(partial)
        values = {
            "title": title or "Draw, and see it translated",
            "fastmunit": fastmunit.__version__,
            "system": settings.system,
            "size": size,
            "directions": [
                {
                    "name": name,
                    "folder": f"{_MODELS}/{name}",
                    "colors": [samples.papers[name[0]], samples.inks[name[0]]],
                }
                for name in models
            ],
            "styles": {name: _styles(model) for name, model in models.items()},
            "samples": samples.files,
            "data_license": samples.has_license,
        }
        write_text(partial / SETTINGS_FILE, json.dumps(values, indent=1) + "\n")
        _replace(output, partial)
    total = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Page(list(models), total)


def _write_models(page: Path, file: Path, settings: Config) -> dict[str, Description]:
    """Export each direction into the page, or copy an export."""
    if file.name == DESCRIPTION_FILE:
        description = read_description(file.parent)
        if description.format != "onnx":
            raise FastmunitError(f"{printable(file.parent)} has {description.format} files: export with --to onnx.")
        target = page / _MODELS / description.direction
        target.mkdir(parents=True)
        for name in (DESCRIPTION_FILE, *(graph.file for graph in description.graphs.values())):
            shutil.copyfile(file.parent / name, target / name)
        return {description.direction: description}
    models = {}
    for direction in registry.system_of(settings).directions:
        translator = load_translator(file, settings, direction=direction, device="cpu")
        models[direction] = export(translator, settings, page / _MODELS / direction)
    return models


def _size(settings: Config, models: dict[str, Description]) -> tuple[int, int]:
    """Return height and width of drawings: the size of the training's crops, as the networks need it."""

    def usable(side: int) -> int:
        for model in models.values():
            side = -(-max(side, model.min_size) // model.multiple) * model.multiple
        return side

    return usable(settings.crop_image_height), usable(settings.crop_image_width)


def _styles(model: Description) -> list[list[float]]:
    """Return the first style codes of `fastmunit.translate`, or codes of zeros that stand for seeds."""
    if model.styles == "none":
        return []
    if model.styles == "seed":
        return [[0.0] * model.style_dim] * _STYLES
    codes = torch.randn(_STYLES, model.style_dim, generator=torch.Generator().manual_seed(_SEED))
    return [[round(value, 6) for value in code] for code in codes.tolist()]


def _copy_static(page: Path) -> None:
    for source in (resources.files("fastmunit.page") / "static").iterdir():
        (page / source.name).write_bytes(source.read_bytes())


def _require_free(output: Path) -> None:
    """Check that the folder can be written, and is new, empty or an earlier page."""
    require_writable(output / SETTINGS_FILE)
    if output.is_dir() and any(output.iterdir()) and not (output / SETTINGS_FILE).is_file():
        raise FastmunitError(f"{printable(output)} is not empty and no page of fastmunit: choose another folder.")


@contextmanager
def _folder_beside(folder: Path) -> Iterator[Path]:
    """Create a temporary folder on the same disk, and remove it at the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:40]}.", suffix=".partial"))
        partial.chmod(0o755)
        yield partial
    except OSError as error:
        raise FastmunitError(f"cannot write {printable(folder)}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(output: Path, partial: Path) -> None:
    """Move the new page to its place, and remove an earlier one."""
    if output.exists():
        earlier = partial.with_name(f"{partial.name}.earlier")
        output.rename(earlier)
        partial.rename(output)
        shutil.rmtree(earlier, ignore_errors=True)
    else:
        partial.rename(output)
