"""The command `fastmunit styles distribution`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.style_options import encoding_bar
from fastmunit.cli.styles.inputs import encode, load, model_name, report_failures, require_outputs
from fastmunit.cli.styles.parameters import FIGURES, PAGE, STYLES, Run, Size, Way, seed_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastmunit.data.failures import Failure


def distribution(
    run: Run,
    output: OutputFolder,
    input: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            "-i",
            help="Use the styles of these images, or of this styles file [the training images of the target domain].",
            metavar="IMAGE|FOLDER|FILE",
        ),
    ] = None,
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    seed: Annotated[int, seed_option(max=2**63 - 1)] = 0,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Check if encoded styles are distributed like the random ones, which are drawn from N(0, I).

    [bold]Example[/bold]

    fastmunit styles distribution runs/shoes --output distribution

    fastmunit translate --checkpoint runs/shoes -i a.png -o out --style-distribution distribution/styles.safetensors

    Nothing in the training of MUNIT enforces that directly. Writes distribution.html, a page with a histogram and tests
    of each dimension and two tests of all dimensions together; distribution.json with their figures; and the codes as
    styles.safetensors, for --style-distribution.
    """
    import json

    from fastmunit.files import printable, write_text
    from fastmunit.styles.distribution import check_distribution
    from fastmunit.styles.distribution_page import render, summary
    from fastmunit.styles.extract import training_styles
    from fastmunit.translation.style_file import write_styles

    model = load(run, config, which, direction, device)
    translator = model.translator
    require_outputs([output / PAGE, output / FIGURES, output / STYLES], input or [], model)
    failures: Sequence[Failure] = ()
    if input:
        found = encode(translator, run, input, size, max_pixels)
        codes, failures = found.styles, found.failures
        source = ", ".join(map(printable, input))
    else:
        with encoding_bar() as advance:
            codes = training_styles(translator, model.settings, name=model_name(run), advance=advance)
        source = "training images"
    check = check_distribution(codes.codes, seed)
    facts = {
        "model": model_name(run),
        "direction": translator.direction or "a2b",
        "styles": f"{check.count} from {source}",
    }
    write_text(output / PAGE, render(codes.codes, check, facts))
    write_text(output / FIGURES, json.dumps({**facts, "seed": seed, **check.to_dict()}, indent=1) + "\n")
    write_styles(output / STYLES, codes.codes, codes.names, codes.model)
    for line in summary(check):
        echo(line)
    echo(f"Look at {output / PAGE}; all figures are in {output / FIGURES}.")
    report_failures(failures)
