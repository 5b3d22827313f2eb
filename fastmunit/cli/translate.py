"""The command `fastmunit translate`."""

import sys
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, Direction, MaxPixels, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.resources import Memory, SaveStatistics, Scratch, StatisticsOption, percentage, resources_of
from fastmunit.cli.style_options import Interpolation, StyleDistributionOption, use_style_distribution

if TYPE_CHECKING:
    from fastmunit.config import Config
    from fastmunit.systems.translators import Translator
    from fastmunit.translation.file_translator import OutputStyles
    from fastmunit.translation.inputs import Input, Limits
    from fastmunit.translation.large_images import Resources


_style_option = partial(typer.Option, rich_help_panel="Style")


class Precision(str, Enum):
    """The precision of convolutions and matrix products."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def translate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            help="Load this gen_*.pt (ours or the public trainer's), one of a run folder, this model folder or "
            "export, or the model of this name: a packaged one, or OWNER/NAME on the Hugging Face Hub.",
            metavar="FILE|FOLDER|NAME",
        ),
    ],
    input: Annotated[
        list[Path],
        typer.Option(
            "--input",
            "-i",
            help="Translate this image or video, or those in this folder; repeat for more.",
            metavar="IMAGE|VIDEO|FOLDER",
        ),
    ],
    output: OutputFolder,
    direction: Annotated[
        Direction | None,
        typer.Option(help="Translate images of domain A to B (a2b), or back (b2a) [a2b, or what the model has]."),
    ] = None,
    which: Which = WhichCheckpoint.newest,
    config: ConfigName = None,
    styles: Annotated[
        int | None,
        _style_option(min=1, max=100_000, help="Translate each image into this many random styles [10].", metavar="N"),
    ] = None,
    seed: Annotated[
        int, _style_option(min=0, max=2**63 - 1, help="Set the seed of the random styles.", metavar="N")
    ] = 0,
    same_styles: Annotated[
        bool, _style_option("--same-styles", help="Use the same random styles for every image.")
    ] = False,
    frames: Annotated[
        bool,
        typer.Option(
            "--frames",
            help="Take images as the frames of a sequence: in the order of their numbers, with the same styles for "
            "every image, and a folder of outputs per style.",
        ),
    ] = False,
    reference: Annotated[
        list[Path] | None,
        _style_option(
            help="Use the style of this image of the target domain, or of each image in this folder; repeat for more.",
            metavar="IMAGE|FOLDER",
        ),
    ] = None,
    styles_file: Annotated[
        Path | None,
        _style_option(
            help="Use the style codes of this safetensors file, as `fastmunit styles` writes it: a tensor `styles` "
            "(S, style_dim, 1, 1). Names in the metadata, a JSON list under `names`, become part of output names.",
            metavar="FILE",
        ),
    ] = None,
    interpolate: Annotated[
        int | None,
        _style_option(
            min=2,
            max=100_000,
            help="Use N styles evenly spaced between two references, or between two codes of a styles file.",
            metavar="N",
        ),
    ] = None,
    interpolation: Annotated[
        Interpolation, _style_option(help="Interpolate along a straight line, or along an arc around 0.")
    ] = Interpolation.linear,
    style_distribution: StyleDistributionOption = "normal",
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Resize the shortest side to this first (kept by default).", metavar="PIXELS"),
    ] = None,
    stretch: Annotated[
        bool,
        typer.Option("--stretch", help="Stretch each output to the full range of values, as the public test.py does."),
    ] = False,
    like_input: Annotated[
        bool | None,
        typer.Option(
            "--like-input/--no-like-input",
            help="Write outputs in the format and type of the input, with its metadata [for slides, volumes, arrays, "
            "and images of more than 8 bits].",
        ),
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Write videos without loss, as FFV1 in .mkv.")] = False,
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Compute convolutions and matrix products in this precision.")
    ] = Precision.float32,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Decode this many styles at once (about one megapixel by default).", metavar="N"),
    ] = None,
    max_pixels: MaxPixels = None,
    memory: Memory = None,
    scratch: Scratch = None,
    statistics: StatisticsOption = "image",
    save_statistics: SaveStatistics = None,
) -> None:
    """Translate images with a trained model, each into many styles.

    [bold]Examples[/bold]

    fastmunit translate --checkpoint runs/shoes --input drawing.png --output out

    fastmunit translate --checkpoint gen_01000000.pt --config edges2shoes --input drawings/ --output out --styles 5

    fastmunit translate --checkpoint runs/shoes --input drawings/ --output out --reference boot.jpg

    fastmunit translate --checkpoint runs/shoes --input a.png --output out --reference two_boots/ --interpolate 8

    fastmunit translate --checkpoint runs/shoes --input drawings/ --output out --style-distribution encoded

    fastmunit translate --checkpoint runs/stains --input slide.png --output out --memory 8GB

    Writes NAME_style00.png, … (NAME_reference00.png, … with --reference, NAME_interpolated00.png, … with --interpolate)
    and sheet.png, which shows them side by side. Images may have any size and any common format. Every frame of an
    animated GIF, PNG or WebP, and of a video, is translated into the same styles; the outputs are animations of the
    same format, and videos with the time stamps and the sound of the original. With --frames, outputs are
    style00/NAME.png, … Images that cannot be read are left out and listed at the end. Outputs that an earlier call
    wrote for an image and this call does not overwrite, for example because it has fewer styles, are removed. Outputs
    are mapped from [-1, 1] to [0, 1]; with --stretch, each is stretched from its darkest to its brightest value.
    """
    from tqdm import tqdm

    from fastmunit.data.failures import raise_failures
    from fastmunit.data.value_range import PixelValues
    from fastmunit.errors import FastmunitError
    from fastmunit.runs import resolve_device
    from fastmunit.systems import registry
    from fastmunit.translation.file_translator import FileTranslator, Rendering
    from fastmunit.translation.inputs import Limits, checked_inputs, in_order_of_frames, list_inputs, list_references
    from fastmunit.translation.translate import find_checkpoint, load_translator, own_direction

    resources = resources_of(memory, scratch or output / ".scratch", statistics, save_statistics)
    _require_one_source_of_styles(
        styles, same_styles or style_distribution != "normal", reference, styles_file, interpolate
    )
    place = resolve_device(device)
    file, settings = find_checkpoint(checkpoint, config, exports=True, which=which.value)
    PixelValues.require_numbers(settings)
    way = own_direction(file) or "a2b" if direction is None else direction.value
    source_channels, target_channels = settings.channels(way)
    limit = max_pixels or settings.max_pixels
    listed, notes = list_inputs(input)
    references, reference_notes = list_references(reference or ())
    listed = in_order_of_frames(listed) if frames else listed
    for note in (*notes, *reference_notes):
        echo(note, err=True)
    first_layer = 0  # bytes per pixel of the first layer's output; on other devices it is not in this machine's memory
    if place.type == "cpu" and registry.system_of(settings).any_size:
        first_layer = settings.gen.dim * (4 if precision is Precision.float32 else 2)
    for path in references:
        values = PixelValues.of(settings, way[-1])
        # Without a new size, those that do not fit in the memory are encoded out of core.
        pixel_bytes = 0 if size is None else 4 * target_channels + first_layer
        Limits(target_channels, size, pixel_bytes, limit, values).check(path)
    values = PixelValues.of(settings, way[0])
    # Images whose maps do not fit in the memory are translated out of core.
    limits = Limits(source_channels, size, 4 * source_channels, limit, values)
    with tqdm(total=len(listed), desc="checking", unit="file", disable=None, leave=False, delay=1) as bar:
        inputs, failures = checked_inputs(listed, limits, target_channels, like_input, lambda: bar.update(1))
    if not inputs:
        raise_failures(failures, _left_out(len(failures), len(listed)))
    translator = load_translator(file, settings, direction=way, device=device)
    translator.precision = precision.value
    use_style_distribution(translator, style_distribution, settings)
    if not translator.style_dim and ((styles or 1) > 1 or styles_file is not None):
        option = "--styles" if styles_file is None else "--styles-file"
        raise FastmunitError(f"a {settings.system} model gives one output per image: leave {option} out.")
    if references or styles_file is not None:
        output_styles = _given_styles(
            translator, references, styles_file, interpolate, interpolation, size, limit, resources
        )
    else:
        count = styles or (10 if translator.style_dim else 1)
        output_styles = _random_styles(translator, count, seed, same_styles or frames)
    output_styles = replace(output_styles, folders=frames)
    if save_statistics is not None and len(inputs) != 1:
        raise FastmunitError(f"--save-statistics saves the statistics of one image, got {len(inputs)}: give one.")
    rendering = Rendering(size, stretch, batch_size, precision.value, limit, lossless, resources)
    work = FileTranslator(translator, output, output_styles, rendering)
    read = [*(item.path for item in listed), *references, *([] if styles_file is None else [styles_file])]
    work.require_free_targets(inputs, input, read)

    kind = _kind(inputs)
    unit = "image" if kind == "images" else "frame"
    with tqdm(total=sum(map(work.steps, inputs)), unit=unit, disable=None) as bar:
        work.report(lambda line: bar.write(line, sys.stderr), percentage(bar))
        summary = work.run(inputs, read, lambda: bar.update(1))
    failures += summary.failures
    if summary.images:
        echo(f"Wrote {summary.written:,} {kind} into {output}, side by side in {work.sheet}.")
        if summary.removed:
            stale = len(summary.removed)
            files = "1 output" if stale == 1 else f"{stale:,} outputs"
            echo(f"Removed {files} of an earlier call for the same images.")
        if size is None and inputs[0].like is None:
            _suggest_size(settings, inputs[0], limits)
    raise_failures(failures, _left_out(len(failures), len(listed)))


def _require_one_source_of_styles(
    styles: int | None,
    drawn: bool,
    reference: list[Path] | None,
    styles_file: Path | None,
    interpolate: int | None,
) -> None:
    from fastmunit.errors import FastmunitError

    if styles_file is not None and reference:
        raise FastmunitError("give either --reference or --styles-file: both decide the style.")
    if (reference or styles_file is not None) and (styles is not None or drawn):
        given = "--reference" if reference else "--styles-file"
        raise FastmunitError(
            f"give either {given} or --styles, --same-styles and --style-distribution: {given} decides the style."
        )
    if interpolate is not None and not reference and styles_file is None:
        raise FastmunitError("--interpolate needs two styles: give two --reference, or --styles-file.")


def _left_out(failures: int, count: int) -> str:
    return f"{failures} of {count} images could not be translated"


def _random_styles(translator: "Translator", count: int, seed: int, same: bool) -> "OutputStyles":
    import torch

    from fastmunit.translation.file_translator import OutputStyles

    codes = translator.random_styles(count, torch.Generator().manual_seed(seed)) if same else None
    return OutputStyles("style", count, codes, seed=seed)


def _given_styles(
    translator: "Translator",
    references: list[Path],
    styles_file: Path | None,
    interpolate: int | None,
    interpolation: Interpolation,
    size: int | None,
    max_pixels: int | None,
    resources: "Resources",
) -> "OutputStyles":
    """Return the styles of references or of a file, or interpolate between two of them."""
    import torch

    from fastmunit.errors import FastmunitError
    from fastmunit.translation.file_translator import OutputStyles
    from fastmunit.translation.interpolation import interpolate as interpolate_codes
    from fastmunit.translation.output_sheet import resized
    from fastmunit.translation.references import encode_reference
    from fastmunit.translation.styles import styles_from_file

    prepare = None if size is None else partial(resized, size=size)
    encoded = [
        encode_reference(translator, path, resources, max_pixels=max_pixels, prepare=prepare) for path in references
    ]
    images = [image for _, image in encoded]
    if styles_file is not None:
        styles = styles_from_file(translator, styles_file)
        kind, codes, names = "style", styles.codes, styles.names
    else:
        kind, codes, names = "reference", torch.cat([code for code, _ in encoded]), []
    if interpolate is None:
        return OutputStyles(kind, len(codes), codes, names, images)
    if len(codes) != 2 or not codes.is_floating_point():
        raise FastmunitError(f"--interpolate needs two styles, got {len(codes)}: give two of them.")
    try:
        codes = interpolate_codes(codes[:1], codes[1:], interpolate, interpolation.value)
    except ValueError as error:
        raise FastmunitError(f"{error}.") from error
    return OutputStyles("interpolated", interpolate, codes, (), images)


def _kind(inputs: "list[Input]") -> str:
    """Return what the inputs are: "images", "videos", or "images and videos"."""
    kinds = {"images" if item.video is None else "videos" for item in inputs}
    return " and ".join(sorted(kinds))


def _suggest_size(settings: "Config", item: "Input", limits: "Limits") -> None:
    from fastmunit.data.validate import image_header
    from fastmunit.files import printable

    trained = min(settings.crop_image_height, settings.crop_image_width)
    header = item.video or image_header(item.path, limits.channels, limits.values, limits.max_pixels)
    shortest = min(header.height, header.width)
    if not trained / 1.5 <= shortest <= trained * 1.5:
        echo(
            f"Hint: the model was trained on {trained} pixels and {printable(item.path.name)} has {shortest}; "
            f"--size {trained} may look better."
        )
