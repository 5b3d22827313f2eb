from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import fastmunit.cli.app  # noqa: F401 - loads the commands' modules
from fastmunit import runs
from fastmunit.cli import demo
from fastmunit.config import Config
from fastmunit.errors import TrainingError
from tests.cli.conftest import Command
from tests.runs.tiny import newest


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the data of the demo with smaller networks and few iterations."""
    load = Config.load
    tiny = ["gen.dim=4", "gen.n_res=1", "gen.mlp_dim=8", "dis.dim=4", "max_iter=4", "batch_size=1", "display_size=2"]

    def load_small(name: object, overrides: object = ()) -> Config:
        return load(name, tiny) if name == "demo" else load(name)  # type: ignore[arg-type]

    monkeypatch.setattr(Config, "load", load_small)


@pytest.mark.usefixtures("small_demo")
def test_demo_writes_a_report_and_samples_and_can_run_again(fastmunit: Command, tmp_path: Path) -> None:
    folder = tmp_path / "runs/demo"
    outcome = fastmunit("demo", "--output", folder, "--device", "cpu")
    assert outcome.status == 0, outcome.err
    assert "4 iterations" in outcome.out
    assert "iterations/s" in outcome.out
    assert str(folder / "samples.png") in outcome.out
    assert f"fastmunit page {folder} --output {folder}-page\n" in outcome.out
    with Image.open(folder / "samples.png") as image:
        assert image.size == (8 * 66 + 2, (1 + 8 + 2) * 66 + 2)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Results" in report
    assert f"fastmunit page {folder} --output {folder}-page\n" in report.replace("</pre>", "\n")
    assert 'class="state finished"' in report
    assert json.loads((folder / "demo.json").read_text())["made_by"] == "fastmunit demo"
    assert newest(folder) == 4
    (folder / "checkpoints/gen_00000099.pt").write_bytes(b"of an earlier demo")
    (folder / "evaluation").mkdir()
    (folder / "evaluation/evaluation.json").write_text("of an earlier demo")
    outcome = fastmunit("demo", "--output", folder, "--device", "cpu", "--seed", 1)
    assert outcome.status == 0, outcome.err
    assert Config.load(folder / "config.yaml").seed == 1
    assert not (folder / "checkpoints/gen_00000099.pt").exists()
    assert not (folder / "evaluation").exists()
    (folder / "mine.txt").write_text("mine")
    names = sorted(path.name for path in folder.rglob("*"))
    outcome = fastmunit("demo", "--output", folder, "--device", "cpu")
    assert outcome.status == 1
    assert "is not empty (mine.txt)" in outcome.err
    assert sorted(path.name for path in folder.rglob("*")) == names


def test_a_configuration_already_chooses_the_system(fastmunit: Command, tmp_path: Path) -> None:
    outcome = fastmunit("demo", "--config", "demo_unit", "--system", "cyclegan", "--output", tmp_path / "demo")
    assert outcome.status == 1
    assert "--config demo_unit already chooses the system: leave out --system cyclegan" in outcome.err
    assert not (tmp_path / "demo").exists()


@pytest.mark.usefixtures("small_demo")
def test_demo_does_not_touch_other_folders(fastmunit: Command, tmp_path: Path, trained: Path) -> None:
    for folder in (trained, tmp_path):
        (folder / "mine.txt").write_text("mine")
        names = sorted(path.name for path in folder.iterdir())
        outcome = fastmunit("demo", "--output", folder)
        assert outcome.status == 1
        assert "not empty" in outcome.err
        assert sorted(path.name for path in folder.iterdir()) == names
    (trained / "mine.txt").unlink()


def test_an_earlier_demo_that_cannot_be_removed_is_an_error(
    fastmunit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo.json").write_text("{}")
    (tmp_path / "report.html").write_text("of an earlier demo")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    outcome = fastmunit("demo", "--output", tmp_path)
    assert outcome.status == 1
    assert re.search(r"cannot remove .*: Permission denied", outcome.err)


@pytest.mark.parametrize(
    ("minutes", "spent", "left"), [(5, 10, 282), (20, 0, 1192), (0.5, 4, 20), (0.1, 5, 0), (0.1, 4.5, 0.3)]
)
def test_training_gets_the_remaining_time_less_a_reserve(minutes: float, spent: float, left: float) -> None:
    assert demo._training_seconds(minutes, spent) == pytest.approx(left)


def test_demo_limits_the_time_of_training(fastmunit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def stop(*_: object, time_limit: float, **__: object) -> None:
        limits.append(time_limit)
        raise TrainingError("enough")

    clock = iter([100.0, 130.0])  # half a minute of preparation
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(runs, "train", stop)
    outcome = fastmunit("demo", "--output", tmp_path / "demo", "--minutes", 2, "--device", "cpu")
    assert "enough" in outcome.err
    assert limits == [120 - 30 - 8]
