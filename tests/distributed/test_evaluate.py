"""`evaluate` gives the same results in any number of processes, and all of them end when one fails."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastmunit import load_translator
from fastmunit.config import Config
from fastmunit.metrics.evaluate import evaluate
from fastmunit.metrics.measures.reconstruction import Reconstruction
from fastmunit.runs import RunFolder
from fastmunit.runs.checkpoints.best import read_best
from fastmunit.runs.reports.evaluation_log import read_records
from tests.distributed.evaluations import COUNT, DAMAGED, KILLED, TASKS, outcome, outcomes, prepare
from tests.distributed.launch import ROOT, outputs, run, start

MODULE = "tests.distributed.evaluations"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model, its images, and the results of two processes."""
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    root = tmp_path_factory.mktemp("evaluations")
    prepare(root)
    run(2, "-m", MODULE, str(root), *TASKS)
    return root


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of one process."""
    return {task: outcome(folder, task) for task in ("everything", "few", "inspected", "command")}


def equal(a: Any, b: Any) -> bool:
    """Return True if all numbers, strings and bits of tensors are equal."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def assert_same(folder: Path, world: int, task: str, alone: dict[str, Any]) -> None:
    first, *others = outcomes(folder, world, task)
    assert first["report"] == alone["report"]
    assert equal(first["sheets"], alone["sheets"]) and alone["sheets"]
    for other in others:
        assert other["report"] == first["report"]
        assert other["sheets"] == []


def test_two_processes_have_the_results_of_one(folder: Path, alone: dict[str, dict[str, Any]]) -> None:
    report = alone["everything"]["report"]
    assert len(report["per_input"]) == COUNT - 2 and len(report["failures"]) == len(DAMAGED)
    assert all(figure["low"] is not None for figure in report["figures"])
    assert len(report["figures"]) == 9 and "% on 12 test images" in report["figures"][3]["note"]
    assert_same(folder, 2, "everything", alone["everything"])
    assert_same(folder, 2, "few", alone["few"])
    assert_same(folder, 2, "inspected", alone["inspected"])
    assert len(alone["inspected"]["report"]["inputs"]) == COUNT - 2 and len(alone["inspected"]["sheets"]) == 3
    first, second = (result["progress"] for result in outcomes(folder, 2, "everything"))
    assert (0.15, "input 1/5 (process 1 of 2)") in first and first[-1] == (1.0, "done")
    assert second == []


@pytest.mark.slow
@pytest.mark.parametrize("world", [3, 4])
def test_more_processes(world: int, folder: Path, alone: dict[str, dict[str, Any]]) -> None:
    """One of the tasks has fewer inputs than processes."""
    run(world, "-m", MODULE, str(folder), *TASKS)
    for task in ("everything", "few", "inspected"):
        assert_same(folder, world, task, alone[task])


def test_an_error_in_one_process_ends_all(folder: Path) -> None:
    first, second = (result["error"] for result in outcomes(folder, 2, "failing"))
    assert first == "RankError: rank 1 failed: not enough memory here"
    assert second == "FastmunitError: not enough memory here"


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all(folder: Path) -> None:
    processes = start(3, ["-m", MODULE, str(folder), KILLED])
    outputs(processes)
    assert processes[1].returncode == -signal.SIGKILL
    for rank in (0, 2):
        error = torch.load(folder / f"3_{rank}_{KILLED}.pt", weights_only=True)["error"]
        assert error.startswith(f"RankError: rank {rank} could not") and "\nrank 1 does not answer; " in error


def test_an_error_in_all_processes_names_no_rank(folder: Path) -> None:
    for result in outcomes(folder, 2, "without_images"):
        assert result["error"].startswith("DataError: ") and "does not exist" in result["error"]


def test_different_arguments_are_refused(folder: Path) -> None:
    for rank, result in enumerate(outcomes(folder, 2, "differing")):
        message = f"rank {1 - rank} has another choice of inputs and outputs than rank {rank}"
        assert result["error"].startswith(f"ConfigError: {message}")


def test_one_command(folder: Path, alone: dict[str, dict[str, Any]]) -> None:
    """Only the first process writes and prints, also the failures."""
    first, second = outcomes(folder, 2, "command")
    assert second == {"status": 1, "out": "", "err": ""}
    assert first["status"] == alone["command"]["status"] == 1
    assert first["out"].replace("command_2", "command_1") == alone["command"]["out"]
    assert "2 images could not be read; the scores use the others" in first["err"]
    assert first["err"] == alone["command"]["err"]
    for name in ("evaluation.json", "evaluation.html"):
        # The footer of the page has the time.
        one, two = ((folder / f"command_{n}" / name).read_text().partition("<footer>")[0] for n in (1, 2))
        assert one == two


@pytest.mark.slow
def test_devices(folder: Path, alone: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """`--devices` starts the processes itself."""
    arguments = ["--checkpoint", folder / "run", "--metrics", "edge-agreement,reconstruction", "--inputs", 5]
    arguments += ["--samples", "2", "--device", "cpu", "-o", tmp_path, "--devices", "3"]
    command = [sys.executable, "-m", "fastmunit", "evaluate", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("2 images could not be read; the scores use the others") == 1
    assert ended.stdout.count("a2b  edge agreement") == 1
    assert (tmp_path / "evaluation.json").read_bytes() == (folder / "command_1/evaluation.json").read_bytes()


def test_evaluations_of_a_training(of_two_processes: Path) -> None:
    """The records of two processes are what one process measures at their checkpoints."""
    folder = RunFolder(of_two_processes / "evaluated/run")
    config = Config.load(folder.config)
    records = read_records(folder.evaluations)
    assert [record.iteration for record in records] == [1, 2, 3]
    for record in records:
        file = folder.checkpoints / f"gen_{record.iteration:08d}.pt"
        forward, backward = (load_translator(file, direction=direction, device="cpu") for direction in ("a2b", "b2a"))
        result = evaluate(forward, config, [Reconstruction()], backward=backward, inputs=5, samples=2)
        assert [figure.value for figure in record.figures] == [score.estimate.value for score in result.scores]
    best = read_best(folder)
    assert best is not None
    assert best.value == min(record.figures[0].value for record in records)
