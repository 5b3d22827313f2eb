"""The tables of the experiments with digits, against their recorded results: one JSON file per arm and seed."""

import json
import statistics
from pathlib import Path

import pytest

from examples import digits_augmentation, domain_adaptation

DOCS = Path(__file__).parents[2] / "docs"


def recorded(experiment: str, arm: str, key: str) -> list[float]:
    """Return the results of an arm by seed, and check that all its seeds had the same settings."""
    files = [json.loads(path.read_text()) for path in (DOCS / "project" / experiment).glob(f"*/{arm}_seed_*.json")]
    assert {file["arm"] for file in files} == {arm}
    assert len({json.dumps(file["settings"]) for file in files}) == 1
    return [float(file["result"][key]) for file in sorted(files, key=lambda file: int(file["seed"]))]


def mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} %"


def each(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


ROWS = {
    "plain": "images as they are",
    "affine": "random affine transforms (rotation, translation, scale)",
    "augment": "half of the images translated by `Augment`",
}


@pytest.mark.parametrize("arm", digits_augmentation.ARMS)
def test_augmentation(arm: str) -> None:
    cells = [recorded("digits_augmentation", arm, key) for key in ("optdigits", "mnist")]
    assert [len(cell) for cell in cells] == [3, 3]
    row = " | ".join([ROWS[arm], *(f"{mean(cell)} ({each(cell)})" for cell in cells)])
    assert f"| {row} |\n" in (DOCS / "how_to/augment.md").read_text()


@pytest.mark.parametrize(
    ("arm", "row"),
    [
        ("source_only", "source images"),
        ("translated", "translated source images"),
        ("target_labels", "labeled target images"),
    ],
)
def test_domain_adaptation(arm: str, row: str) -> None:
    accuracies = recorded("domain_adaptation", arm, "accuracy")
    assert len(accuracies) == 5
    page = (DOCS / "concepts/systems.md").read_text()
    assert f"| {row} | {mean(accuracies)} | {each(accuracies)} |\n" in page


def test_reverse_validation() -> None:
    scores = {arm: recorded("domain_adaptation", arm, "reverse_validation") for arm in domain_adaptation.CANDIDATES}
    best, *others = sorted(scores.values(), reverse=True)
    assert scores["recipe"] == best
    text = f"({each(best)} %, and " + " and ".join(f"{each(score)} %" for score in others) + " of the other candidates)"
    assert text in (DOCS / "concepts/systems.md").read_text()


def test_gain_of_translation() -> None:
    source, translated = (recorded("domain_adaptation", arm, "accuracy") for arm in ("source_only", "translated"))
    gains = [after - before for before, after in zip(source, translated, strict=True)]
    assert min(gains) > 0
    text = mean(gains).replace(" %", " percentage points")
    assert f"helped for every seed, by {text}" in (DOCS / "concepts/systems.md").read_text()
