"""Domain adaptation: classify digits of a domain that has no labels.

UNIT learns to translate digits of a labelled source domain into an unlabelled target domain. A classifier trained on
the translations, with the labels of their sources, is compared with one trained on the source images themselves, and
with one trained on target labels, which is what labels would be worth. All are tested on held-out target digits.
Source: Liu, Breuel, Kautz, "Unsupervised Image-to-Image Translation Networks", NIPS 2017, section 4, in a small form.

The domains are scikit-learn's optdigits (1,797 digits of 8x8 pixels) and 3,000 digits of MNIST's test set.

    pip install "fastmunit[examples]"
    python examples/domain_adaptation.py --output adaptation --minutes 2 --seeds 3

A run that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

import gzip
import json
import statistics
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor, nn

import fastmunit
from fastmunit import data
from fastmunit.cli.errors import INTERRUPTED, reported
from fastmunit.runs import ProgressBar as Bar
from fastmunit.config import Config
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import write_text
from fastmunit.runs import RunFolder, resolve_device, train
from fastmunit.runs.reports import loss_log
from fastmunit.systems.base import System

Direction = Literal["optdigits2mnist", "mnist2optdigits"]

SIZE = 32
SUBSET = Path(__file__).parent / "data" / "mnist_digits.npz"
RECIPE = Path(__file__).with_name("domain_adaptation.yaml")
DISPLAYED = 64
"""Source images that are kept out of training, for the sample grids."""

CLASSIFIERS = {
    "source_only": "trained on source images",
    "translated": "trained on translated source images",
    "target_labels": "trained on labelled target images",
}


class Digits(NamedTuple):
    """Grey images (N, H, W) and their classes (N,), uint8."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def part(self, selection: slice) -> Digits:
        """Some of the digits."""
        return Digits(self.images[selection], self.labels[selection])


def load_optdigits() -> Digits:
    """Scikit-learn's digits: 1,797 of 8x8 pixels, white on black. Raises FastmunitError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FastmunitError('this example needs scikit-learn: pip install "fastmunit[examples]".') from error
    bunch = load_digits()
    return Digits(np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.uint8))


def load_mnist(folder: Path | None) -> Digits:
    """MNIST's test digits: the 3,000 beside this script, or all 10,000 from the idx files in `folder`.

    Of 28x28 pixels the middle 20x20 are taken, the size that the digits were made to fit: optdigits have no margin.

    Raises:
        DataError: a file is missing or damaged.
    """
    if folder is None:
        with np.load(SUBSET) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    else:
        images = read_idx(folder / "t10k-images-idx3-ubyte.gz", dimensions=3)
        labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz", dimensions=1)
        if len(images) != len(labels):
            raise DataError(f"{folder} has {len(images)} images but {len(labels)} labels: download it again.")
    return Digits(np.ascontiguousarray(images[:, 4:24, 4:24]), labels)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """A gzipped idx file of unsigned bytes. Raises DataError naming the file when it is not one."""
    try:
        content = gzip.decompress(path.read_bytes())
        magic, *shape = struct.unpack(f">{1 + dimensions}I", content[: 4 + 4 * dimensions])
        if magic != 0x800 + dimensions:
            raise ValueError(f"its first four bytes are {magic:#010x}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give --mnist the folder with MNIST's gzipped test files.") from error
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is no gzipped idx file of {dimensions} dimensions ({error}): get it again.") from error


def write_images(digits: Digits, folder: Path) -> list[Path]:
    """Write PNG files in the order of `digits`, those that are not there yet. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05d}.png" for index in range(len(digits.images))]
    for path, image in zip(paths, digits.images, strict=True):
        if not path.exists():
            partial = path.with_suffix(".partial")
            Image.fromarray(image).save(partial, format="PNG")
            partial.replace(path)
    return paths


def read_images(paths: Sequence[Path]) -> Tensor:
    """Images as UNIT sees them in translation: (N, 1, SIZE, SIZE) in [-1, 1]."""
    dataset = data.ImageDataset(paths, SIZE, (SIZE, SIZE), channels=1)
    return torch.stack([dataset[index] for index in range(len(dataset))])


class Classifier(nn.Sequential):
    """Images (N, 1, SIZE, SIZE) to logits of ten classes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * (SIZE // 8) ** 2, 10),
        )  # fmt: skip


def train_classifier(images: Tensor, labels: Tensor, seed: int, epochs: int, batch_size: int = 32) -> Classifier:
    """A classifier after `epochs` of Adam on the cross entropy, in eval mode."""
    torch.manual_seed(seed)
    classifier = Classifier().to(images.device)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).to(images.device).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(classifier(images[batch]), labels[batch]).backward()
            optimizer.step()
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Part of `images` whose class is right, in percent."""
    right = [(classifier(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return 100 * float(torch.stack(right).sum()) / len(images)


def seconds_trained(run: RunFolder) -> float:
    """Training time of a run that was stopped, from its log; 0 where there is none."""
    if not run.losses.is_file():
        return 0.0
    try:
        return max((float(row["seconds"]) for row in loss_log.read_rows(run.losses)), default=0.0)
    except (KeyError, ValueError) as error:
        raise FastmunitError(f"{run.losses} is damaged ({error}): mend it, or remove it.") from error


def adapt(
    config: Config,
    source: Digits,
    target: Digits,
    held_out: Digits,
    folder: Path,
    epochs: int,
    time_limit: float,
    device: str,
) -> dict[str, Any] | None:
    """Train UNIT, then the classifiers, of one seed.

    Args:
        config: of UNIT; its seed and data_root are what `folder` was made with.
        source: labelled digits; the last `DISPLAYED` are for the sample grids alone.
        target: digits whose labels only the classifier "target_labels" sees.
        held_out: digits of the target domain for testing.
        folder: where images and the run are kept; what is there is used.
        epochs: of each classifier.
        time_limit: of UNIT's training, in seconds, those of earlier runs in `folder` included.
        device: see `resolve_device`.

    Returns:
        What is written as the seed's results; None when a signal stopped the training.
    """
    root = Path(str(config.data_root))
    parts = {"trainA": source.part(slice(-DISPLAYED)), "trainB": target, "testB": held_out}
    paths = {name: write_images(digits, root / name) for name, digits in parts.items()}
    write_images(source.part(slice(-DISPLAYED, None)), root / "testA")

    run = RunFolder(folder)
    limit = max(time_limit - seconds_trained(run), 1e-3)
    result = train(config, run.root, resume=run.config.is_file(), device=device, time_limit=limit, keep=1,
                   callbacks=[Bar(timed=True)])  # fmt: skip
    if result.interrupted:
        return None

    place = resolve_device(device)
    images = {name: read_images(files).to(place) for name, files in paths.items()}
    labels = {name: torch.from_numpy(digits.labels).long().to(place) for name, digits in parts.items()}
    training = {
        "source_only": (images["trainA"], labels["trainA"]),
        "translated": (translate(result.trainer, images["trainA"]), labels["trainA"]),
        "target_labels": (images["trainB"], labels["trainB"]),
    }
    accuracies = {
        name: accuracy(train_classifier(x, y, config.seed, epochs), images["testB"], labels["testB"])
        for name, (x, y) in training.items()
    }
    return {
        "seed": config.seed,
        "iterations": result.iterations,
        "seconds": round(result.seconds, 1),
        "accuracy": {name: round(value, 2) for name, value in accuracies.items()},
    }


def translate(trainer: System, images: Tensor) -> Tensor:
    """Source images as digits of the target domain, (N, 1, SIZE, SIZE) in [-1, 1]."""
    return fastmunit.translate(trainer, images, 1)[:, 0].to(images)


def summary(results: Sequence[dict[str, Any]], title: str) -> str:
    """Mean ± standard deviation over seeds of every classifier's accuracy, as a table."""
    lines = [title]
    for name, description in CLASSIFIERS.items():
        values = [result["accuracy"][name] for result in results]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"  {description:<36} {statistics.mean(values):5.1f}{spread} %   ({each})")
    return "\n".join(lines)


@reported
def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs and results.")],
    direction: Annotated[Direction, typer.Option(help="Labelled source 2 unlabelled target.")] = "optdigits2mnist",
    minutes: Annotated[float, typer.Option(min=0.001, help="Training time of UNIT for each seed.")] = 2.0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, …")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each classifier.")] = 15,
    mnist: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with MNIST's t10k-*.gz, to use all of its test digits."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    override: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the configuration."),
    ] = None,
) -> None:
    """Compare classifiers of a target domain without labels, with and without UNIT."""
    domains = {"optdigits": load_optdigits(), "mnist": load_mnist(mnist)}
    source_name, target_name = direction.split("2")
    target = domains[target_name]
    third = len(target.images) // 3
    overrides = [f"data_root={json.dumps(str((output / 'images').resolve()))}", *(override or [])]
    settings = {
        "direction": direction, "minutes": minutes, "epochs": epochs, "mnist": len(domains["mnist"].images),
        "set": override or [],
    }  # fmt: skip
    results_file = output / "results.json"
    results = finished_seeds(results_file, settings)
    for seed in range(seeds):
        if any(result["seed"] == seed for result in results):
            continue
        typer.echo(f"Seed {seed}: training UNIT for {minutes:g} minutes; watch {output / f'seed_{seed}/report.html'}.")
        result = adapt(
            Config.load(RECIPE, [*overrides, f"seed={seed}"]),
            domains[source_name],
            target.part(slice(0, -third)),
            target.part(slice(-third, None)),
            output / f"seed_{seed}",
            epochs,
            60 * minutes,
            device,
        )
        if result is None:
            typer.echo("Stopped; the same command goes on from here.")
            raise typer.Exit(INTERRUPTED)
        results.append(result)
        write_text(results_file, json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
        typer.echo(f"Seed {seed}: {result['iterations']:,} iterations; accuracy in percent {result['accuracy']}")
    title = f"Accuracy on {third:,} held-out digits, {direction}, {len(results)} seeds, {minutes:g} minutes each:"
    typer.echo(summary(results, title))


def finished_seeds(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of seeds that are done.

    Raises:
        FastmunitError: the file is damaged, or of a run with other settings.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, results = content["settings"], list(content["results"])
    except (ValueError, KeyError, TypeError) as error:
        raise FastmunitError(f"{path} cannot be read ({error}): remove it to start anew.") from error
    if found != settings:
        raise FastmunitError(f"{path} is of a run with {found}, not {settings}: give another --output.")
    return results


if __name__ == "__main__":
    typer.run(main)
