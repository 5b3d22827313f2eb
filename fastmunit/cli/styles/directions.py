"""The command `fastmunit styles directions`."""

from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.styles.inputs import (
    Outputs,
    encode,
    load,
    read_contents,
    report_failures,
    require_outputs,
    translations,
)
from fastmunit.cli.styles.parameters import SHEET, Contents, Inputs, Run, Size, Way


def directions(
    run: Run,
    input: Inputs,
    content: Contents,
    output: OutputFolder,
    count: Annotated[
        int | None, typer.Option(min=1, help="Write this many directions [all along which styles vary].", metavar="N")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, max=1000, help="Show this many styles per direction.", metavar="N")] = 7,
    reach: Annotated[
        float, typer.Option(min=0.01, max=100, help="Move this many standard deviations to both sides.", metavar="X")
    ] = 3.0,
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Find the directions along which the styles of images vary most, by principal component analysis.

    [bold]Example[/bold]

    fastmunit styles directions runs/shoes --input shoes/ --content drawing.png --output directions

    Writes per direction a contact sheet of each --content, direction00.jpg, and the codes of its columns,
    direction00.safetensors; sheet.jpg with all directions for the first --content; and directions.json with the mean,
    the directions and their deviations.
    """
    import json

    from fastmunit.files import write_text
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.directions import principal_directions
    from fastmunit.translation.contact_sheet import labeled_sheet
    from fastmunit.translation.style_file import SUFFIX, write_styles

    model = load(run, config, which, direction, device)
    translator = model.translator
    require_outputs([output / SHEET, output / "directions.json"], [*input, *content], model)
    images = read_contents(translator, content, size, max_pixels)
    found = encode(translator, run, input, size, max_pixels)
    result = principal_directions(found.styles.codes, count)
    offsets = [reach * (2 * step / (steps - 1) - 1) for step in range(steps)]
    places = [f"{offset:+.3g} sd" if offset else "mean" for offset in offsets]
    stems = [f"direction{index:02d}" for index in range(len(result.shares))]
    files = [output / f"{stem}{suffix}" for stem in stems for suffix in (".jpg", SUFFIX)]
    require_outputs(files, [*input, *content], model)
    files += [output / SHEET, output / "directions.json"]
    outputs = Outputs(output, "directions", "styles", files, [*input, *content])
    firsts = []
    for index, stem in enumerate(stems):
        codes = result.steps(index, steps, reach)
        rows = [translations(translator, image, codes) for image in images]
        firsts.append(rows[0])
        save(labeled_sheet(rows, places), output / f"{stem}.jpg")
        outputs.wrote(output / f"{stem}.jpg")
        write_styles(output / f"{stem}{SUFFIX}", codes, places, found.styles.model)
        outputs.wrote(output / f"{stem}{SUFFIX}")
    save(labeled_sheet(firsts, places, [f"{share:.1%}" for share in result.shares]), output / SHEET)
    outputs.wrote(output / SHEET)
    report = {
        "mean": result.mean.flatten().tolist(),
        "directions": result.vectors.flatten(1).tolist(),
        "standard_deviations": result.deviations,
        "shares_of_variance": result.shares,
    }
    write_text(output / "directions.json", json.dumps(report, indent=1) + "\n")
    outputs.wrote(output / "directions.json")
    for stem, share, deviation in zip(stems, result.shares, result.deviations, strict=True):
        echo(f"{stem}: {share:.1%} of the variance, standard deviation {deviation:.3g}")
    echo(f"Wrote a contact sheet of each into {output}, all of them in {output / SHEET}.")
    report_failures(found.failures)
