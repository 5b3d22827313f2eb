"""The command `fastmunit styles extract`."""

from fastmunit.cli.options import ConfigName, Device, MaxPixels, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.styles.inputs import counted, encode, load, report_failures, require_outputs, require_suffix
from fastmunit.cli.styles.parameters import Inputs, OutputFile, Run, Size, Way


def extract(
    run: Run,
    input: Inputs,
    output: OutputFile,
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Write the style codes of images into one file.

    [bold]Example[/bold]

    fastmunit styles extract runs/shoes --input shoes/ --output shoes.safetensors

    fastmunit translate --checkpoint runs/shoes --input drawing.png --output out --styles-file shoes.safetensors

    The file has a code and a name per image, and names the model: other models refuse it. Images that cannot be read
    are left out and listed at the end.
    """
    from fastmunit.translation.style_file import SUFFIX, write_styles

    model = load(run, config, which, direction, device)
    translator = model.translator
    require_suffix(output, [SUFFIX])
    require_outputs([output], input, model)
    found = encode(translator, run, input, size, max_pixels)
    write_styles(output, found.styles.codes, found.styles.names, found.styles.model)
    echo(f"Wrote {output}: {counted(len(found.styles.codes))} of {translator.style_dim} numbers each.")
    report_failures(found.failures)
