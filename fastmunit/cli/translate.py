"""`fastmunit translate`."""

from collections import Counter
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels, OutputFolder

if TYPE_CHECKING:
    from torch import Tensor

    from fastmunit.config import Config

_SHEET_ROWS, _SHEET_COLUMNS, _SHEET_CELL = 40, 20, 256


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
        Path, typer.Option("--input", "-i", help="An image, or a folder of images.", metavar="IMAGE|FOLDER")
    ],
    output: OutputFolder,
    direction: Annotated[Direction, typer.Option(help="a2b translates domain A to B, b2a back.")] = Direction.a2b,
    config: ConfigName = None,
    styles: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How many random styles for each image [10].", metavar="N", rich_help_panel="Style"),
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
            help="Take the style of this image of the target domain instead; repeat for more.",
            metavar="IMAGE",
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

    Writes NAME_style00.png, … (NAME_reference00.png, … with --reference) and sheet.png, which shows them side by side.
    Images of any size and of any usual format work. Outputs are (x+1)/2 of what the network gives; the public test.py
    stretches each image from its darkest to its brightest value instead: --stretch does the same.
    """
    import torch
    from tqdm import tqdm

    from fastmunit import data
    from fastmunit.data.checks import check_image
    from fastmunit.data.crop_size import takes_any_size
    from fastmunit.errors import FastmunitError
    from fastmunit.inference import model_files
    from fastmunit.models import registry
    from fastmunit.models.translator import value_mapping
    from fastmunit.training import resolve_device
    from fastmunit.training.grids import grid, save

    if reference and (styles is not None or same_styles):
        raise FastmunitError("give either --reference or --styles and --same-styles: a reference decides the style.")
    place = resolve_device(device)
    weights, settings = model_files(checkpoint, config)
    source_channels, target_channels = settings.channels(direction.value)
    limit = max_pixels or settings.max_pixels
    found = data.input_images(input)
    if found.note is not None:
        typer.echo(found.note, err=True)
    images = found.paths
    references = list(reference or ())
    maps = 0  # bytes of what the first layer makes of a pixel; on other devices it is not in this machine's memory
    if place.type == "cpu" and takes_any_size(settings):
        maps = settings.gen.dim * (4 if precision is Precision.float32 else 2)
    for path in images:
        check_image(path, source_channels, size, 4 * source_channels + maps, limit)
    for path in references:
        check_image(path, target_channels, size, 4 * target_channels + maps, limit)
    translator = registry.load_translator(weights, settings, direction.value, place)
    translator.precision = precision.value
    several = 10 if translator.style_dim else 1
    if not translator.style_dim and (styles or 1) > 1:
        raise FastmunitError(f"a {settings.system} model gives one output for each image: leave --styles out.")
    kind, count = ("reference", len(references)) if references else ("style", styles or several)
    suffix = ".png" if target_channels <= 4 else ".tif"
    targets = [
        [output / f"{name}_{kind}{k:02d}{suffix}" for k in range(count)] for name in _output_names(images, input)
    ]
    sheet = output / "sheet.png"
    _refuse_overwriting([*images, *references], input, output, [*chain.from_iterable(targets), sheet])

    mapping = value_mapping(stretch)
    random = torch.Generator().manual_seed(seed)
    reference_images = [_resized(data.read_image(path, target_channels, limit), size) for path in references]
    codes = None
    if references:
        codes = torch.cat([translator.style_of(image) for image in reference_images])
    elif same_styles:
        codes = translator.random_styles(count, random)

    rows: list[list[Tensor]] = []
    if reference_images:
        cells = [_cell(image) for image in reference_images[:_SHEET_COLUMNS]]
        rows.append([torch.ones_like(cells[0]), *cells])
    for path, written in zip(tqdm(images, unit="image", disable=None), targets, strict=True):
        image = _resized(data.read_image(path, source_channels, limit), size)
        chosen = codes if codes is not None else translator.random_styles(count, random)
        outputs = [mapping(result) for result in translator.translate(image, chosen, batch_size)]
        for result, path in zip(outputs, written, strict=True):
            data.save_image(result, path)
        if len(rows) < _SHEET_ROWS:
            rows.append([_cell(x) for x in (image, *outputs[:_SHEET_COLUMNS])])
    save(grid(rows), sheet)
    typer.echo(f"Wrote {len(images) * count:,} images into {output}, side by side in {sheet}.")
    _hint_at_size(settings, images[0], size, limit)


def _output_names(images: list[Path], input: Path) -> list[str]:
    """Names without suffix, with subfolders; the suffix is kept in where two images differ in nothing else."""
    relative = [path.relative_to(input) if input.is_dir() else Path(path.name) for path in images]
    stems = [str(path.with_suffix("")) for path in relative]
    return [
        stem if stems.count(stem) == 1 else f"{stem}_{path.suffix[1:]}"
        for stem, path in zip(stems, relative, strict=True)
    ]


def _refuse_overwriting(images: list[Path], input: Path, output: Path, targets: list[Path]) -> None:
    from fastmunit.errors import FastmunitError

    place = output.resolve()
    inputs = {path.resolve() for path in images}
    if input.is_dir() and (place == input.resolve() or input.resolve() in place.parents):
        raise FastmunitError(f"output {output} lies in the input folder {input}: choose a folder outside it.")
    for path in targets:
        if path.resolve() in inputs:
            raise FastmunitError(f"{path} is an input and would be overwritten: choose another --output.")
    path, times = Counter(targets).most_common(1)[0]
    if times > 1:
        raise FastmunitError(f"{times} images would be written to {path}: rename some inputs so that names differ.")


def _resized(image: "Tensor", size: int | None) -> "Tensor":
    if size is None:
        return image
    from torchvision.transforms.v2 import functional

    return functional.resize(image, [size], antialias=True).clamp(-1, 1)


def _cell(image: "Tensor") -> "Tensor":
    """An image no larger than a cell of the sheet."""
    from torchvision.transforms.v2 import functional

    height, width = image.shape[1:]
    scale = _SHEET_CELL / max(height, width)
    if scale >= 1:
        return image
    shape = [max(1, round(height * scale)), max(1, round(width * scale))]
    return functional.resize(image, shape, antialias=True).clamp(-1, 1)


def _hint_at_size(settings: "Config", path: Path, size: int | None, max_pixels: int | None) -> None:
    from fastmunit.data.images import read_header

    trained = min(settings.crop_image_height, settings.crop_image_width)
    header = read_header(path, max_pixels)
    shortest = min(header.height, header.width)
    if size is None and not trained / 1.5 <= shortest <= trained * 1.5:
        typer.echo(
            f"Hint: the model was trained on {trained} pixels and {path.name} has {shortest}; --size {trained} may "
            "look better."
        )
