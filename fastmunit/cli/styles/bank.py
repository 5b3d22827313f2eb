"""The command `fastmunit styles bank`."""

from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.styles.inputs import (
    Outputs,
    counted,
    encode,
    load,
    read_contents,
    report_failures,
    require_outputs,
    translations,
)
from fastmunit.cli.styles.parameters import BANK, SHEET, Contents, Inputs, Run, Size, Way, seed_option


def bank(
    run: Run,
    input: Inputs,
    output: OutputFolder,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Set the number of styles.", metavar="N")] = 8,
    content: Contents = [],  # noqa: B006 - typer copies it
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    seed: Annotated[int, seed_option(max=2**32 - 1)] = 0,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Choose a few styles that stand for those of many images, by k-means.

    [bold]Example[/bold]

    fastmunit styles bank runs/shoes --input shoes/ --output bank --count 8 --content drawing.png

    Writes bank.safetensors with the center of each cluster, the largest first, named after its medoid, the image next
    to the center; bank.json with the images of each cluster; and sheet.jpg with the medoids and --content in each
    style.
    """
    import json

    from fastmunit.files import write_text
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.bank import make_bank
    from fastmunit.styles.extract import read_target
    from fastmunit.translation.contact_sheet import labeled_sheet
    from fastmunit.translation.style_file import write_styles

    model = load(run, config, which, direction, device)
    translator = model.translator
    require_outputs([output / BANK, output / "bank.json", output / SHEET], [*input, *content], model)
    images = read_contents(translator, content, size, max_pixels)
    found = encode(translator, run, input, size, max_pixels)
    result = make_bank(found.styles.codes, count, seed)
    names = [found.styles.label(medoid) for medoid in result.medoids]
    members = [
        [found.styles.label(index) for index in (result.labels == cluster).nonzero().flatten().tolist()]
        for cluster in range(count)
    ]
    report = [
        {"medoid": name, "size": size, "images": images}
        for name, size, images in zip(names, result.sizes, members, strict=True)
    ]
    medoids = [read_target(translator, found.paths[k], size, max_pixels) for k in result.medoids] if found.paths else []
    rows = ([medoids] if medoids else []) + [translations(translator, image, result.codes) for image in images]
    files = [output / BANK, output / "bank.json", *([output / SHEET] if rows else [])]
    outputs = Outputs(output, "bank", "styles", files, [*input, *content])
    write_styles(output / BANK, result.codes, names, found.styles.model)
    outputs.wrote(output / BANK)
    write_text(output / "bank.json", json.dumps(report, indent=1) + "\n")
    outputs.wrote(output / "bank.json")
    if rows:
        labels = ["medoid"] * bool(medoids) + [""] * len(images)
        save(labeled_sheet(rows, [f"n = {number}" for number in result.sizes], labels), output / SHEET)
        outputs.wrote(output / SHEET)
    written = f", {output / SHEET}" if rows else ""
    echo(
        f"Wrote {output / BANK}{written} and {output / 'bank.json'}: {counted(count)} for {len(result.labels)} images."
    )
    report_failures(found.failures)
