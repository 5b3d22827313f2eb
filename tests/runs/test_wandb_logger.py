"""WandbLogger with a stand-in for the wandb package, which needs no network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastmunit
from fastmunit import Callback
from fastmunit.config import Config
from fastmunit.errors import FastmunitError
from fastmunit.runs import EvaluationRecord, Status, WandbLogger
from fastmunit.runs.reports.evaluation_log import Figure
from tests.runs.tiny import assert_same_checkpoint, tiny_config


class Run:
    """A stand-in for a run of W&B, which records what is logged."""

    def __init__(self, **init: Any) -> None:
        self.init, self.logs, self.exit_code = init, [], None

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logs.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that the stand-in has started."""
    started: list[Run] = []

    def init(**arguments: Any) -> Run:
        started.append(Run(**arguments))
        return started[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda image: ("image", image.size)))
    return started


def test_losses_and_kept_grids_are_logged(images: Path, uninterrupted: Path, tmp_path: Path, runs: list[Run]) -> None:
    config = tiny_config(images, log_iter=2, image_save_iter=4, image_display_iter=1)
    logger = WandbLogger(project="shoes", name="first")
    assert runs == [], "nothing starts before the training"
    result = fastmunit.train(config, tmp_path / "run", callbacks=[logger], device="cpu")
    (run,) = runs
    assert run.init == {"project": "shoes", "name": "first", "config": config.to_dict()}
    losses = {step: values for step, values in run.logs if "lr" in values}
    assert list(losses) == [2, 4, 6] and losses[6].keys() == {*result.status.losses, "lr"}
    ((step, grids),) = [(step, values) for step, values in run.logs if "lr" not in values]
    assert step == 4 and grids.keys() == {"a2b_test", "b2a_test", "a2b_train", "b2a_train"}
    assert all(grid[0] == "image" for grid in grids.values())
    assert run.exit_code == 0
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


def test_evaluations_are_logged(runs: list[Run]) -> None:
    figures = [
        Figure(measure="kid-alexnet", name="KID-AlexNet", value=2.0, low=1.5, high=2.5, better="lower"),
        Figure(measure="reconstruction", name="cycle L1 A → B", value=0.5, low=None, high=None, better="lower"),
    ]
    record = EvaluationRecord(
        iteration=4, seconds=1, duration=1, direction="a2b", inputs=9, samples=2, conditions="", figures=figures
    )
    logger = WandbLogger()
    logger.started(Status(0, 9, 0.0), SimpleNamespace(config=Config()))  # type: ignore[arg-type]
    logger.evaluated(Status(4, 9, 1.0), record, best=True)
    kid = {"evaluation/KID-AlexNet": 2.0, "evaluation/KID-AlexNet/low": 1.5, "evaluation/KID-AlexNet/high": 2.5}
    assert runs[0].logs == [(4, {**kid, "evaluation/cycle_L1_A_B": 0.5})]


def test_a_failed_run_is_marked(images: Path, tmp_path: Path, runs: list[Run]) -> None:
    class Broken(Callback):
        def iteration(self, status: Status, trainer: object) -> None:
            raise LookupError

    with pytest.raises(LookupError):
        fastmunit.train(tiny_config(images), tmp_path / "run", callbacks=[WandbLogger(), Broken()], device="cpu")
    assert [run.exit_code for run in runs] == [1]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FastmunitError, match=r'WandbLogger needs the wandb package: pip install "fastmunit\[wandb\]"'):
        WandbLogger()


def test_documented_examples_run(
    images: Path, tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs/how_to/callbacks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for number, example in enumerate(re.findall(r"(?s)```python\n(.*?)```", page)):
        config = tiny_config(images, max_iter=2, log_iter=2)
        exec(example.replace("runs/shoes", f"runs/{number}"), {"config": config, "fastmunit": fastmunit})
    assert re.fullmatch(r"2 [\d.]+ [\d.]+ images/s\n", capsys.readouterr().out)
    assert runs[0].init["project"] == "fastmunit" and runs[0].exit_code == 0
