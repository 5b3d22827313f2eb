"""The command `fastmunit styles mean`."""

from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.styles.inputs import counted, encode, load, report_failures, require_outputs, require_suffix
from fastmunit.cli.styles.parameters import Inputs, OutputFile, Run, Size, Way


def mean(
    run: Run,
    input: Inputs,
    output: OutputFile,
    name: Annotated[
        str | None, typer.Option(help="Set the name of the style [that of the first folder or file].", metavar="TEXT")
    ] = None,
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Write the mean style of images, such as those of one scanner, into a file.

    [bold]Example[/bold]

    fastmunit styles mean runs/stains --input scanner_3/ --output scanner_3.safetensors

    fastmunit translate --checkpoint runs/stains --input slide.tif --output out --styles-file scanner_3.safetensors
    """
    from fastmunit.files import printable, resolved
    from fastmunit.translation.style_file import SUFFIX, write_styles

    model = load(run, config, which, direction, device)
    translator = model.translator
    require_suffix(output, [SUFFIX])
    require_outputs([output], input, model)
    found = encode(translator, run, input, size, max_pixels)
    codes = found.styles.codes
    write_styles(output, codes.mean(0, keepdim=True), [name or printable(resolved(input[0]).stem)], found.styles.model)
    deviation = float(codes.flatten(1).double().var(0, unbiased=False).sum().sqrt())
    echo(f"Wrote {output}: the mean of {counted(len(codes))}, which differ from it by {deviation:.3g} (RMS distance).")
    report_failures(found.failures)
