"""Best checkpoints on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from fastmunit.runs import RunFolder
from fastmunit.runs.checkpoints.best import read_best, write_best
from tests.cli.conftest import Command
from tests.runs.tiny import make_images, tiny_config

EVALUATIONS = ("eval_iter=1", "eval_metrics=edge-agreement", "eval_inputs=10", "eval_samples=2")


@pytest.fixture
def run(fastmunit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that `eval_patience` has ended after two iterations; the first is called the best."""
    monkeypatch.setattr("fastmunit.runs.evaluator.without_improvement", len)
    tiny_config(make_images(tmp_path / "images", count=10), snapshot_save_iter=1).save(tmp_path / "config.yaml")
    settings = [word for change in (*EVALUATIONS, "eval_patience=2") for word in ("--set", change)]
    folder = tmp_path / "run"
    outcome = fastmunit("train", "--config", tmp_path / "config.yaml", "-o", folder, "--device", "cpu", *settings)
    assert outcome.status == 0, outcome.err
    assert "Stopped after iteration 2: no measure has improved beyond its interval in 2 evaluations" in outcome.out
    best = read_best(RunFolder(folder))
    assert best is not None and f"Best checkpoint: iteration {best.iteration}, edge agreement" in outcome.out
    assert outcome.err.count("edge agreement") == 2 and "(best so far)" in outcome.err
    write_best(RunFolder(folder), best.model_copy(update={"iteration": 1}))
    return folder


def test_the_best_checkpoint_is_used(fastmunit: Command, run: Path, tmp_path: Path) -> None:
    drawing = tmp_path / "images/testA/0.png"

    def translated(name: str, *words: object) -> Image.Image:
        outcome = fastmunit("translate", "-i", drawing, "-o", tmp_path / name, "--styles", 1, *words)
        assert outcome.status == 0, outcome.err
        return Image.open(tmp_path / name / "0_style00.png")

    best = translated("best", "--checkpoint", run, "--which", "best")
    first = translated("first", "--checkpoint", run / "checkpoints/gen_00000001.pt")
    newest = translated("newest", "--checkpoint", run)
    assert ImageChops.difference(best, first).getbbox() is None
    assert ImageChops.difference(best, newest).getbbox() is not None
    outcome = fastmunit("evaluate", "--checkpoint", run, "--which", "best", "--metrics", "edge-agreement")
    assert outcome.status == 0, outcome.err
    assert json.loads((run / "evaluation/evaluation.json").read_text())["checkpoint"].endswith("gen_00000001.pt")
    outcome = fastmunit("export", run, "--which", "best", "--to", "folder", "--output", tmp_path / "model")
    assert outcome.status == 0, outcome.err
    assert json.loads((tmp_path / "model/config.json").read_text())["about"]["iterations"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ("translate", "--checkpoint", "RUN", "--input", "a.png", "--output", "out"),
        ("evaluate", "--checkpoint", "RUN"),
        ("export", "RUN", "--to", "onnx", "--output", "out"),
        ("export", "RUN", "--to", "folder", "--output", "out"),
        ("page", "RUN", "--output", "out"),
        ("convert", "--checkpoint", "RUN", "--output", "out"),
        ("serve", "RUN"),
    ],
)
def test_a_run_without_a_best_checkpoint(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    if words[0] == "serve":
        pytest.importorskip("fastapi", reason="needs fastapi")
    monkeypatch.chdir(tmp_path)
    outcome = fastmunit(*(trained if word == "RUN" else word for word in words), "--which", "best")
    assert outcome.status == 1
    assert "best.json does not exist: a run has a best checkpoint if it evaluates" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_public_files_have_no_best_checkpoint(fastmunit: Command, tmp_path: Path) -> None:
    outcome = fastmunit("convert", "--public", tmp_path, "--output", tmp_path / "out", "--which", "best")
    assert outcome.status == 2 and "--which" in outcome.err
