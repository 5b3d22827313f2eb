"""Write an export: trace, write, run and compare each graph, then move the files into place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import fastmunit
from fastmunit.config import Config
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import FastmunitError
from fastmunit.export import onnx, pt2
from fastmunit.export.check import BLANK, BLANK_LIMIT, LIMIT, Run, checked_cases, largest_error
from fastmunit.export.description import (
    DESCRIPTION_FILE,
    Description,
    Format,
    GraphFile,
    Precision,
    is_export,
)
from fastmunit.export.graphs import Graph, graphs_of
from fastmunit.files import printable, require_writable, resolved
from fastmunit.model_folder.config_file import portable
from fastmunit.systems.translators import Translator

SUFFIXES = {"onnx": onnx.SUFFIX, "pt2": pt2.SUFFIX}
_GRAPHS = ("encode_content", "encode_style", "decode", "translate")


def export(
    translator: Translator,
    folder: Path,
    *,
    format: Format = "onnx",
    precision: Precision = "float32",
    limit: float = LIMIT,
) -> Description:
    """Write a translator as files that other runtimes execute, together with export.json.

    Every file is run at three sizes, with three numbers of images or styles, on random and on blank images, and
    compared with the translator. Nothing is left in the folder if a file differs too much.

    Args:
        translator: A translator on the CPU in float32, from `fastmunit.load_translator(..., device="cpu")`.
        folder: Folder to write into. It is created. Files of an earlier export are replaced.
        format: "onnx", or "pt2" for AOTInductor.
        precision: Type of the stored weights. Graphs compute in float32.
        limit: Largest error with float32 weights.

    Raises:
        FastmunitError: If a package is missing, the model cannot be exported, an error exceeds the limit, or a file
            cannot be written.
        ConfigError: If a value range of the configuration is "auto".
    """
    if format == "pt2" and precision != "float32":
        raise FastmunitError(f"pt2 files have float32 weights, not {precision}: leave precision out, or choose onnx.")
    config = _exportable_config(translator)
    _require_free(folder, format)
    cases = checked_cases(translator, config)
    description = Description(
        format=format,
        fastmunit=fastmunit.__version__,
        system=config.system,
        direction=translator.direction or "a2b",  # type: ignore[arg-type]
        channels=(translator.channels, translator.target_channels),
        multiple=translator.multiple,
        min_size=translator.min_size,
        style_dim=translator.style_dim,
        styles=_kind_of_styles(translator),
        dropout_rate=translator.dropout_rate,
        model_digest=translator.digest(),
        precision=precision,
        checked=cases,
        graphs={},
        config=portable(config).model_dump(mode="json", exclude_none=True),
    )
    with folder_beside(folder) as partial:
        files = {}
        for graph in graphs_of(translator):
            path = partial / f"{graph.name}{SUFFIXES[format]}"
            write = _write_onnx if format == "onnx" else _write_pt2
            files[graph.name] = write(graph, translator, path, description, limit)
        description = description.model_copy(update={"graphs": files})
        description.write(partial)
        _move(partial, folder)
    return description


def _write_onnx(graph: Graph, translator: Translator, path: Path, about: Description, limit: float) -> GraphFile:
    model = onnx.build(graph, translator)
    onnx.save(model, path, {})
    error, blank_error = _checked(graph, onnx.OnnxGraph(path), about, limit)
    weights_error = None
    if about.precision != "float32":
        onnx.pack(model, about.precision)
        onnx.save(model, path, {})
        weights_error = largest_error(graph, onnx.OnnxGraph(path), about.checked)
        _require_small(weights_error, 1.0, graph)  # reported, not judged; NaN and a broken graph are refused
    file = GraphFile(
        file=path.name,
        inputs=graph.inputs,
        output=graph.output,
        error=error,
        blank_error=blank_error,
        weights_error=weights_error,
    )
    onnx.save(model, path, _metadata(about, file))
    return file


def _write_pt2(graph: Graph, translator: Translator, path: Path, about: Description, limit: float) -> GraphFile:
    pt2.compile_to(graph, translator, path)
    error, blank_error = _checked(graph, pt2.Pt2Graph(path), about, limit)
    return GraphFile(file=path.name, inputs=graph.inputs, output=graph.output, error=error, blank_error=blank_error)


def _checked(graph: Graph, run: Run, about: Description, limit: float) -> tuple[float, float]:
    """Return the errors of a file with float32 weights on random and on blank images, which must be within limits."""
    error = largest_error(graph, run, about.checked)
    _require_small(error, limit, graph)
    blank_error = largest_error(graph, run, about.checked, BLANK)
    _require_small(blank_error, max(limit, BLANK_LIMIT), graph)
    return error, blank_error


def _metadata(about: Description, file: GraphFile) -> dict[str, Any]:
    """Return what a file says about itself: the description of the export, and of this graph."""
    shared = about.model_dump(mode="json", exclude={"graphs", "format"})
    return {**shared, **file.model_dump(mode="json", exclude={"file"})}


def _require_small(error: float, limit: float, graph: Graph) -> None:
    if not error <= limit:  # NaN too
        raise FastmunitError(
            f"{graph.name} differs from PyTorch by {error:.1e}, more than {limit:.1e}: nothing was written. Please "
            "report this with the versions that `fastmunit info` prints."
        )


def _exportable_config(translator: Translator) -> Config:
    """Return the configuration of a translator that can be exported."""
    if translator.config is None:
        raise FastmunitError(
            f"expected a translator with a configuration, got a {type(translator).__name__} without one: load a run "
            "folder with fastmunit.load_translator, or set the config of a translator of your own."
        )
    if translator.dtype != torch.float32 or translator.device.type != "cpu" or translator.precision != "float32":
        raise FastmunitError(
            f"expected a translator in float32 on the CPU, got {translator.dtype} on {translator.device}, precision "
            f'{translator.precision}: load it with fastmunit.load_translator(..., device="cpu").'
        )
    PixelValues.require_numbers(translator.config)
    return translator.config


def _kind_of_styles(translator: Translator) -> Any:
    if not translator.style_dim:
        return "none"
    return "normal" if translator.random_styles(1, torch.Generator()).is_floating_point() else "seed"


def _require_free(folder: Path, format: Format) -> None:
    """Check that the folder can be written and that no file of somebody else would be replaced."""
    require_writable(folder / DESCRIPTION_FILE)
    if folder.is_dir() and not is_export(folder):
        taken = [f"{name}{SUFFIXES[format]}" for name in _GRAPHS]
        for name in taken:
            if (folder / name).exists():
                raise FastmunitError(
                    f"{printable(folder / name)} exists and is not from `fastmunit export`: choose another folder."
                )


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Create a temporary folder on the same disk, and remove it at the end."""
    folder = resolved(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:40]}.", suffix=".partial"))
    except OSError as error:
        raise FastmunitError(f"cannot write {printable(folder)}: {error.strerror}.") from error
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, folder: Path) -> None:
    """Replace the files of an earlier export. If that fails, they are put back.

    The description is moved last, and removed first.
    """
    earlier = partial / "earlier"
    names = [f"{name}{suffix}" for suffix in SUFFIXES.values() for name in _GRAPHS]
    written = sorted((path.name for path in partial.iterdir()), key=lambda name: name == DESCRIPTION_FILE)
    placed = list[str]()
    try:
        folder.mkdir(exist_ok=True)
        earlier.mkdir()
        for name in (DESCRIPTION_FILE, *names):
            if (folder / name).exists():
                (folder / name).replace(earlier / name)
        for name in written:
            (partial / name).replace(folder / name)
            placed.append(name)
    except OSError as error:
        with suppress(OSError):
            for name in placed:
                (folder / name).unlink()
            for path in sorted(earlier.iterdir(), key=lambda path: path.name == DESCRIPTION_FILE):
                path.replace(folder / path.name)
        raise FastmunitError(f"cannot write {printable(folder)}: {error.strerror}.") from error
