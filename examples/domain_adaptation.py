"""Domain adaptation: classify digits of a domain without labels.

UNIT learns to translate digits of a labeled source domain into an unlabeled target domain. The program compares three
classifiers on held-out target digits: one trained on translations with the labels of their sources, one trained on the
source images themselves, and, as an upper bound, one trained on labeled target images. It is a small form of section 4
of Liu, Breuel, Kautz, "Unsupervised Image-to-Image Translation Networks", NIPS 2017.

The domains are scikit-learn's optdigits (1,797 digits of 8x8 pixels) and 3,000 digits of MNIST's test set.

    pip install "fastmunit[examples]"
    python examples/domain_adaptation.py --output adaptation --minutes 2 --seeds 3

After an interruption, run the same command to continue.
"""

from __future__ import annotations

import csv
import gzip
import json
import statistics
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor, nn

import fastmunit
from fastmunit import Config, data
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import write_text
from fastmunit.runs import ProgressBar, RunFolder, resolve_device, train

Direction = Literal["optdigits2mnist", "mnist2optdigits"]

SIZE = 32
SUBSET = Path(__file__).parent / "data" / "mnist_digits.npz"
RECIPE = Path(__file__).with_name("domain_adaptation.yaml")
DISPLAYED = 64
"""Number of source images that are kept out of training, for the sample grids."""

CLASSIFIERS = {
    "source_only": "trained on source images",
    "translated": "trained on translated source images",
    "target_labels": "trained on labeled target images",
}


class Digits(NamedTuple):
    """Gray images (N, H, W) and their classes (N,), uint8."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def part(self, selection: slice) -> Digits:
        """Select some of the digits."""
        return Digits(self.images[selection], self.labels[selection])


def load_optdigits() -> Digits:
    """Load scikit-learn's 1,797 digits of 8x8 pixels, white on black. Raises FastmunitError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FastmunitError('this example needs scikit-learn: pip install "fastmunit[examples]".') from error
    bunch = load_digits()
    return Digits(np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.uint8))


def load_mnist(folder: Path | None) -> Digits:
    """Load MNIST's test digits: 3,000 from a file next to this script, or all 10,000 from idx files in `folder`.

    The 28x28 pixels are cropped to the middle 20x20, which the digits were scaled to: optdigits have no margin.

    Raises:
        DataError: If a file is missing or damaged.
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
    """Read a gzipped idx file of unsigned bytes. Raises DataError, which names the file, if it is not one."""
    try:
        content = gzip.decompress(path.read_bytes())
        magic, *shape = struct.unpack(f">{1 + dimensions}I", content[: 4 + 4 * dimensions])
        if magic != 0x800 + dimensions:
            raise ValueError(f"its first four bytes are {magic:#010x}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give --mnist the folder with MNIST's gzipped test files.") from error
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(
            f"{path} is not a gzipped idx file of {dimensions} dimensions ({error}): replace it."
        ) from error


def write_images(digits: Digits, folder: Path) -> list[Path]:
    """Write missing PNG files of digits. Return all paths, in the order of `digits`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05d}.png" for index in range(len(digits.images))]
    for path, image in zip(paths, digits.images, strict=True):
        if not path.exists():
            partial = path.with_suffix(".partial")
            Image.fromarray(image).save(partial, format="PNG")
            partial.replace(path)
    return paths


def read_images(paths: Sequence[Path]) -> Tensor:
    """Read images as UNIT translates them: (N, 1, SIZE, SIZE) in [-1, 1]."""
    dataset = data.ImageDataset(paths, SIZE, (SIZE, SIZE), channels=1)
    return torch.stack([dataset[index] for index in range(len(dataset))])


class Classifier(nn.Sequential):
    """A network from images (N, 1, SIZE, SIZE) to logits of ten classes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * (SIZE // 8) ** 2, 10),
        )  # fmt: skip


def train_classifier(images: Tensor, labels: Tensor, seed: int, epochs: int, batch_size: int = 32) -> Classifier:
    """Train a classifier with Adam on the cross entropy. Return it in eval mode."""
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
    """Return the percentage of images that are classified correctly."""
    correct = [(classifier(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return 100 * float(torch.stack(correct).sum()) / len(images)


def seconds_trained(run: RunFolder) -> float:
    """Return the training time of an interrupted run from its log losses.csv, or 0 without a log."""
    if not run.losses.is_file():
        return 0.0
    with run.losses.open(newline="", encoding="utf-8") as file:
        try:
            return max((float(row["seconds"]) for row in csv.DictReader(file)), default=0.0)
        except (KeyError, TypeError, ValueError) as error:
            raise FastmunitError(f"{run.losses} is damaged ({error}): repair or remove it.") from error


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
    """Train UNIT and then the classifiers for one seed.

    Args:
        config: Configuration of UNIT, with the seed and data_root that `folder` was made with.
        source: Labeled digits. The last `DISPLAYED` are only for the sample grids.
        target: Digits of the target domain. Only the classifier "target_labels" uses their labels.
        held_out: Digits of the target domain for testing.
        folder: Run folder. An existing run is resumed.
        epochs: Epochs of each classifier.
        time_limit: Training time of UNIT in seconds, including earlier runs in `folder`.
        device: Device name; see `resolve_device`.

    Returns:
        The results of the seed, or None if a signal stopped the training.
    """
    root = Path(str(config.data_root))
    parts = {"trainA": source.part(slice(-DISPLAYED)), "trainB": target, "testB": held_out}
    paths = {name: write_images(digits, root / name) for name, digits in parts.items()}
    write_images(source.part(slice(-DISPLAYED, None)), root / "testA")

    run = RunFolder(folder)
    limit = max(time_limit - seconds_trained(run), 1e-3)
    resume = run.config.is_file()
    result = train(
        config, run.root, resume=resume, device=device, time_limit=limit, keep=1, callbacks=[ProgressBar(timed=True)]
    )
    if result.interrupted:
        return None

    place = resolve_device(device)
    images = {name: read_images(files).to(place) for name, files in paths.items()}
    labels = {name: torch.from_numpy(digits.labels).long().to(place) for name, digits in parts.items()}
    training = {
        "source_only": (images["trainA"], labels["trainA"]),
        "translated": (fastmunit.translate(result.trainer, images["trainA"], 1)[:, 0].to(place), labels["trainA"]),
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


def summary(results: Sequence[dict[str, Any]], title: str) -> str:
    """Return a table of the accuracy of every classifier: mean ± standard deviation over seeds."""
    lines = [title]
    for name, description in CLASSIFIERS.items():
        values = [result["accuracy"][name] for result in results]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"  {description:<36} {statistics.mean(values):5.1f}{spread} %   ({each})")
    return "\n".join(lines)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Write runs and results into this folder.")],
    direction: Annotated[Direction, typer.Option(help="Labeled source 2 unlabeled target.")] = "optdigits2mnist",
    minutes: Annotated[float, typer.Option(min=0.001, help="Train UNIT for this time per seed.")] = 2.0,
    seeds: Annotated[int, typer.Option(min=1, help="Use this many seeds: 0, 1, …")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Train each classifier for this many epochs.")] = 15,
    mnist: Annotated[
        Path | None, typer.Option(help="Use all test digits of MNIST, from t10k-*.gz in this folder.")
    ] = None,
    device: Annotated[str, typer.Option(help="Compute on this device: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the configuration.")
    ] = None,
) -> None:
    """Compare classifiers of a target domain without labels, with and without UNIT."""
    try:
        compare(output, direction, minutes, seeds, epochs, mnist, device, override or [])
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error


def compare(
    output: Path,
    direction: Direction,
    minutes: float,
    seeds: int,
    epochs: int,
    mnist: Path | None,
    device: str,
    overrides: list[str],
) -> None:
    """Train what is not trained yet for every seed, and print the table. The arguments are the options of `main`."""
    domains = {"optdigits": load_optdigits(), "mnist": load_mnist(mnist)}
    source_name, target_name = direction.split("2")
    target = domains[target_name]
    third = len(target.images) // 3
    settings = {
        "direction": direction,
        "minutes": minutes,
        "epochs": epochs,
        "mnist": len(domains["mnist"].images),
        "set": overrides,
    }
    data_root = json.dumps(str((output / "images").resolve()))
    results_file = output / "results.json"
    results = finished_seeds(results_file, settings)
    for seed in range(seeds):
        if any(result["seed"] == seed for result in results):
            continue
        print(f"Seed {seed}: training UNIT for {minutes:g} minutes; watch {output / f'seed_{seed}/report.html'}.")
        result = adapt(
            Config.load(RECIPE, [f"data_root={data_root}", *overrides, f"seed={seed}"]),
            domains[source_name],
            target.part(slice(0, -third)),
            target.part(slice(-third, None)),
            output / f"seed_{seed}",
            epochs,
            60 * minutes,
            device,
        )
        if result is None:
            print("Stopped; run the same command to continue.")
            raise typer.Exit(130)  # the exit status of Ctrl-C in a shell
        results.append(result)
        write_text(results_file, json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
        print(f"Seed {seed}: {result['iterations']:,} iterations; accuracy in percent {result['accuracy']}")
    title = f"Accuracy on {third:,} held-out digits, {direction}, {len(results)} seeds, {minutes:g} minutes each:"
    print(summary(results, title))


def finished_seeds(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of finished seeds.

    Raises:
        FastmunitError: If the file is damaged, or belongs to a run with other settings.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, results = content["settings"], list(content["results"])
    except (ValueError, KeyError, TypeError) as error:
        raise FastmunitError(f"{path} cannot be read ({error}): remove it to start again.") from error
    if found != settings:
        raise FastmunitError(f"{path} belongs to a run with {found}, not {settings}: give another --output.")
    return results


if __name__ == "__main__":
    typer.run(main)
