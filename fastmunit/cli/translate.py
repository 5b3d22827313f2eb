"""`fastmunit translate`."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, OutputFolder
from fastmunit.cli.output import echo

if TYPE_CHECKING:
    from fastmunit.config import Config
    from fastmunit.systems.translator import Translator
    from fastmunit.translation.batch import Looks


class Direction(str, Enum):
    """Which domain is translated into which."""

    a2b = "a2b"
    b2a = "b2a"


class Precision(str, Enum):
    """What convolutions and matrix products compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def translate(
    checkpoint: Annotated[
        Path, typer.Option(help="A gen_*.pt (ours or the public trainer's), or a run folder.", metavar="FILE|FOLDER")
    ],
    input: Annotated[
        list[Path],
        typer.Option("--input", "-i", help="An image, or a folder of images; repeat for more.", metavar="IMAGE|FOLDER"),
    ],
    output: OutputFolder,
    direction: Annotated[Direction, typer.Option(help="a2b translates domain A to B, b2a back.")] = Direction.a2b,
    config: ConfigName = None,
    styles: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            max=100_000,
            help="How many random styles for each image [10].",
            metavar="N",
            rich_help_panel="Style",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random styles.", metavar="N", rich_help_panel="Style")
    ] = 0,
    same_styles: Annotated[
        bool, typer.Option("--same-styles", help="Use the same random styles for every image.", rich_help_panel="Style")
    ] = False,
    reference: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            help="Take the style of this image of the target domain instead, or of each image of this folder; repeat "
            "for more.",
            metavar="IMAGE|FOLDER",
            rich_help_panel="Style",
        ),
    ] = None,
    styles_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Take the style codes of this safetensors file instead: a tensor `styles` (S, style_dim, 1, 1); names "
            "in the metadata, a JSON list under `names`, become part of the outputs' names.",
            metavar="FILE",
            rich_help_panel="Style",
        ),
    ] = None,
    interpolate: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=2,
            max=100_000,
            help="Take N styles evenly from the first of two references, or codes of a styles file, to the second.",
            metavar="N",
            rich_help_panel="Style",
        ),
    ] = None,
    size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Resize the shortest side to this first (kept by default).", metavar="PIXELS"),
    ] = None,
    stretch: Annotated[
        bool,
        typer.Option("--stretch", help="Stretch each output to the full range of values, as the public test.py does."),
    ] = False,
    device: Device = "auto",
    precision: Annotated[Precision, typer.Option(help="Of convolutions and matrix products.")] = Precision.float32,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Styles decoded at once (by default about a megapixel's worth).", metavar="N"),
    ] = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Translate images with a trained model, each into many styles.

    [bold]Examples[/bold]

    fastmunit translate --checkpoint runs/shoes --input drawing.png --output out

    fastmunit translate --checkpoint gen_01000000.pt --config edges2shoes --input drawings/ --output out --styles 5

    fastmunit translate --checkpoint runs/shoes --input drawings/ --output out --reference boot.jpg

    fastmunit translate --checkpoint runs/shoes --input a.png --output out --reference two_boots/ --interpolate 8

    Writes NAME_style00.png, … (NAME_reference00.png, … with --reference, NAME_interpolated00.png, … with --interpolate)
    and sheet.png, which shows them side by side. Images of any size and of any usual format work; of an animated GIF,
    PNG or WebP, every frame is translated into the same styles, and outputs are animated files of that format. Images
    that cannot be read are left out and named at the end. What an earlier call has written for an image, and this one
    does not write anew (as with fewer styles), is removed. Outputs are (x+1)/2 of what the network gives; the public
    test.py stretches each image from its darkest to its brightest value instead: --stretch does the same.
    """
    from tqdm import tqdm

    from fastmunit.data.crop_size import takes_any_size
    from fastmunit.data.failures import raise_failures
    from fastmunit.errors import FastmunitError
    from fastmunit.runs import resolve_device
    from fastmunit.systems import registry
    from fastmunit.translation.batch import FileTranslator, Rendering
    from fastmunit.translation.inputs import Limits, checked_inputs, list_inputs, list_references
    from fastmunit.translation.translate import model_files

    if styles_file is not None and reference:
        raise FastmunitError("give either --reference or --styles-file: both decide the style.")
    if (reference or styles_file is not None) and (styles is not None or same_styles):
        given = "--reference" if reference else "--styles-file"
        raise FastmunitError(f"give either {given} or --styles and --same-styles: {given} decides the style.")
    if interpolate is not None and not reference and styles_file is None:
        raise FastmunitError("--interpolate goes from one style to another: give two --reference, or --styles-file.")
    place = resolve_device(device)
    weights, settings = model_files(checkpoint, config)
    source_channels, target_channels = settings.channels(direction.value)
    limit = max_pixels or settings.max_pixels
    every, notes = list_inputs(input)
    references, more = list_references(reference or ())
    for note in (*notes, *more):
        typer.echo(note, err=True)
    maps = 0  # bytes of what the first layer makes of a pixel; on other devices it is not in this machine's memory
    if place.type == "cpu" and takes_any_size(settings):
        maps = settings.gen.dim * (4 if precision is Precision.float32 else 2)
    for path in references:
        Limits(target_channels, size, 4 * target_channels + maps, limit).check(path)
    inputs, failures = checked_inputs(every, Limits(source_channels, size, 4 * source_channels + maps, limit))
    if not inputs:
        raise_failures(failures, _left_out(len(failures), len(every)))
    translator = registry.load_translator(weights, settings, direction.value, place)
    translator.precision = precision.value
    if not translator.style_dim and ((styles or 1) > 1 or styles_file is not None):
        option = "--styles" if styles_file is None else "--styles-file"
        raise FastmunitError(f"a {settings.system} model gives one output for each image: leave {option} out.")
    if references or styles_file is not None:
        looks = _given_looks(translator, references, styles_file, interpolate, size, limit)
    else:
        looks = _random_looks(translator, styles or (10 if translator.style_dim else 1), seed, same_styles)
    rendering = Rendering(size, stretch, batch_size, precision.value, limit)
    work = FileTranslator(translator, output, looks, rendering)
    read = [*(item.path for item in every), *references, *([] if styles_file is None else [styles_file])]
    work.require_free_targets(inputs, input, read)

    with tqdm(total=len(inputs), unit="image", disable=None) as bar:
        summary = work.run(inputs, read, lambda: bar.update(1))
    failures += summary.failures
    if summary.images:
        echo(f"Wrote {summary.written:,} images into {output}, side by side in {work.sheet}.")
        if summary.removed:
            count = len(summary.removed)
            files = "1 output" if count == 1 else f"{count:,} outputs"
            echo(f"Removed {files} of an earlier call for the same images.")
        _hint_at_size(settings, inputs[0].path, size, limit)
    raise_failures(failures, _left_out(len(failures), len(every)))


def _left_out(failures: int, count: int) -> str:
    return f"{failures} of {count} images could not be translated"


def _random_looks(translator: "Translator", count: int, seed: int, same: bool) -> "Looks":
    import torch

    from fastmunit.translation.batch import Looks

    codes = translator.random_styles(count, torch.Generator().manual_seed(seed)) if same else None
    return Looks("style", count, codes, seed=seed)


def _given_looks(
    translator: "Translator",
    references: list[Path],
    styles_file: Path | None,
    interpolate: int | None,
    size: int | None,
    max_pixels: int | None,
) -> "Looks":
    """The styles of references, or of a file, or between two of them."""
    import torch

    from fastmunit import data
    from fastmunit.errors import FastmunitError
    from fastmunit.translation.batch import Looks
    from fastmunit.translation.sheet import resized
    from fastmunit.translation.styles import between, styles_from_file

    images = [resized(data.read_image(path, translator.target_channels, max_pixels), size) for path in references]
    if styles_file is not None:
        kind, (codes, names) = "style", styles_from_file(translator, styles_file)
    else:
        kind, codes, names = "reference", torch.cat([translator.style_of(image) for image in images]), []
    if interpolate is None:
        return Looks(kind, len(codes), codes, names, images)
    if len(codes) != 2 or not codes.is_floating_point():
        raise FastmunitError(f"--interpolate goes between two styles, and {len(codes)} are given: give two of them.")
    return Looks("interpolated", interpolate, between(codes[:1], codes[1:], interpolate), (), images)


def _hint_at_size(settings: "Config", path: Path, size: int | None, max_pixels: int | None) -> None:
    from fastmunit.data.images import read_header

    trained = min(settings.crop_image_height, settings.crop_image_width)
    header = read_header(path, max_pixels)
    shortest = min(header.height, header.width)
    if size is None and not trained / 1.5 <= shortest <= trained * 1.5:
        echo(
            f"Hint: the model was trained on {trained} pixels and {path.name} has {shortest}; --size {trained} may "
            "look better."
        )
