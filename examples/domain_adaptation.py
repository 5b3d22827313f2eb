"""Domain adaptation: classify digits of a domain without labels.

UNIT learns to translate digits of a labeled source domain into an unlabeled target domain. Three classifiers are
compared on held-out target digits: trained on translations with the labels of their sources, on the source images
themselves, and, as an upper bound, on labeled target images. It is a small form of section 4 of Liu, Breuel, Kautz,
"Unsupervised Image-to-Image Translation Networks", NIPS 2017.

The comparison is fair in this sense:

- Every UNIT trains for the same number of iterations, and so does every classifier, whatever the arm.
- The settings of UNIT are chosen among `CANDIDATES` before any classifier sees a held-out digit, by reverse validation
  on a seed of its own: a classifier that is trained on translated source images labels the target images of the
  training; a second one is trained on these images, translated back, with those labels; its accuracy on source digits
  that no training has seen is the score. The largest wins, the first of equal ones. It needs labels of the source only.
  Source: Zhong, Fan, Yang, Verscheure, "Cross Validation Framework to Choose amongst Models and Datasets for Transfer
  Learning", ECML 2010.
- The held-out digits are the first third of the target domain. (An earlier version of this experiment was tested, and
  its network sizes chosen, on the last third.)

The domains are scikit-learn's optdigits (1,797 digits of 8x8 pixels) and 3,000 digits of MNIST's test set.

    pip install "fastmunit[examples]"
    python -m examples.domain_adaptation --output adaptation

Run it in the root folder of the repository. It writes one JSON file per arm and seed. After an interruption, run the
same command to continue.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import typer
from torch import Tensor

import fastmunit
from examples.digits import Digits, accuracy, load_mnist, load_optdigits, read_images, train_classifier, write_images
from examples.experiment import Results, table, train_run
from fastmunit import Config
from fastmunit.errors import FastmunitError
from fastmunit.runs import resolve_device

Direction = Literal["optdigits2mnist", "mnist2optdigits"]

RECIPE = Path(__file__).with_name("domain_adaptation.yaml")
CANDIDATES = {
    "recipe": [],
    "slow": ["lr=0.0003"],
    "adversarial": ["gan_w=4"],
}
"""Settings of UNIT to choose among: keys that differ from the recipe."""
SELECTION_SEED = 1000
"""Seed of the choice; the seeds of the comparison are 0, 1, …"""
VALIDATION = 300
"""Number of source digits that are kept out of training, to validate with. Sample grids show some of them."""
DISPLAYED = 64
"""Number of target digits that are kept out of training, for the sample grids."""
ARMS = {
    "source_only": "trained on source images",
    "translated": "trained on translated source images",
    "target_labels": "trained on labeled target images",
}


class Split(NamedTuple):
    """The digits, by what may be known of them.

    Attributes:
        source: Labeled training digits.
        validation: Labeled source digits to choose settings with.
        target: Training digits whose labels only the arm "target_labels" uses.
        displayed: Target digits of the sample grids, without use of their labels.
        held_out: Target digits to test on.
    """

    source: Digits
    validation: Digits
    target: Digits
    displayed: Digits
    held_out: Digits


class Images(NamedTuple):
    """The images (N, 1, SIZE, SIZE) in [-1, 1] that may be known before the test."""

    source: Tensor
    validation: Tensor
    target: Tensor


def split(source: Digits, target: Digits) -> Split:
    """Return the parts of both domains."""
    third = len(target.images) // 3
    return Split(
        source.part(slice(-VALIDATION)),
        source.part(slice(-VALIDATION, None)),
        target.part(slice(third, -DISPLAYED)),
        target.part(slice(-DISPLAYED, None)),
        target.part(slice(third)),
    )


def labels_of(digits: Digits, device: torch.device) -> Tensor:
    """Return the classes (N,), int64."""
    return torch.from_numpy(digits.labels).long().to(device)


def translated(run: Path, images: Tensor, direction: str) -> Tensor:
    """Return images translated by a run, on their device."""
    translator = fastmunit.load_translator(run, direction=direction, device=images.device)
    styles = translator.random_styles(len(images), torch.Generator().manual_seed(0))  # of length 0: UNIT has none
    parts = zip(images.split(100), styles.split(100), strict=True)
    return torch.cat([translator.translate_each(*part) for part in parts])


def reverse_validation(
    run: Path, images: Images, source_labels: Tensor, validation_labels: Tensor, iterations: int
) -> float:
    """Return the score of a run by which settings are chosen: a percentage; see the top of this file."""
    forward = train_classifier(translated(run, images.source, "a2b"), source_labels, SELECTION_SEED, iterations)
    with torch.no_grad():
        assumed = torch.cat([forward(part).argmax(1) for part in images.target.split(500)])
    back = train_classifier(translated(run, images.target, "b2a"), assumed, SELECTION_SEED, iterations)
    return accuracy(back, images.validation, validation_labels)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Write runs and results into this folder.")],
    direction: Annotated[Direction, typer.Option(help="Labeled source 2 unlabeled target.")] = "optdigits2mnist",
    iterations: Annotated[int, typer.Option(min=1, help="Train every UNIT for this many iterations.")] = 2000,
    classifier_iterations: Annotated[
        int, typer.Option(min=1, help="Train every classifier for this many iterations.")
    ] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Use this many seeds: 0, 1, …")] = 5,
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
        compare(output, direction, iterations, classifier_iterations, seeds, mnist, device, override or [])
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error


def compare(
    output: Path,
    direction: Direction,
    iterations: int,
    classifier_iterations: int,
    seeds: int,
    mnist: Path | None,
    device: str,
    overrides: list[str],
) -> None:
    """Choose the settings, compute the results that are missing, and print the table. Arguments: see `main`."""
    domains = {"optdigits": load_optdigits(), "mnist": load_mnist(mnist)}
    source, target = direction.split("2")
    digits = split(domains[source], domains[target])
    place = resolve_device(device)
    settings: dict[str, Any] = {
        "direction": direction,
        "iterations": iterations,
        "classifier_iterations": classifier_iterations,
        "mnist": len(domains["mnist"].images),
        "candidates": CANDIDATES,
        "set": overrides,
    }
    selection, results = Results(output / "selection", settings), Results(output / "results", settings)
    wanted = [(arm, seed) for seed in range(seeds) for arm in ARMS]
    missing = [(arm, seed) for arm, seed in wanted if results.get(arm, seed) is None]

    root = output / "images"
    parts = {"trainA": digits.source, "testA": digits.validation, "trainB": digits.target, "testB": digits.displayed}
    paths = {name: write_images(part, root / name) for name, part in parts.items()}
    images = Images(*(read_images(paths[name]).to(place) for name in ("trainA", "testA", "trainB")))
    labels = labels_of(digits.source, place)

    def train_unit(changes: list[str], seed: int, folder: Path) -> Path:
        fixed = [f"data_root={json.dumps(str(root.resolve()))}", *overrides]
        config = Config.load(RECIPE, [*fixed, *changes, f"max_iter={iterations}", f"seed={seed}"])
        return train_run(config, folder, device)

    scores = {}
    for name, changes in CANDIDATES.items():
        found = selection.get(name, SELECTION_SEED)
        if found is None:
            print(f"Candidate {name}: training UNIT.")
            run = train_unit(changes, SELECTION_SEED, output / "runs" / name)
            validation = labels_of(digits.validation, place)
            score = reverse_validation(run, images, labels, validation, classifier_iterations)
            found = {"reverse_validation": score, "changes": changes}
            selection.put(name, SELECTION_SEED, found)
        scores[name] = found["reverse_validation"]
        print(f"Candidate {name}: {scores[name]:.1f} % by reverse validation.")
    chosen = max(scores, key=lambda name: scores[name])
    print(f"Chosen: {chosen}.")

    for arm, seed in missing:
        if arm == "source_only":
            training = images.source, labels
        elif arm == "translated":
            print(f"Seed {seed}: training UNIT; watch {output / f'runs/seed_{seed}/report.html'}.")
            run = train_unit(CANDIDATES[chosen], seed, output / "runs" / f"seed_{seed}")
            training = translated(run, images.source, "a2b"), labels
        else:
            training = images.target, labels_of(digits.target, place)
        classifier = train_classifier(*training, seed, classifier_iterations)
        held_out = read_images(write_images(digits.held_out, output / "held_out")).to(place)
        percentage = accuracy(classifier, held_out, labels_of(digits.held_out, place))
        results.put(arm, seed, {"accuracy": percentage, "settings_of_unit": chosen})
        print(f"Seed {seed}, {ARMS[arm]}: {percentage:.1f} %")
    count = len(digits.held_out.images)
    title = f"Accuracy on {count:,} held-out digits, {direction}, {seeds} seeds, UNIT {chosen!r}:"
    rows = {text: [results.get(arm, seed) for seed in range(seeds)] for arm, text in ARMS.items()}
    print(table(title, {text: [found["accuracy"] for found in row if found] for text, row in rows.items()}))


if __name__ == "__main__":
    typer.run(main)
