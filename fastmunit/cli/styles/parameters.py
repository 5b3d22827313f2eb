"""Parameters that several commands about styles share, and the names of files that they write."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fastmunit.cli.options import Direction

MAX_CONTENTS = 8

Run = Annotated[
    Path,
    typer.Argument(help="Use this gen_*.pt, the newest of a run folder, or this model.", metavar="RUN"),
]
Inputs = Annotated[
    list[Path],
    typer.Option(
        "--input",
        "-i",
        help="Use the styles of this image of the target domain, of those in this folder, or of this styles file; "
        "repeat for more images.",
        metavar="IMAGE|FOLDER|FILE",
    ),
]
Contents = Annotated[
    list[Path],
    typer.Option(
        "--content",
        help="Translate this image of the source domain, or those in this folder; repeat for more. Only the first "
        f"{MAX_CONTENTS} are used.",
        metavar="IMAGE|FOLDER",
    ),
]
OutputFile = Annotated[Path, typer.Option("--output", "-o", help="Write this file.", metavar="FILE")]
Way = Annotated[
    Direction | None,
    typer.Option(help="Use the styles of domain B (a2b), or of domain A (b2a) [a2b, or what the model has]."),
]
Size = Annotated[
    int | None,
    typer.Option(min=1, help="Resize the shortest side of images to this first (kept by default).", metavar="PIXELS"),
]
seed_option = partial(typer.Option, min=0, help="Set the seed.", metavar="N")

STYLES, BANK, SHEET = "styles.safetensors", "bank.safetensors", "sheet.jpg"
PAGE, FIGURES = "distribution.html", "distribution.json"
