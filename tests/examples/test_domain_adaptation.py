"""examples/domain_adaptation.py: digits, classifiers, and interrupted runs that continue."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from fastmunit.errors import DataError
from fastmunit.runs.callbacks import Callback, Status
from fastmunit.systems.base import System

SCRIPT = Path(__file__).parents[2] / "examples" / "domain_adaptation.py"
TINY = ["max_iter=2", "gen.dim=2", "gen.n_res=1", "dis.dim=2", "batch_size=2", "display_size=2"]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("domain_adaptation", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bars(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace digits 0 and 1 by vertical and horizontal bars, thick in one domain and thin in the other."""

    def domain(count: int, size: int, thickness: int) -> Any:
        images = np.zeros((count, size, size), np.uint8)
        labels = (np.arange(count) % 2).astype(np.uint8)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            start = 1 + index % (size - thickness - 1)
            bar = image.T if label else image
            bar[start : start + thickness] = 255
        return example.Digits(images, labels)

    monkeypatch.setattr(example, "load_optdigits", lambda: domain(104, 8, 2))
    monkeypatch.setattr(example, "load_mnist", lambda folder: domain(60, 20, 3))
    return domain


@pytest.fixture
def run(example: ModuleType, bars: Any, tmp_path: Path) -> Callable[..., Result]:
    app = typer.Typer()
    app.command()(example.main)

    def invoke(*arguments: str, settings: tuple[str, ...] = ()) -> Result:
        changes = [part for change in (*TINY, *settings) for part in ("--set", change)]
        fixed = ["-o", str(tmp_path / "out"), "--epochs", "1", "--device", "cpu", *changes]
        return CliRunner().invoke(app, [*fixed, *arguments])

    return invoke


def results(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "out" / "results.json").read_text())["results"]


def test_digits_of_both_domains(example: ModuleType) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    for digits, count, size in ((example.load_optdigits(), 1797, 8), (example.load_mnist(None), 3000, 20)):
        assert digits.images.shape == (count, size, size)
        assert digits.images.dtype == digits.labels.dtype == np.uint8
        assert digits.images.min() == 0 and digits.images.max() == 255
        shares = np.bincount(digits.labels, minlength=10) / count
        assert len(shares) == 10 and shares.min() > 0.08
        # White on black: 0 is the most frequent value, and nearly all corners are black.
        assert np.bincount(digits.images.ravel()).argmax() == 0
        assert (digits.images[:, 0, 0] == 0).mean() > 0.95


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def write_idx(folder: Path, images: bytes, labels: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def test_mnist_from_a_folder(example: ModuleType, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    digits = example.load_mnist(write_idx(tmp_path, idx(images), idx(labels)))
    assert np.array_equal(digits.images, images[:, 4:24, 4:24])
    assert np.array_equal(digits.labels, labels)


def test_damaged_mnist_files_are_named(example: ModuleType, tmp_path: Path) -> None:
    images, labels = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.uint8)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz does not exist: give --mnist"):
        example.load_mnist(tmp_path / "nowhere")
    for wrong in (
        b"",
        idx(images)[:10],
        idx(images)[:-1],
        idx(labels),
        b"no idx file at all, but longer than its head",
    ):
        with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is not a gzipped idx file of 3 dimensions"):
            example.load_mnist(write_idx(tmp_path, wrong, idx(labels)))
    folder = write_idx(tmp_path, idx(images), idx(labels[:3]))
    with pytest.raises(DataError, match="4 images but 3 labels"):
        example.load_mnist(folder)
    path = folder / "t10k-images-idx3-ubyte.gz"
    for content in (path.read_bytes()[:-9], b"not gzipped"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is not a gzipped"):
            example.load_mnist(folder)


def test_images_are_written_once_and_in_order(example: ModuleType, bars: Any, tmp_path: Path) -> None:
    digits = bars(30, 8, 2)
    paths = example.write_images(digits, tmp_path / "images")
    assert paths == sorted((tmp_path / "images").iterdir())
    paths[3].unlink()
    times = {path: path.stat().st_mtime_ns for path in paths if path.exists()}
    assert example.write_images(digits, tmp_path / "images") == paths
    assert {path: path.stat().st_mtime_ns for path in times} == times
    images = example.read_images(paths)
    assert images.shape == (30, 1, 32, 32)
    assert images.min() == -1 and images.max() == 1
    upright = images.std(dim=3).mean(dim=(1, 2)) > images.std(dim=2).mean(dim=(1, 2))
    assert upright.tolist() == [label == 1 for label in digits.labels]


def test_classifier_learns_and_accuracy_counts(example: ModuleType, bars: Any, tmp_path: Path) -> None:
    digits = bars(60, 8, 2)
    images = example.read_images(example.write_images(digits, tmp_path / "images"))
    labels = torch.from_numpy(digits.labels).long()
    classifier = example.train_classifier(images, labels, seed=0, epochs=20)
    assert not classifier.training
    assert example.accuracy(classifier, images, labels) == 100
    assert example.accuracy(classifier, images, 1 - labels) == 0
    wrong = labels.clone()
    wrong[:15] = 7
    assert example.accuracy(classifier, images, wrong) == 75


def test_finished_seeds_are_not_computed_again(run: Callable[..., Result], tmp_path: Path) -> None:
    outcome = run("--seeds", "1")
    assert outcome.exit_code == 0, outcome.output
    assert "Accuracy on 20 held-out digits, optdigits2mnist, 1 seeds" in outcome.output
    assert (tmp_path / "out" / "seed_0" / "report.html").exists()
    first = results(tmp_path)
    assert set(first[0]["accuracy"]) == {"source_only", "translated", "target_labels"}
    assert first[0]["iterations"] == 2
    outcome = run("--seeds", "2")
    assert outcome.exit_code == 0, outcome.output
    assert "Seed 0" not in outcome.output and "Seed 1" in outcome.output
    assert results(tmp_path)[0] == first[0] and [result["seed"] for result in results(tmp_path)] == [0, 1]


def test_other_settings_and_damaged_results_are_errors(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("--seeds", "1").exit_code == 0
    for other in (["--minutes", "9"], ["--direction", "mnist2optdigits"], ["--set", "lr=0.5"]):
        outcome = run("--seeds", "1", *other)
        assert outcome.exit_code == 1 and "give another --output" in outcome.output
    (tmp_path / "out" / "results.json").write_text('{"settings": ')
    outcome = run("--seeds", "1")
    assert outcome.exit_code == 1 and "remove it to start again" in outcome.output


def test_an_interrupted_training_continues(
    run: Callable[..., Result], example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(Callback):
        def __init__(self, timed: bool = False) -> None:
            pass

        def iteration(self, status: Status, trainer: System) -> None:
            if status.iterations == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(example, "ProgressBar", Impatient)
        outcome = run("--seeds", "1", settings=("max_iter=5", "log_iter=1"))
    assert outcome.exit_code == 130 and "run the same command to continue" in outcome.output
    assert not (tmp_path / "out" / "results.json").exists()
    assert example.seconds_trained(example.RunFolder(tmp_path / "out" / "seed_0")) > 0
    outcome = run("--seeds", "1", settings=("max_iter=5", "log_iter=1"))
    assert outcome.exit_code == 0, outcome.output
    assert re.search("Resuming after iteration [34]", outcome.output)
    assert results(tmp_path)[0]["iterations"] == 5


def test_translations_do_not_use_labels_of_the_target(
    run: Callable[..., Result], example: ModuleType, bars: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other labels of the target digits, only the classifier that is trained on them changes."""
    accuracies = []
    digits = bars(60, 20, 3)
    mislabeled = digits.labels.copy()
    mislabeled[:40] = 9
    for name, labels in (("right", digits.labels), ("wrong", mislabeled)):
        monkeypatch.setattr(example, "load_mnist", lambda _, labels=labels: example.Digits(digits.images, labels))
        outcome = run("--seeds", "1", "--epochs", "4", "-o", str(tmp_path / "out" / name))
        assert outcome.exit_code == 0, outcome.output
        content = json.loads((tmp_path / "out" / name / "results.json").read_text())
        accuracies.append(content["results"][0]["accuracy"])
    right, wrong = accuracies
    assert right["source_only"] == wrong["source_only"] and right["translated"] == wrong["translated"]
    assert right["target_labels"] > 0 == wrong["target_labels"]


def test_the_table_has_means_and_deviations(example: ModuleType) -> None:
    results = [
        {"accuracy": {"source_only": a, "translated": b, "target_labels": 99.0}} for a, b in ((40, 70), (50, 72))
    ]
    lines = example.summary(results, "title").splitlines()
    assert lines[0] == "title"
    assert lines[1].split("images")[1].split() == ["45.0", "±", "7.1", "%", "(40.0,", "50.0)"]
    assert lines[2].split("images")[1].split() == ["71.0", "±", "1.4", "%", "(70.0,", "72.0)"]
    assert "±" not in example.summary(results[:1], "one")
