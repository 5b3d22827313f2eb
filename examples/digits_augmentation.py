"""Augmentation: train a classifier of digits with and without `fastmunit.Augment`.

MUNIT learns to translate scikit-learn's digits into MNIST digits, without labels of either. Classifiers are then
trained on labeled digits of scikit-learn for equal numbers of iterations: on the images as they are, with random affine
transforms, and with half of the images translated into random styles. Each is tested on held-out digits of scikit-learn
and, as a domain that no classifier was trained on, on MNIST digits that MUNIT has not seen either. Nothing was chosen
by these results: the probability is the default of `Augment`, the recipe is that of a small MUNIT.

    pip install "fastmunit[examples]"
    python -m examples.digits_augmentation --output digits_augmentation

Run it in the root folder of the repository. It writes one JSON file per arm and seed. After an interruption, run the
same command to continue.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torchvision.transforms import v2

import fastmunit
from examples.digits import accuracy, load_mnist, load_optdigits, read_images, train_classifier, write_images
from examples.experiment import Results, table, train_run
from fastmunit import Config
from fastmunit.errors import FastmunitError
from fastmunit.runs import resolve_device

RECIPE = Path(__file__).with_name("digits_augmentation.yaml")
HELD_OUT = 600
"""Number of digits of scikit-learn to test on, the last ones."""
AFFINE = {"degrees": 10.0, "translate": (0.1, 0.1), "scale": (0.9, 1.1)}
ARMS = {
    "plain": "images as they are",
    "affine": "random affine transforms",
    "augment": "half of the images translated",
}
TESTS = {"optdigits": "held-out digits of scikit-learn", "mnist": "held-out digits of MNIST"}


def preparation(arm: str, run: Path, seed: int) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return the function that prepares a batch (N, 1, H, W) in [-1, 1] for the classifier of an arm.

    Args:
        arm: One of `ARMS`.
        run: Run folder of the MUNIT, for the arm "augment".
        seed: Seed of the draws of `Augment`.
    """
    if arm == "plain":
        return lambda images, _indices, _epoch: images
    if arm == "affine":
        affine = v2.RandomAffine(**AFFINE, interpolation=v2.InterpolationMode.BILINEAR, fill=-1)
        return lambda images, _indices, _epoch: torch.stack([affine(image) for image in images])
    augment = fastmunit.Augment(run, seed=seed)

    def translated(images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        return augment.at(indices, epoch)((images + 1) / 2) * 2 - 1

    return translated


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Write runs and results into this folder.")],
    iterations: Annotated[int, typer.Option(min=1, help="Train every MUNIT for this many iterations.")] = 2000,
    classifier_iterations: Annotated[
        int, typer.Option(min=1, help="Train every classifier for this many iterations.")
    ] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Use this many seeds: 0, 1, …")] = 3,
    device: Annotated[str, typer.Option(help="Compute on this device: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the configuration.")
    ] = None,
) -> None:
    """Compare classifiers that are trained with and without translated images."""
    try:
        compare(output, iterations, classifier_iterations, seeds, device, override or [])
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error


def compare(
    output: Path, iterations: int, classifier_iterations: int, seeds: int, device: str, overrides: list[str]
) -> None:
    """Compute the results that are missing, and print the tables. Arguments: see `main`."""
    optdigits, mnist = load_optdigits(), load_mnist(None)
    third = len(mnist.images) // 3
    parts = {
        "trainA": optdigits.part(slice(-HELD_OUT)),
        "testA": optdigits.part(slice(-HELD_OUT, None)),
        "trainB": mnist.part(slice(third, None)),
        "testB": mnist.part(slice(third)),
    }
    settings: dict[str, Any] = {
        "iterations": iterations,
        "classifier_iterations": classifier_iterations,
        "set": overrides,
    }
    results = Results(output / "results", settings)
    root, place = output / "images", resolve_device(device)
    paths = {name: write_images(digits, root / name) for name, digits in parts.items()}
    images = {name: read_images(paths[name]).to(place) for name in ("trainA", "testA", "testB")}
    labels = {name: torch.from_numpy(parts[name].labels).long().to(place) for name in images}

    for seed in range(seeds):
        for arm, text in ARMS.items():
            if results.get(arm, seed) is not None:
                continue
            run = output / "runs" / f"seed_{seed}"
            if arm == "augment":
                print(f"Seed {seed}: training MUNIT; watch {run / 'report.html'}.")
                changes = [f"data_root={json.dumps(str(root.resolve()))}", *overrides]
                train_run(Config.load(RECIPE, [*changes, f"max_iter={iterations}", f"seed={seed}"]), run, device)
            classifier = train_classifier(
                images["trainA"],
                labels["trainA"],
                seed,
                classifier_iterations,
                prepare=preparation(arm, run, seed),
            )
            found = {
                test: accuracy(classifier, images[part], labels[part])
                for test, part in zip(TESTS, ("testA", "testB"), strict=True)
            }
            results.put(arm, seed, found)
            print(f"Seed {seed}, {text}: {', '.join(f'{test} {value:.1f} %' for test, value in found.items())}")
    for test, text in TESTS.items():
        rows = {name: [results.get(arm, seed) for seed in range(seeds)] for arm, name in ARMS.items()}
        print(
            table(
                f"Accuracy on {text}, {seeds} seeds, classifiers trained on",
                {name: [found[test] for found in row if found] for name, row in rows.items()},
            )
        )


if __name__ == "__main__":
    typer.run(main)
