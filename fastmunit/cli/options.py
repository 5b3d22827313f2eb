"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Optional

import typer

Device = Annotated[
    str, typer.Option(help="auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps.", metavar="NAME")
]
SystemName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="munit, unit, cyclegan or bicyclegan; without --config, its usual recipe.", metavar="NAME"),
]
Seed = Annotated[Optional[int], typer.Option(min=0, max=2**63 - 1, help="Seed of every random draw.", metavar="N")]  # noqa: UP045
ConfigName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--config", "-c", help="A YAML file, or a name that `fastmunit configs` lists.", metavar="NAME|FILE"),
]
MaxPixels = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--max-pixels",
        min=1,
        help="Refuse images with more pixels than this [179 million, or max_pixels of the configuration].",
        metavar="N",
    ),
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="The folder to write into.", metavar="FOLDER")]
Devices = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1,
        max=1024,
        help="Run in this many processes, each on a GPU of its own (with --device cpu, on the CPU).",
        metavar="N",
        rich_help_panel="Several GPUs",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=1,
        max=10**6,
        help="Seconds that a process waits for another one before it ends with an error.",
        metavar="SECONDS",
        rich_help_panel="Several GPUs",
    ),
]
