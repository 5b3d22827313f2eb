"""The command `fastmunit styles nearest`."""

from pathlib import Path
from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.styles.inputs import encode, load, report_failures, require_outputs, require_suffix
from fastmunit.cli.styles.parameters import Inputs, Run, Size, Way


def nearest(
    run: Run,
    photo: Annotated[
        Path, typer.Argument(help="Compare the style of this image of the target domain.", metavar="PHOTO")
    ],
    input: Inputs,
    count: Annotated[int, typer.Option(min=1, help="Show this many.", metavar="N")] = 5,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write a picture of PHOTO and the images.", metavar="FILE"),
    ] = None,
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Print the images or styles whose style codes are nearest to that of a photo.

    [bold]Examples[/bold]

    fastmunit styles nearest runs/shoes boot.jpg --input shoes/ --output nearest.jpg

    fastmunit styles nearest runs/shoes boot.jpg --input bank/bank.safetensors

    Prints the Euclidean distance of the codes and the name, the nearest first.
    """
    from fastmunit.errors import FastmunitError
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.extract import read_target
    from fastmunit.styles.nearest import nearest as nearest_codes
    from fastmunit.translation.contact_sheet import labeled_sheet

    model = load(run, config, which, direction, device)
    translator = model.translator
    if output is not None:
        require_suffix(output, [".jpg", ".jpeg", ".png"])
        require_outputs([output], [photo, *input], model)
    image = read_target(translator, photo, size, max_pixels)
    found = encode(translator, run, input, size, max_pixels)
    if output is not None and not found.paths:
        raise FastmunitError("a styles file has no pictures to show: leave --output out, or give images as --input.")
    neighbors = nearest_codes(found.styles.codes, translator.style_of(image), count)
    for neighbor in neighbors:
        echo(f"{neighbor.distance:8.4f}  {found.styles.label(neighbor.index)}")
    if output is not None:
        images = [read_target(translator, found.paths[each.index], size, max_pixels) for each in neighbors]
        save(labeled_sheet([[image, *images]], ["photo", *(f"{each.distance:.3g}" for each in neighbors)]), output)
        echo(f"Wrote {output}.")
    report_failures(found.failures)
