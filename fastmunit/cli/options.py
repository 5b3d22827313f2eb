"""Options that several commands share."""

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fastmunit.systems import registry

SYSTEMS = ", ".join(registry.names())
"""Names of all systems, for help texts."""


class Direction(str, Enum):
    """The direction of translation between the two domains."""

    a2b = "a2b"
    b2a = "b2a"


class WhichCheckpoint(str, Enum):
    """The checkpoint of a run folder to use."""

    newest = "newest"
    best = "best"


Which = Annotated[
    WhichCheckpoint,
    typer.Option(
        "--which", help="Use the newest checkpoint of a run folder, or the best one by its evaluations (eval_iter)."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Compute on this device: auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps.",
        metavar="NAME",
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**63 - 1, help="Set the seed of all random numbers.", metavar="N")
]
ConfigName = Annotated[
    str | None,
    typer.Option(
        "--config", "-c", help="Use this YAML file, or a name that `fastmunit configs` lists.", metavar="NAME|FILE"
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        help="Refuse images with more pixels than this [179 million, or max_pixels of the configuration].",
        metavar="N",
    ),
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Write into this folder.", metavar="FOLDER")]
_gpu_option = partial(typer.Option, rich_help_panel="Several GPUs")
Devices = Annotated[
    int | None,
    _gpu_option(
        min=1,
        max=1024,
        help="Run in this many processes, each on its own GPU (with --device cpu, on the CPU).",
        metavar="N",
    ),
]
Timeout = Annotated[
    float | None,
    _gpu_option(
        min=1,
        max=10**6,
        help="End with an error when a process waits longer than this for another one [600].",
        metavar="SECONDS",
    ),
]
