"""examples/domain_adaptation.py: digits, the choice of settings, and interrupted runs that continue."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from examples import digits as example
from examples import domain_adaptation, experiment
from fastmunit.errors import DataError, FastmunitError
from fastmunit.runs import RunFolder
from fastmunit.runs.callbacks import Callback, Status
from fastmunit.systems.base import System

TINY = ["gen.dim=2", "gen.n_res=1", "dis.dim=2", "batch_size=2", "display_size=2", "log_iter=1"]


def bars(count: int, size: int, thickness: int) -> example.Digits:
    """Return vertical and horizontal bars as digits 0 and 1."""
    images = np.zeros((count, size, size), np.uint8)
    labels = (np.arange(count) % 2).astype(np.uint8)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        start = 1 + index % (size - thickness - 1)
        bar = image.T if label else image
        bar[start : start + thickness] = 255
    return example.Digits(images, labels)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the program on bars, thick in one domain and thin in the other."""
    monkeypatch.setattr(domain_adaptation, "load_optdigits", lambda: bars(44, 8, 2))
    monkeypatch.setattr(domain_adaptation, "load_mnist", lambda folder: bars(60, 20, 3))
    monkeypatch.setattr(domain_adaptation, "VALIDATION", 20)
    monkeypatch.setattr(domain_adaptation, "DISPLAYED", 16)
    monkeypatch.setattr(domain_adaptation, "CANDIDATES", {"recipe": [], "slow": ["lr=0.0003"]})
    app = typer.Typer()
    app.command()(domain_adaptation.main)

    def invoke(*arguments: str, iterations: int = 1) -> Result:
        changes = [part for change in TINY for part in ("--set", change)]
        fixed = ["--iterations", str(iterations), "--classifier-iterations", "3", "--device", "cpu", *changes]
        return CliRunner().invoke(app, ["-o", str(tmp_path / "out"), *fixed, *arguments])

    return invoke


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.iterdir())}


def test_digits_of_both_domains() -> None:
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


def test_mnist_from_a_folder(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    digits = example.load_mnist(write_idx(tmp_path, idx(images), idx(labels)))
    assert np.array_equal(digits.images, images[:, 4:24, 4:24])
    assert np.array_equal(digits.labels, labels)


def test_damaged_mnist_files_are_named(tmp_path: Path) -> None:
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


def test_images_are_written_once_and_in_order(tmp_path: Path) -> None:
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


def test_classifier_learns_and_accuracy_counts(tmp_path: Path) -> None:
    digits = bars(60, 8, 2)
    images = example.read_images(example.write_images(digits, tmp_path / "images"))
    labels = torch.from_numpy(digits.labels).long()
    classifier = example.train_classifier(images, labels, seed=0, iterations=40)
    assert not classifier.training
    assert example.accuracy(classifier, images, labels) == 100
    assert example.accuracy(classifier, images, 1 - labels) == 0
    wrong = labels.clone()
    wrong[:15] = 7
    assert example.accuracy(classifier, images, wrong) == 75


def test_classifiers_see_every_image_once_per_epoch_in_one_order() -> None:
    images, labels = torch.zeros(7, 1, 32, 32), torch.zeros(7, dtype=torch.int64)
    seen: dict[int, list[tuple[int, list[int]]]] = {0: [], 1: []}
    for k, calls in seen.items():

        def prepare(batch: torch.Tensor, indices: torch.Tensor, epoch: int, calls: Any = calls) -> torch.Tensor:
            assert len(batch) == len(indices)
            calls.append((epoch, indices.tolist()))
            return batch

        torch.manual_seed(k)
        example.train_classifier(images, labels, seed=5, iterations=7, batch_size=3, prepare=prepare)
    assert seen[0] == seen[1] and [epoch for epoch, _ in seen[0]] == [0, 0, 0, 1, 1, 1, 2]
    orders = [[index for epoch, part in seen[0] if epoch == number for index in part] for number in (0, 1)]
    assert orders[0] != orders[1] and all(sorted(order) == list(range(7)) for order in orders)


def test_parts_do_not_overlap_and_leave_nothing_out() -> None:
    source, target = bars(400, 8, 2), bars(300, 20, 3)
    numbered = [
        example.Digits(np.arange(len(d.images), dtype=np.uint8)[:, None, None], d.labels) for d in (source, target)
    ]
    parts = domain_adaptation.split(*numbered)
    assert [len(part.images) for part in parts] == [100, 300, 136, 64, 100]
    for together, whole in (
        ((parts.source, parts.validation), 400),
        ((parts.held_out, parts.target, parts.displayed), 300),
    ):
        assert np.concatenate([part.images.ravel() for part in together]).tolist() == [k % 256 for k in range(whole)]


def test_every_result_is_computed_once(run: Callable[..., Result], tmp_path: Path) -> None:
    outcome = run("--seeds", "1")
    assert outcome.exit_code == 0, outcome.output
    assert "Accuracy on 20 held-out digits, optdigits2mnist, 1 seeds, UNIT '" in outcome.output
    assert outcome.output.count("training UNIT") == 3 and "±" not in outcome.output.split("Accuracy")[1]
    first = results(tmp_path / "out/results")
    assert set(first) == {"source_only_seed_0", "translated_seed_0", "target_labels_seed_0"}
    scores = {name: one["result"]["reverse_validation"] for name, one in results(tmp_path / "out/selection").items()}
    assert set(scores) == {"recipe_seed_1000", "slow_seed_1000"}
    chosen = max(scores, key=lambda name: scores[name]).removesuffix("_seed_1000")
    assert all(one["result"]["settings_of_unit"] == chosen for one in first.values())
    assert all(one["settings"]["iterations"] == 1 for one in first.values())
    (tmp_path / "out/results/source_only_seed_0.json").unlink()
    outcome = run("--seeds", "2")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.count("training UNIT") == 1 and "Seed 0, trained on source images" in outcome.output
    assert "Seed 0, trained on translated" not in outcome.output and "±" in outcome.output
    second = results(tmp_path / "out/results")
    assert len(second) == 6 and {name: second[name] for name in first} == first


def test_other_settings_and_damaged_results_are_errors(tmp_path: Path) -> None:
    experiment.Results(tmp_path, {"lr": 1}).put("arm", 3, {"accuracy": 5.0})
    assert experiment.Results(tmp_path, {"lr": 1}).get("arm", 3) == {"accuracy": 5.0}
    assert experiment.Results(tmp_path, {"lr": 1}).get("arm", 4) is None
    with pytest.raises(FastmunitError, match="give another --output"):
        experiment.Results(tmp_path, {"lr": 2}).get("arm", 3)
    for damaged in ('{"settings": ', "[]", '{"settings": {"lr": 1}}', '{"settings": {"lr": 1}, "result": 3}'):
        (tmp_path / "arm_seed_3.json").write_text(damaged)
        with pytest.raises(FastmunitError, match="remove it to compute it again"):
            experiment.Results(tmp_path, {"lr": 1}).get("arm", 3)


def test_an_interrupted_training_continues(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(Callback):
        def iteration(self, status: Status, trainer: System) -> None:
            if status.iterations == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "ProgressBar", Impatient)
        outcome = run("--seeds", "1", iterations=5)
    assert outcome.exit_code == 130 and "run the same command to continue" in outcome.output
    assert not (tmp_path / "out/results").exists()
    outcome = run("--seeds", "1", iterations=5)
    assert outcome.exit_code == 0, outcome.output
    assert re.search("Resuming after iteration [34]", outcome.output)
    rows = RunFolder(tmp_path / "out/runs/recipe").losses.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4", "5"]


def test_labels_of_the_target_decide_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    """With other labels of the target digits in training, only the classifier that is trained on them changes."""
    found = []
    digits = bars(60, 20, 3)
    mislabeled = digits.labels.copy()
    mislabeled[20:] = 9
    for name, labels in (("right", digits.labels), ("wrong", mislabeled)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                domain_adaptation, "load_mnist", lambda _, labels=labels: example.Digits(digits.images, labels)
            )
            outcome = run("--seeds", "1", "--classifier-iterations", "12", "-o", str(tmp_path / name))
        assert outcome.exit_code == 0, outcome.output
        found.append({part: results(tmp_path / name / part) for part in ("selection", "results")})
    right, wrong = found
    assert right["selection"] == wrong["selection"]
    assert all(right["results"][arm] == wrong["results"][arm] for arm in ("source_only_seed_0", "translated_seed_0"))
    accuracies = [one["results"]["target_labels_seed_0"]["result"]["accuracy"] for one in found]
    assert accuracies[0] > 0 == accuracies[1]


def test_reverse_validation_sees_whether_classes_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A translator that keeps classes scores 100 %, one that exchanges them on the way back 0 %."""
    digits = bars(60, 8, 2)
    images = example.read_images(example.write_images(digits, tmp_path / "images"))
    labels = torch.from_numpy(digits.labels).long()
    known = domain_adaptation.Images(images, images, images)
    for turned, score in ((False, 100), (True, 0)):
        monkeypatch.setattr(
            domain_adaptation,
            "translated",
            lambda _, x, direction, turned=turned: x.mT if turned and direction == "b2a" else x,
        )
        assert domain_adaptation.reverse_validation(tmp_path, known, labels, labels, 40) == score


def test_the_table_has_means_and_deviations() -> None:
    lines = experiment.table("title", {"source": [40.0, 50.0], "target": [99.0, 99.0]}).splitlines()
    assert lines[0] == "title"
    assert lines[1].split() == ["source", "45.0", "±", "7.1", "%", "(40.0,", "50.0)"]
    assert lines[2].split() == ["target", "99.0", "±", "0.0", "%", "(99.0,", "99.0)"]
    assert "±" not in experiment.table("one", {"source": [40.0]})
