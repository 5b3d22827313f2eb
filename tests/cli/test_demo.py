from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fastmunit.config import Config
from tests.cli.conftest import Command
from tests.training.tiny import newest


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's data with smaller networks and few iterations."""
    load = Config.load
    tiny = ["gen.dim=4", "gen.n_res=1", "gen.mlp_dim=8", "dis.dim=4", "max_iter=4", "batch_size=1", "display_size=2"]

    def load_small(name: object, overrides: object = ()) -> Config:
        return load(name, tiny) if name == "demo" else load(name)  # type: ignore[arg-type]

    monkeypatch.setattr(Config, "load", load_small)


@pytest.mark.usefixtures("small_demo")
def test_demo_leaves_a_report_and_samples_and_can_run_again(fastmunit: Command, tmp_path: Path) -> None:
    folder = tmp_path / "runs/demo"
    outcome = fastmunit("demo", "--output", folder, "--device", "cpu")
    assert outcome.status == 0, outcome.err
    assert "4 iterations" in outcome.out
    assert "iterations/s" in outcome.out
    assert str(folder / "samples.png") in outcome.out
    with Image.open(folder / "samples.png") as image:
        assert image.size == (8 * 66 + 2, (1 + 8 + 2) * 66 + 2)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Results" in report
    assert 'class="state finished"' in report
    assert json.loads((folder / "demo.json").read_text())["made_by"] == "fastmunit demo"
    assert newest(folder) == 4
    (folder / "checkpoints/gen_00000099.pt").write_bytes(b"of an earlier demo")
    outcome = fastmunit("demo", "--output", folder, "--device", "cpu", "--seed", 1)
    assert outcome.status == 0, outcome.err
    assert Config.load(folder / "config.yaml").seed == 1
    assert not (folder / "checkpoints/gen_00000099.pt").exists()


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


@pytest.mark.slow
def test_demo_keeps_its_time(fastmunit: Command, tmp_path: Path) -> None:
    outcome = fastmunit("demo", "--output", tmp_path / "demo", "--minutes", 0.25)
    assert outcome.status == 0, outcome.err
    assert newest(tmp_path / "demo") is not None
