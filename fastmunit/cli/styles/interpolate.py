"""The command `fastmunit styles interpolate`."""

from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.style_options import Interpolation
from fastmunit.cli.styles.inputs import (
    Outputs,
    encode,
    load,
    named_contents,
    report_failures,
    require_outputs,
    translations,
)
from fastmunit.cli.styles.parameters import SHEET, STYLES, Contents, Inputs, Run, Size, Way


def interpolate(
    run: Run,
    input: Inputs,
    content: Contents,
    output: OutputFolder,
    count: Annotated[int, typer.Option(min=2, max=10_000, help="Write this many frames.", metavar="N")] = 9,
    interpolation: Annotated[
        Interpolation, typer.Option(help="Move along a straight line, or along an arc around 0.")
    ] = Interpolation.spherical,
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Move from one style to another.

    [bold]Example[/bold]

    fastmunit styles interpolate runs/shoes -i red.jpg -i blue.jpg --content drawing.png --output between

    Writes the frames NAME_000.png, NAME_001.png, ... of each content; sheet.jpg, which shows them side by side; and the
    codes as styles.safetensors.
    """
    from fastmunit import data
    from fastmunit.errors import FastmunitError
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.translation.contact_sheet import labeled_sheet
    from fastmunit.translation.interpolation import interpolate as interpolate_codes
    from fastmunit.translation.style_file import write_styles

    read = [*input, *content]
    model = load(run, config, which, direction, device)
    translator = model.translator
    require_outputs([output / STYLES, output / SHEET], read, model)
    named = named_contents(translator, content, size, max_pixels)
    suffix = ".png" if translator.target_channels <= 4 else ".tif"
    frames = [[output / f"{name}_{index:03d}{suffix}" for index in range(count)] for name, _ in named]
    require_outputs((path for paths in frames for path in paths), read, model)
    found = encode(translator, run, input, size, max_pixels)
    if len(found.styles.codes) != 2:
        report_failures(found.failures)
        raise FastmunitError(
            f"an interpolation needs two styles, got {len(found.styles.codes)}: give two different images."
        )
    first, second = found.styles.codes.split(1)
    try:
        codes = interpolate_codes(first, second, count, interpolation.value)
    except ValueError as error:
        raise FastmunitError(f"{error}.") from error
    places = [f"{place / (count - 1):.2f}" for place in range(count)]
    shared = Outputs(output, "interpolation", "styles", [output / STYLES, output / SHEET], read)
    of_contents = [Outputs(output, name, "frames", paths, read) for (name, _), paths in zip(named, frames, strict=True)]
    write_styles(output / STYLES, codes, places, found.styles.model)
    shared.wrote(output / STYLES)
    rows = []
    for (_, image), paths, outputs in zip(named, frames, of_contents, strict=True):
        rows.append(translations(translator, image, codes))
        for frame, path in zip(rows[-1], paths, strict=True):
            data.save_image(frame, path)
            outputs.wrote(path)
    save(labeled_sheet(rows, places), output / SHEET)
    shared.wrote(output / SHEET)
    echo(f"Wrote {len(rows) * count} frames into {output}, side by side in {output / SHEET}.")
