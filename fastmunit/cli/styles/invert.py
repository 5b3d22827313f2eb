"""The command `fastmunit styles invert`."""

from pathlib import Path
from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, Direction, MaxPixels, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.style_options import encoding_bar
from fastmunit.cli.styles.inputs import load, lpips, model_name, require_outputs
from fastmunit.cli.styles.parameters import SHEET, STYLES, Run, Size, Way, seed_option


def invert(
    run: Run,
    photo: Annotated[Path, typer.Argument(help="Find the style of this image of the target domain.", metavar="PHOTO")],
    output: OutputFolder,
    content: Annotated[
        Path | None,
        typer.Option(
            help="Take the content from this image of the source domain, as large as PHOTO [that of PHOTO itself, "
            "which a system without content codes does not have].",
            metavar="IMAGE",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=10**6, help="Take this many steps.", metavar="N")] = 100,
    starts: Annotated[
        int, typer.Option(min=1, max=1000, help="Start from the encoder's style and from random ones.", metavar="N")
    ] = 4,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder with alexnet_features.pth for LPIPS [FASTMUNIT_WEIGHTS, else L1 alone is minimized].",
            metavar="FOLDER",
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
    """Find the style of a photo by optimization, where the encoder misses it.

    [bold]Example[/bold]

    fastmunit styles invert runs/shoes boot.jpg --output boot

    Minimizes L1 + LPIPS of the reconstruction of the photo from its own content. Prints both distances with the
    encoder's style and with the one that was found, and writes the latter as styles.safetensors, and sheet.jpg with
    the photo and the two reconstructions.
    """
    from fastmunit.files import printable
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.extract import read_source, read_target
    from fastmunit.styles.inversion import content_of, own_content, require_content_codes
    from fastmunit.styles.inversion import invert as invert_photo
    from fastmunit.translation.contact_sheet import labeled_sheet
    from fastmunit.translation.style_file import StyleModel, write_styles

    model = load(run, config, which, direction, device)
    translator = model.translator
    require_outputs([output / STYLES, output / SHEET], [photo, *([] if content is None else [content])], model)
    image = read_target(translator, photo, size, max_pixels)
    if content is not None:
        code = content_of(translator, read_source(translator, content, size, max_pixels), image)
    else:
        require_content_codes(translator)
        other = "b2a" if translator.direction == "a2b" else "a2b"
        code = own_content(load(run, config, which, Direction(other), device).translator, image)
    measure = lpips(weights, translator)
    with encoding_bar("inverting") as advance:
        result = invert_photo(
            translator, image, code, lpips=measure, steps=steps, starts=starts, seed=seed, advance=advance
        )
    name = printable(photo.stem)
    write_styles(output / STYLES, result.code, [name], StyleModel.of(translator, model_name(run)))
    columns = ["photo", "encoder", "inverted"]
    save(labeled_sheet([[image, result.before, result.after]], columns), output / SHEET)
    before, after = result.distance_before, result.distance_after
    echo(f"L1     {before.l1:.4f} with the style of the encoder, {after.l1:.4f} after {steps} steps")
    if before.lpips is not None:
        echo(f"LPIPS  {before.lpips:.4f} with the style of the encoder, {after.lpips:.4f} after {steps} steps")
    echo(f"Wrote {output / STYLES} and {output / SHEET}.")
