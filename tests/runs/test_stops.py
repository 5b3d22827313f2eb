"""Runs end when they are asked to, even while they wait, and a killed run can be restarted at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from fastmunit.data import sampling
from fastmunit.errors import CheckpointError
from fastmunit.runs import RunFolder, loop, train
from fastmunit.runs.checkpoints.run_folder import _held
from tests.runs.tiny import Recorder, assert_same_checkpoint, newest, tiny_config

ROOT = Path(__file__).parents[2]

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to single processes")


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Images of the second epoch do not arrive, as on a disk that hangs. Setting the event releases the thread."""
    go_on = threading.Event()
    load = sampling._Pairs.__getitem__

    def wait(self: sampling._Pairs, position: sampling._Position) -> object:
        if position.epoch > 0:
            go_on.wait(1000)
        return load(self, position)

    monkeypatch.setattr(sampling._Pairs, "__getitem__", wait)
    monkeypatch.setattr(loop, "_SECONDS_FOR_A_BATCH", 0.6)
    return go_on


@posix
@pytest.mark.parametrize(("number", "num_workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_signal_while_waiting_for_images(
    images: Path,
    uninterrupted: Path,
    tmp_path: Path,
    stalled: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    num_workers: int,
) -> None:
    config = tiny_config(images, num_workers=num_workers, snapshot_save_iter=1000)
    signals = threading.Timer(0.3, os.kill, (os.getpid(), number))
    recorder = Recorder({2: signals.start})
    result = train(config, tmp_path / "run", device="cpu", callbacks=[recorder])
    assert (result.ended, result.iterations, newest(tmp_path / "run")) == (number.name, 2, 2)
    assert any("No images arrived" in message for message in recorder.messages)
    assert 'class="state stopped"' in result.folder.report.read_text(encoding="utf-8")
    assert not multiprocessing.active_children()
    stalled.set()
    monkeypatch.undo()
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_time_limit_while_waiting_for_images(
    images: Path, tmp_path: Path, stalled: threading.Event, num_workers: int
) -> None:
    config = tiny_config(images, num_workers=num_workers)
    result = train(config, tmp_path / "run", device="cpu", time_limit=1.0)
    assert result.ended == "time"
    assert result.iterations <= 2
    assert newest(tmp_path / "run") == (result.iterations or None)
    stalled.set()


STALLED = """
import sys, time
from fastmunit.data import sampling
load = sampling._Pairs.__getitem__
def wait(self, position):
    if position.epoch > 0:
        time.sleep(1000)
    return load(self, position)
sampling._Pairs.__getitem__ = wait
from fastmunit.cli import main
main()
"""


def saved(folder: Path) -> int:
    """Return the iterations of the newest checkpoint of a run that another process may be saving right now."""
    with suppress(CheckpointError):
        return newest(folder) or 0
    return 0


class Training:
    """A process group that runs `fastmunit train`. If `stalled`, images stop arriving after two iterations."""

    def __init__(self, config_file: Path, folder: Path, *, stalled: bool, resume: bool = False) -> None:
        self.folder = RunFolder(folder)
        program = ["-c", STALLED] if stalled else ["-m", "fastmunit"]
        command = [sys.executable, *program, "train", "--config", str(config_file), "--output", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--device", "cpu", *(["--resume"] if resume else [])],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not reached():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def alive(self) -> bool:
        """Return True if any process of the group exists."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait_until_all_are_gone(self) -> None:
        deadline = time.monotonic() + 30
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not self.alive()


@posix
@pytest.mark.parametrize(("num_workers", "signals"), [(0, ["SIGTERM"]), (1, ["SIGINT", "SIGINT"])])
def test_process_ends_although_images_stall(images: Path, tmp_path: Path, num_workers: int, signals: list[str]) -> None:
    tiny_config(images, num_workers=num_workers, snapshot_save_iter=1).save(tmp_path / "config.yaml")
    training = Training(tmp_path / "config.yaml", tmp_path / "run", stalled=True)
    try:
        training.wait_until(lambda: saved(tmp_path / "run") == 2)
        for name in signals:
            time.sleep(0.3)
            os.killpg(training.process.pid, signal.Signals[name])
        out, err = training.process.communicate(timeout=60)
        assert training.process.returncode == 130, err
        assert "Traceback" not in err
        assert ("interrupted" in err) == (len(signals) == 2)
        assert ("after iteration 2; everything is saved" in out) == (len(signals) == 1)
        training.wait_until_all_are_gone()
    finally:
        training.process.kill()


def restart_after_kill_9(images: Path, folder: Path, times: int) -> None:
    config = tiny_config(images, num_workers=2, max_iter=10**6, snapshot_save_iter=1, log_iter=1000)
    config.save(folder / "config.yaml")
    reached = 0
    for restart in range(times + 1):
        # The workers of the first process hang when it is killed.
        training = Training(folder / "config.yaml", folder / "run", stalled=restart == 0, resume=restart > 0)
        try:
            training.wait_until(lambda: saved(folder / "run") > reached)  # noqa: B023
        finally:
            training.process.kill()
            training.process.wait()
        with RunFolder(folder / "run").lock():  # at once: its workers may still exist
            reached = saved(folder / "run")
        training.wait_until_all_are_gone()
        training.process.communicate()


@posix
def test_restart_at_once_after_kill_9(images: Path, tmp_path: Path) -> None:
    restart_after_kill_9(images, tmp_path, 1)


@posix
@pytest.mark.slow
def test_many_restarts_at_once_after_kill_9(images: Path, tmp_path: Path) -> None:
    restart_after_kill_9(images, tmp_path, 12)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_processes_do_not_hold_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    child = context.Process(target=lambda: (begun.set(), end.wait()))
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        child.start()
        assert begun.wait(60)
    try:
        assert not _held
        with folder.lock():
            assert child.is_alive()
    finally:
        end.set()
        child.join()
