"""The command `fastmunit export`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Direction, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo


class Target(str, Enum):
    """The kind of files to write."""

    onnx = "onnx"
    pt2 = "pt2"
    folder = "folder"


class StoredPrecision(str, Enum):
    """The type of weights in an exported file."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


def export(
    run: Annotated[Path, typer.Argument(help="Run folder, a gen_*.pt, or a model.", metavar="RUN")],
    to: Annotated[Target, typer.Option(help="Write ONNX files, packages of AOTInductor (pt2), or a model folder.")],
    output: OutputFolder,
    direction: Annotated[
        Direction | None,
        typer.Option(
            help="Export the translation of domain A to B (a2b), or back (b2a) [a2b; a model folder has both]."
        ),
    ] = None,
    precision: Annotated[
        StoredPrecision,
        typer.Option(
            help="Store weights in this type. Everything is computed in float32. pt2 has float32 only, and a model "
            "folder no int8."
        ),
    ] = StoredPrecision.float32,
    which: Which = WhichCheckpoint.newest,
    config: ConfigName = None,
) -> None:
    """Write a trained model as files that run without PyTorch, or as a model folder that is easy to share.

    [bold]Example[/bold]

    fastmunit export runs/shoes --to onnx --output shoes

    fastmunit translate --checkpoint shoes --input drawing.png --output out

    Writes encode_content.onnx, encode_style.onnx and decode.onnx, or translate.onnx if the system has no content codes,
    and export.json, which describes inputs, sizes and values. Each file is run at three sizes with three numbers of
    images or styles. The largest difference from PyTorch is printed and stored in the file; if it is more than 1e-4
    with float32 weights, nothing is written. A model folder has model.safetensors, config.json and a card, README.md.
    """
    if to is Target.folder:
        _write_folder(run, output, config, which, direction, precision)
        return
    from fastmunit.export.write import export as write
    from fastmunit.translation.translate import load_translator

    way = None if direction is None else direction.value
    translator = load_translator(run, config, direction=way, device="cpu", which=which.value)
    description = write(translator, output, format=to.value, precision=precision.value)
    for graph in description.graphs.values():
        size = (output / graph.file).stat().st_size / 1000
        rounded = "" if graph.weights_error is None else f", {graph.weights_error:.1e} with {precision.value} weights"
        echo(f"{graph.file}: {size:,.0f} kB, differs from PyTorch by at most {graph.error:.1e}{rounded}")
    echo(f"Wrote {output}. Translate with it: fastmunit translate --checkpoint {output} --input IMAGE --output FOLDER")


def _write_folder(
    run: Path,
    output: Path,
    config: str | None,
    which: WhichCheckpoint,
    direction: Direction | None,
    precision: StoredPrecision,
) -> None:
    from fastmunit.translation.save_model import save_model

    if precision is StoredPrecision.int8:
        raise typer.BadParameter("a model folder has float32 or float16 weights, not int8")
    save_model(
        run,
        output,
        config=config,
        which=which.value,
        direction=None if direction is None else direction.value,
        dtype="float16" if precision is StoredPrecision.float16 else None,
    )
    echo(f"Wrote {output}. Translate with it: fastmunit translate --checkpoint {output} --input IMAGE --output FOLDER")
