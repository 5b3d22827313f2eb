"""The command `fastmunit train-classifier`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from fastmunit.cli.options import ConfigName, Device, MaxPixels
from fastmunit.cli.output import echo


class Domain(str, Enum):
    """A domain of a configuration."""

    a = "a"
    b = "b"


class Architecture(str, Enum):
    """Architectures of a classifier."""

    auto = "auto"
    alexnet = "alexnet"
    small = "small"


def train_classifier(
    data: Annotated[Path, typer.Option(help="Folder with one folder of images per class.", metavar="FOLDER")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.", metavar="FILE")],
    size: Annotated[int, typer.Option(min=31, max=4096, help="Side of the images to classify.", metavar="PIXELS")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.", metavar="N")] = 12,
    architecture: Annotated[
        Architecture,
        typer.Option(
            help="alexnet fine-tunes ImageNet weights, small needs none; auto is small if there are no weights."
        ),
    ] = Architecture.auto,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with alexnet_features.pth [FASTMUNIT_WEIGHTS, else downloaded].", metavar="FOLDER"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.", metavar="N")] = 0,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
    config: ConfigName = None,
    domain: Annotated[
        Domain, typer.Option(help="Read images as this domain of --config, with its channels and value range.")
    ] = Domain.b,
) -> None:
    """Train a small classifier of a domain's classes, for IS and CIS of `fastmunit evaluate`.

    [bold]Example[/bold]

    fastmunit train-classifier --data photos/dogs --output dogs.pt

    photos/dogs/husky/… and photos/dogs/poodle/… are two classes. Two blocks of a tenth of the files of each class are
    held out. The accuracy on them is printed, saved, and reported with every score.

    If the domain has a value range, give the config.yaml of the run with --config.
    """
    import sys

    from tqdm import tqdm

    from fastmunit.config import Config
    from fastmunit.data.value_range import PixelValues
    from fastmunit.files import require_apart, require_writable
    from fastmunit.metrics import classifier_training
    from fastmunit.metrics.classifier import Architecture as Kind
    from fastmunit.metrics.classifier import Classifier, save_classifier
    from fastmunit.nn.networks.imagenet import WeightsNotFoundError
    from fastmunit.runs import resolve_device

    require_writable(output)
    channels, values = 3, None
    if config is not None:
        settings = Config.load(config)
        channels, values = settings.channels("a2b")["ab".index(domain.value)], PixelValues.of(settings, domain.value)
        max_pixels = max_pixels or settings.max_pixels
    place = resolve_device(device)
    chosen: Kind = "small" if architecture is Architecture.small else "alexnet"
    images = classifier_training.labeled_images(data)
    others = [*([] if config is None else [Path(config)]), *([] if weights is None else weights.glob("*.pth"))]
    require_apart([output], [*images.paths, *others])
    for note in images.notes:
        typer.echo(note, err=True)
    with tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}|{postfix}", disable=None) as bar:

        def show(fraction: float, text: str) -> None:
            bar.n = fraction
            bar.set_postfix_str(text)

        def run(kind: Kind) -> Classifier:
            return classifier_training.train_classifier(
                data,
                size=size,
                epochs=epochs,
                weights=weights,
                architecture=kind,
                seed=seed,
                device=place,
                max_pixels=max_pixels,
                channels=channels,
                values=values,
                progress=show,
            )

        try:
            model = run(chosen)
        except WeightsNotFoundError as error:
            if architecture is not Architecture.auto or weights is not None:
                raise
            print(f"{error}\nTraining a small network from scratch instead.", file=sys.stderr)
            model = run("small")
    save_classifier(model, output)
    assert model.accuracy is not None
    echo(
        f"Wrote {output}: {len(model.classes)} classes, {100 * model.accuracy:.1f} % right on {model.held_out} "
        f"held-out images ({model.architecture})."
    )
