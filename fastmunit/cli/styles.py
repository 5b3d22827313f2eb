"""The commands `fastmunit styles ...`: style codes of images, and what can be done with them."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastmunit.cli.command import Command, with_usable_values
from fastmunit.cli.errors import reported
from fastmunit.cli.options import ConfigName, Device, Direction, MaxPixels, OutputFolder, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.style_options import Interpolation, encoding_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fastmunit.config import Config
    from fastmunit.data.failures import Failure
    from fastmunit.styles.extract import ExtractedStyles
    from fastmunit.systems.translators import Translator

styles = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Compute the style codes of images, and use them: banks, neighbors, directions, inversion, distribution.",
    epilog="Start with [bold]fastmunit styles extract[/bold]; docs/styles.md shows each command with what it writes.",
)

_MAX_CONTENTS = 8

Run = Annotated[
    Path,
    typer.Argument(help="Use this gen_*.pt, the newest of a run folder, or this model.", metavar="RUN"),
]
Inputs = Annotated[
    list[Path],
    typer.Option(
        "--input",
        "-i",
        help="Use the styles of this image of the target domain, of those in this folder, or of this styles file; "
        "repeat for more images.",
        metavar="IMAGE|FOLDER|FILE",
    ),
]
Contents = Annotated[
    list[Path],
    typer.Option(
        "--content",
        help="Translate this image of the source domain, or those in this folder; repeat for more. Only the first "
        f"{_MAX_CONTENTS} are used.",
        metavar="IMAGE|FOLDER",
    ),
]
OutputFile = Annotated[Path, typer.Option("--output", "-o", help="Write this file.", metavar="FILE")]
Way = Annotated[
    Direction | None,
    typer.Option(help="Use the styles of domain B (a2b), or of domain A (b2a) [a2b, or what the model has]."),
]
Size = Annotated[
    int | None,
    typer.Option(min=1, help="Resize the shortest side of images to this first (kept by default).", metavar="PIXELS"),
]
_seed = partial(typer.Option, min=0, help="Set the seed.", metavar="N")

_STYLES, _BANK, _SHEET = "styles.safetensors", "bank.safetensors", "sheet.jpg"
_PAGE, _FIGURES = "distribution.html", "distribution.json"


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
    from fastmunit.files import require_writable
    from fastmunit.translation.style_file import write_styles

    require_writable(output)
    translator, _ = _load(run, config, which, direction, device)
    found = _encode(translator, run, input, size, max_pixels)
    write_styles(output, found.styles.codes, found.styles.names, found.styles.model)
    echo(f"Wrote {output}: {_count(len(found.styles.codes))} of {translator.style_dim} numbers each.")
    _report(found.failures)


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
    from fastmunit.files import printable, require_writable
    from fastmunit.translation.style_file import write_styles

    require_writable(output)
    translator, _ = _load(run, config, which, direction, device)
    found = _encode(translator, run, input, size, max_pixels)
    codes = found.styles.codes
    write_styles(output, codes.mean(0, keepdim=True), [name or printable(input[0].resolve().stem)], found.styles.model)
    deviation = float(codes.flatten(1).double().var(0, unbiased=False).sum().sqrt())
    echo(f"Wrote {output}: the mean of {_count(len(codes))}, which differ from it by {deviation:.3g} (RMS distance).")
    _report(found.failures)


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
    seed: Annotated[int, _seed(max=2**32 - 1)] = 0,
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

    from fastmunit.files import require_writable, write_text
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.bank import make_bank
    from fastmunit.styles.extract import read_target
    from fastmunit.styles.sheets import labeled_sheet
    from fastmunit.translation.style_file import write_styles

    require_writable(output / _BANK, output / _SHEET)
    translator, _ = _load(run, config, which, direction, device)
    contents = _contents(translator, content, size, max_pixels)
    found = _encode(translator, run, input, size, max_pixels)
    result = make_bank(found.styles.codes, count, seed)
    names = [found.styles.label(medoid) for medoid in result.medoids]
    members = [
        [found.styles.label(index) for index in (result.labels == cluster).nonzero().flatten().tolist()]
        for cluster in range(count)
    ]
    write_styles(output / _BANK, result.codes, names, found.styles.model)
    report = [
        {"medoid": name, "size": size, "images": images}
        for name, size, images in zip(names, result.sizes, members, strict=True)
    ]
    write_text(output / "bank.json", json.dumps(report, indent=1) + "\n")
    medoids = [read_target(translator, found.paths[k], size, max_pixels) for k in result.medoids] if found.paths else []
    rows = ([medoids] if medoids else []) + [_translations(translator, image, result.codes) for image in contents]
    if rows:
        labels = ["medoid"] * bool(medoids) + [""] * len(contents)
        save(labeled_sheet(rows, [f"n = {number}" for number in result.sizes], labels), output / _SHEET)
    written = f", {output / _SHEET}" if rows else ""
    echo(
        f"Wrote {output / _BANK}{written} and {output / 'bank.json'}: {_count(count)} for {len(result.labels)} images."
    )
    _report(found.failures)


def nearest(
    run: Run,
    photo: Annotated[
        Path, typer.Argument(help="Compare the style of this image of the target domain.", metavar="PHOTO")
    ],
    input: Inputs,
    count: Annotated[int, typer.Option(min=1, help="Show this many.", metavar="N")] = 5,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write a picture of PHOTO and the images.", metavar="FILE"),
    ] = None,
    direction: Way = None,
    config: ConfigName = None,
    which: Which = WhichCheckpoint.newest,
    size: Size = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Print the images or styles whose style codes are nearest to that of a photo.

    [bold]Examples[/bold]

    fastmunit styles nearest runs/shoes boot.jpg --input shoes/ --output nearest.jpg

    fastmunit styles nearest runs/shoes boot.jpg --input bank/bank.safetensors

    Prints the Euclidean distance of the codes and the name, the nearest first.
    """
    from fastmunit.errors import FastmunitError
    from fastmunit.files import require_writable
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.extract import read_target
    from fastmunit.styles.nearest import nearest as nearest_codes
    from fastmunit.styles.sheets import labeled_sheet

    if output is not None:
        require_writable(output)
    translator, _ = _load(run, config, which, direction, device)
    image = read_target(translator, photo, size, max_pixels)
    found = _encode(translator, run, input, size, max_pixels)
    if output is not None and not found.paths:
        raise FastmunitError("a styles file has no pictures to show: leave --output out, or give images as --input.")
    neighbors = nearest_codes(found.styles.codes, translator.style_of(image), count)
    for neighbor in neighbors:
        echo(f"{neighbor.distance:8.4f}  {found.styles.label(neighbor.index)}")
    if output is not None:
        images = [read_target(translator, found.paths[each.index], size, max_pixels) for each in neighbors]
        save(labeled_sheet([[image, *images]], ["photo", *(f"{each.distance:.3g}" for each in neighbors)]), output)
        echo(f"Wrote {output}.")
    _report(found.failures)


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
    from fastmunit.files import require_writable
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.sheets import labeled_sheet
    from fastmunit.translation.interpolation import interpolate as interpolate_codes
    from fastmunit.translation.style_file import write_styles

    require_writable(output / _STYLES, output / _SHEET)
    translator, _ = _load(run, config, which, direction, device)
    named = _named_contents(translator, content, size, max_pixels)
    found = _encode(translator, run, input, size, max_pixels)
    if len(found.styles.codes) != 2:
        _report(found.failures)
        raise FastmunitError(f"an interpolation needs two styles, got {len(found.styles.codes)}: give two images.")
    first, second = found.styles.codes.split(1)
    try:
        codes = interpolate_codes(first, second, count, interpolation.value)
    except ValueError as error:
        raise FastmunitError(f"{error}.") from error
    places = [f"{place / (count - 1):.2f}" for place in range(count)]
    write_styles(output / _STYLES, codes, places, found.styles.model)
    rows = []
    suffix = ".png" if translator.target_channels <= 4 else ".tif"
    for name, image in named:
        rows.append(_translations(translator, image, codes))
        for index, frame in enumerate(rows[-1]):
            data.save_image(frame, output / f"{name}_{index:03d}{suffix}")
    save(labeled_sheet(rows, places), output / _SHEET)
    echo(f"Wrote {len(rows) * count} frames into {output}, side by side in {output / _SHEET}.")


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

    from fastmunit.files import require_writable, write_text
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.directions import principal_directions
    from fastmunit.styles.sheets import labeled_sheet
    from fastmunit.translation.style_file import write_styles

    require_writable(output / _SHEET)
    translator, _ = _load(run, config, which, direction, device)
    contents = _contents(translator, content, size, max_pixels)
    found = _encode(translator, run, input, size, max_pixels)
    result = principal_directions(found.styles.codes, count)
    offsets = [reach * (2 * step / (steps - 1) - 1) for step in range(steps)]
    places = [f"{offset:+.3g} sd" if offset else "mean" for offset in offsets]
    firsts = []
    for index in range(len(result.shares)):
        codes = result.steps(index, steps, reach)
        rows = [_translations(translator, image, codes) for image in contents]
        firsts.append(rows[0])
        save(labeled_sheet(rows, places), output / f"direction{index:02d}.jpg")
        write_styles(output / f"direction{index:02d}.safetensors", codes, places, found.styles.model)
    save(labeled_sheet(firsts, places, [f"{share:.1%}" for share in result.shares]), output / _SHEET)
    report = {
        "mean": result.mean.flatten().tolist(),
        "directions": result.vectors.flatten(1).tolist(),
        "standard_deviations": result.deviations,
        "shares_of_variance": result.shares,
    }
    write_text(output / "directions.json", json.dumps(report, indent=1) + "\n")
    for index, (share, deviation) in enumerate(zip(result.shares, result.deviations, strict=True)):
        echo(f"direction{index:02d}: {share:.1%} of the variance, standard deviation {deviation:.3g}")
    echo(f"Wrote a contact sheet of each into {output}, all of them in {output / _SHEET}.")
    _report(found.failures)


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
    seed: Annotated[int, _seed(max=2**63 - 1)] = 0,
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
    from fastmunit.files import printable, require_writable
    from fastmunit.runs.reports.image_grid import save
    from fastmunit.styles.extract import read_source, read_target
    from fastmunit.styles.inversion import invert as invert_photo
    from fastmunit.styles.inversion import own_content, require_content_codes
    from fastmunit.styles.sheets import labeled_sheet
    from fastmunit.translation.style_file import StyleModel, write_styles

    require_writable(output / _STYLES, output / _SHEET)
    translator, _ = _load(run, config, which, direction, device)
    image = read_target(translator, photo, size, max_pixels)
    if content is not None:
        code = translator.encode(translator.padded(read_source(translator, content, size, max_pixels)[None]))
    else:
        require_content_codes(translator)
        other = "b2a" if translator.direction == "a2b" else "a2b"
        code = own_content(_load(run, config, which, Direction(other), device)[0], image)
    measure = _lpips(weights, translator)
    with encoding_bar("inverting") as advance:
        result = invert_photo(
            translator, image, code, lpips=measure, steps=steps, starts=starts, seed=seed, advance=advance
        )
    name = printable(photo.stem)
    write_styles(output / _STYLES, result.code, [name], StyleModel.of(translator, _name(run)))
    columns = ["photo", "encoder", "inverted"]
    save(labeled_sheet([[image, result.before, result.after]], columns), output / _SHEET)
    before, after = result.distance_before, result.distance_after
    echo(f"L1     {before.l1:.4f} with the style of the encoder, {after.l1:.4f} after {steps} steps")
    if before.lpips is not None:
        echo(f"LPIPS  {before.lpips:.4f} with the style of the encoder, {after.lpips:.4f} after {steps} steps")
    echo(f"Wrote {output / _STYLES} and {output / _SHEET}.")


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
    seed: Annotated[int, _seed(max=2**63 - 1)] = 0,
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

    from fastmunit.files import require_writable, write_text
    from fastmunit.styles.distribution import check_distribution
    from fastmunit.styles.distribution_page import render, summary
    from fastmunit.styles.extract import training_styles
    from fastmunit.translation.style_file import write_styles

    require_writable(output / _PAGE, output / _FIGURES, output / _STYLES)
    translator, settings = _load(run, config, which, direction, device)
    failures: Sequence[Failure] = ()
    if input:
        found = _encode(translator, run, input, size, max_pixels)
        codes, failures = found.styles, found.failures
        source = ", ".join(str(path) for path in input)
    else:
        with encoding_bar() as advance:
            codes = training_styles(translator, settings, name=_name(run), advance=advance)
        source = "training images"
    check = check_distribution(codes.codes, seed)
    facts = {"model": _name(run), "direction": translator.direction or "a2b", "styles": f"{check.count} from {source}"}
    write_text(output / _PAGE, render(codes.codes, check, facts))
    write_text(output / _FIGURES, json.dumps({**facts, "seed": seed, **check.to_dict()}, indent=1) + "\n")
    write_styles(output / _STYLES, codes.codes, codes.names, codes.model)
    for line in summary(check):
        echo(line)
    echo(f"Look at {output / _PAGE}; all figures are in {output / _FIGURES}.")
    _report(failures)


def _load(
    run: Path, config: str | None, which: WhichCheckpoint, direction: Direction | None, device: str
) -> "tuple[Translator, Config]":
    """Load a model that has a style encoder, and its configuration."""
    from fastmunit.styles.extract import require_style_encoder
    from fastmunit.translation.translate import find_checkpoint, load_translator, own_direction

    file, settings = find_checkpoint(run, config, exports=True, which=which.value)
    way = own_direction(file) or "a2b" if direction is None else direction.value
    translator = load_translator(file, settings, direction=way, device=device)
    require_style_encoder(translator)
    return translator, settings


def _name(run: Path) -> str:
    """Return the name of a model for style files."""
    from fastmunit.files import printable

    return printable(run.resolve().name if run.exists() else run)


def _encode(
    translator: "Translator", run: Path, inputs: list[Path], size: int | None, max_pixels: int | None
) -> "ExtractedStyles":
    """Return the styles of images, or of a styles file, which has no paths."""
    from fastmunit.errors import FastmunitError
    from fastmunit.styles.extract import ExtractedStyles
    from fastmunit.styles.extract import extract as extract_styles
    from fastmunit.translation.style_file import SUFFIX
    from fastmunit.translation.styles import styles_from_file

    if any(path.suffix.lower() == SUFFIX for path in inputs):
        if len(inputs) > 1:
            raise FastmunitError("--input takes one styles file, or images and folders: give one of the two.")
        return ExtractedStyles(styles_from_file(translator, inputs[0]), [])
    with encoding_bar() as advance:
        found = extract_styles(translator, inputs, size=size, max_pixels=max_pixels, name=_name(run), advance=advance)
    for note in found.notes:
        echo(note, err=True)
    return found


def _contents(translator: "Translator", paths: list[Path], size: int | None, max_pixels: int | None) -> "list[Tensor]":
    return [image for _, image in _named_contents(translator, paths, size, max_pixels)] if paths else []


def _named_contents(
    translator: "Translator", paths: list[Path], size: int | None, max_pixels: int | None
) -> "list[tuple[str, Tensor]]":
    """Read images of the source domain: the first of many, as sheets are small. Say so if others are left out."""
    from fastmunit.styles.extract import read_source
    from fastmunit.translation.inputs import list_inputs

    listed, notes = list_inputs(paths)
    if len(listed) > _MAX_CONTENTS:
        notes.append(f"--content: the first {_MAX_CONTENTS} of {len(listed):,} images are used.")
    for note in notes:
        echo(note, err=True)
    return [(item.name, read_source(translator, item.path, size, max_pixels)) for item in listed[:_MAX_CONTENTS]]


def _translations(translator: "Translator", image: "Tensor", codes: "Tensor") -> "list[Tensor]":
    return list(translator.translate(image, codes.to(translator.device, translator.dtype)))


def _lpips(weights: Path | None, translator: "Translator") -> Any:
    """Return LPIPS if its weights are at hand; nothing is downloaded. Say so if it is left out."""
    import os

    from fastmunit.metrics.lpips import LPIPS
    from fastmunit.nn.networks.imagenet import WEIGHTS_VARIABLE

    if translator.target_channels not in (1, 3):
        echo(
            f"LPIPS is left out: it is for gray and RGB images, not for {translator.target_channels} channels.",
            err=True,
        )
        return None
    if weights is None and not os.environ.get(WEIGHTS_VARIABLE):
        echo(f"LPIPS is left out: give its weights with --weights, or set {WEIGHTS_VARIABLE}.", err=True)
        return None
    return LPIPS(weights=weights or os.environ[WEIGHTS_VARIABLE]).to(translator.device)


def _count(number: int) -> str:
    return "1 style" if number == 1 else f"{number:,} styles"


def _report(failures: "Sequence[Failure]") -> None:
    from fastmunit.data.failures import raise_failures, unreadable

    raise_failures(failures, f"{unreadable(len(failures))}; the others were used")


for _command in (extract, mean, bank, nearest, interpolate, directions, invert, distribution):
    styles.command(cls=Command)(reported(with_usable_values(_command)))
