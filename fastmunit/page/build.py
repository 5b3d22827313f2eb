"""Write a page: the model as ONNX files, the engine that runs them, sample pictures, and the page itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from fastmunit.config import Config
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import FastmunitError
from fastmunit.export.description import DESCRIPTION_FILE, Description, is_export, read_description
from fastmunit.export.write import export, folder_beside
from fastmunit.files import printable, require_writable, write_text
from fastmunit.page.engine_files import copy_engine
from fastmunit.page.samples import sample_files
from fastmunit.page.settings import MODELS, SETTINGS_FILE, SHOWN_CHANNELS, STATIC, ShownStyles, page_settings
from fastmunit.systems.translators import Translator
from fastmunit.translation.output_record import OutputRecord
from fastmunit.translation.styles import styles_by_direction
from fastmunit.translation.translate import Which, directions_of, find_checkpoint, load_translator

_RECORDED = "page", "page"
"""Name and kind of the files of a page in the record of its folder."""
_MAX_SETTINGS = 10_000_000


@dataclass(frozen=True)
class Page:
    """A page that was written.

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
    which: Which = "newest",
    styles: Path | None = None,
) -> Page:
    """Write a page that translates drawings with a trained model in the visitor's browser.

    Args:
        run: Run folder, gen_*.pt, folder or name of a model, or a folder that `fastmunit export --to onnx` has written.
            The last has one direction; all others have those of the model.
        output: Folder to write into. It is new, empty or an earlier page, whose files are replaced; others in it stay.
        config: Configuration of a gen_*.pt that has no config.yaml next to it.
        engine: Folder with onnxruntime-web. None downloads it with npm.
        title: Title of the page.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).
        styles: Style file whose styles the wall begins with, in the direction that the file names.

    Raises:
        FastmunitError: If the model cannot be used or exported, the engine is missing, or a file cannot be written.
    """
    _require_free(output)
    if is_export(run):
        file, settings = run / DESCRIPTION_FILE, read_description(run).settings()
    else:
        file, settings = find_checkpoint(run, config, which=which)
    if not set(settings.channels("a2b")) <= SHOWN_CHANNELS:
        raise FastmunitError(
            f"the page shows gray and RGB images, but the model has {settings.channels('a2b')} channels: use "
            "`fastmunit translate`."
        )
    require_bytes(settings)
    try:
        with folder_beside(output) as partial:
            page = partial / "page"
            page.mkdir()
            directions = _write(page, file, settings, engine, title, styles)
            size = _move(page, output)
    except OSError as error:
        raise FastmunitError(f"cannot write {printable(output)}: {error.strerror or error}.") from error
    return Page(directions, size)


def _write(
    page: Path, file: Path, settings: Config, engine: Path | None, title: str | None, styles: Path | None
) -> list[str]:
    """Write the files of a page into an empty folder. Return its directions."""
    given = {} if styles is None else styles_by_direction(styles, _translators(file, settings))
    copy_engine(page / "engine", engine)
    models = _write_models(page, file, settings)
    size = _size(settings, models)
    samples = sample_files(settings, size)
    samples.write(page)
    for source in STATIC.iterdir():
        shutil.copyfile(source, page / source.name)
    directions = {name: ShownStyles(model.styles, model.style_dim, given.get(name)) for name, model in models.items()}
    values = page_settings(settings.system, size, directions, title=title, samples=samples.samples)
    write_text(page / SETTINGS_FILE, json.dumps(values, indent=1) + "\n")
    return sorted(models)


def _move(page: Path, output: Path) -> int:
    """Replace the files of an earlier page by those of a new one. Return their size in bytes.

    The record of an earlier page tells its files from those that the user has added, which stay.
    """
    names = [path.relative_to(page) for path in sorted(page.rglob("*")) if path.is_file()]
    output.mkdir(exist_ok=True)
    record = OutputRecord(output)
    record.start(*_RECORDED, [output / name for name in names])
    for name in names:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).replace(output / name)
        record.add(*_RECORDED, output / name)
    return sum((output / name).stat().st_size for name in names)


def _write_models(page: Path, file: Path, settings: Config) -> dict[str, Description]:
    """Export each direction into the page, or copy an export."""
    if file.name == DESCRIPTION_FILE:
        description = read_description(file.parent)
        if description.format != "onnx":
            raise FastmunitError(f"{printable(file.parent)} has {description.format} files: export with --to onnx.")
        target = page / MODELS / description.direction
        target.mkdir(parents=True)
        for name in (DESCRIPTION_FILE, *(graph.file for graph in description.graphs.values())):
            shutil.copyfile(file.parent / name, target / name)
        return {description.direction: description}
    translators = _translators(file, settings)
    return {name: export(translator, page / MODELS / name) for name, translator in translators.items()}


def _translators(file: Path, settings: Config) -> dict[str, Translator]:
    """Load the translator of each direction."""
    if file.name == DESCRIPTION_FILE:
        translator = load_translator(file.parent, device="cpu")
        return {translator.direction or "a2b": translator}
    directions = directions_of(file, settings)
    return {name: load_translator(file, settings, direction=name, device="cpu") for name in directions}


def _size(settings: Config, models: dict[str, Description]) -> tuple[int, int]:
    """Return height and width of drawings: the size of the training's crops, as the networks need it."""

    def usable(side: int) -> int:
        for model in models.values():
            side = -(-max(side, model.min_size) // model.multiple) * model.multiple
        return side

    return usable(settings.crop_image_height), usable(settings.crop_image_width)


def require_bytes(settings: Config) -> None:
    """Check that 8-bit values, which a browser's pictures have, are those of the training in both domains.

    Raises:
        FastmunitError: If a domain has another value range, or its images are several slices.
    """
    for domain in "ab":
        values = PixelValues.of(settings, domain)
        if not values.are_bytes:
            raise FastmunitError(
                f"the page shows 8-bit pictures, but domain {domain.upper()} of the model has a value range "
                f"(value_range_{domain}, window_{domain}) or slices: use `fastmunit translate`."
            )


def _require_free(output: Path) -> None:
    """Check that the folder can be written, and is new, empty or an earlier page."""
    require_writable(output / SETTINGS_FILE)
    if output.is_dir() and any(output.iterdir()) and not _is_page(output):
        raise FastmunitError(f"{printable(output)} is not empty and no page of fastmunit: choose another folder.")


def _is_page(folder: Path) -> bool:
    """Return True if a folder has the page.json of a page. Others use that name, too."""
    file = folder / SETTINGS_FILE
    try:
        if not file.is_file() or file.stat().st_size > _MAX_SETTINGS:
            return False
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and "fastmunit" in values
