"""Run folders that are removed or moved during a run, or used by two processes."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmunit.errors import FastmunitError, TrainingError
from fastmunit.files import require_writable
from fastmunit.runs import RunFolder, Status, train
from fastmunit.runs.reports.tensorboard import TensorBoardLogger
from tests.runs.tiny import Recorder, assert_same_checkpoint, newest, tiny_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tracebacks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The exceptions that have ended threads."""
    found: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: found.append(arguments))
    return found


@pytest.mark.parametrize("name", ["logs", "images", "checkpoints"])
def test_a_removed_subfolder_is_created_again(
    images: Path, uninterrupted: Path, tmp_path: Path, tracebacks: list[object], name: str
) -> None:
    run = tmp_path / "run"
    recorder = Recorder({3: lambda: shutil.rmtree(run / name)})
    train(tiny_config(images, image_display_iter=2), run, device="cpu", callbacks=[recorder])
    assert_same_checkpoint(uninterrupted, run, 7)
    assert len(list((run / "images").glob("*_current.jpg"))) == 4
    with RunFolder(run).losses.open(newline="") as file:
        logged = [int(row["iteration"]) for row in csv.DictReader(file)]
    assert logged == ([4, 5, 6, 7] if name == "logs" else [1, 2, 3, 4, 5, 6, 7])
    notes = [text for text in recorder.messages if "was removed while training" in text]
    assert len(notes) == (name == "logs") and all(str(run / "logs") in text for text in notes)
    assert tracebacks == []


def test_a_new_event_file_is_readable(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard package is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recorder = Recorder({2: lambda: shutil.rmtree(tmp_path / "run/logs")})
    train(tiny_config(images, max_iter=4), tmp_path / "run", device="cpu", callbacks=[recorder])
    events = EventAccumulator(str(tmp_path / "run/logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_gen_total")] == [3, 4]


def move_away(run: Path) -> None:
    run.rename(run.with_name("moved"))


def replace_by_a_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("a file")


@pytest.mark.parametrize("lose", [shutil.rmtree, move_away, replace_by_a_file])
@pytest.mark.parametrize("changes", [{}, {"log_iter": 100}, {"log_iter": 100, "image_display_iter": 4}])
def test_a_run_folder_that_is_gone_is_named(
    images: Path,
    tmp_path: Path,
    tracebacks: list[object],
    lose: Callable[[Path], None],
    changes: dict[str, int],
) -> None:
    """The message is the same whether the log, the grids or the checkpoint come first."""
    run = tmp_path / "run"
    recorder = Recorder({3: lambda: lose(run)})
    with pytest.raises(TrainingError, match=rf"the run folder {run} is gone") as raised:
        train(tiny_config(images, **changes), run, device="cpu", callbacks=[recorder])
    assert "learning rate" not in str(raised.value)
    assert not run.is_dir(), "it is not created again"
    assert tracebacks == []
    if lose is move_away:
        assert newest(tmp_path / "moved") == 2
        assert train(tiny_config(images), tmp_path / "moved", device="cpu", resume=True).iterations == 7


def test_a_full_disk_under_the_event_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard package is not installed")
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    log = TensorBoardLogger(tmp_path)
    monkeypatch.setattr(TensorBoardLogger, "_open", lambda self: Path("/dev/full").open("wb"))  # noqa: SIM115
    next(iter(tmp_path.iterdir())).unlink()
    with pytest.raises(TrainingError, match=rf"TensorBoard logs into {tmp_path}: {os.strerror(errno.ENOSPC)}"):
        log.logged(Status(1, 1, 0.0, losses={"loss": 1.0}))
    log.finished()


CONTEST = """
import os, sys
from pathlib import Path
from fastmunit.runs.checkpoints.run_folder import RunFolder
from fastmunit.files import require_writable
child = os.fork()
for _ in range(400):
    RunFolder(sys.argv[1]).create()
    require_writable(Path(sys.argv[1]) / "elsewhere" / "deep" / "file")
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_two_processes_make_the_same_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTEST, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert both.returncode == 0, both.stderr
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoints", "images", "logs"]
    assert os.listdir(tmp_path / "run/checkpoints") == [], "nothing is left behind"


def test_a_folder_is_still_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    RunFolder(tmp_path / "run").create()
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(FastmunitError, match="No space left on device"):
        RunFolder(tmp_path / "run").create()
    with pytest.raises(FastmunitError, match="File name too long"):
        require_writable(tmp_path / ("x" * 300) / "file")
