"""The progress bar in a terminal, and its lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fastmunit.runs import ProgressBar, Status, progress_bar

LOSSES = {"loss_gen_total": 1.5, "loss_dis_total": 0.25, "loss_gen_adv_a": 9.0}
STATUS = Status(1234, 5000, 60, images_per_second=12.34, seconds_left=65, fraction=0.5, losses=LOSSES)
TRAINER: Any = None


def follow_a_run(bar: ProgressBar) -> None:
    bar.verifying(3, 7)
    bar.verifying(7, 7)
    bar.started(STATUS, TRAINER)
    bar.iteration(STATUS, TRAINER)
    bar.message("A message.")
    bar.finished()


@pytest.mark.parametrize(("timed", "position"), [(False, "iteration 1,234/5,000"), (True, "iteration 1,234")])
def test_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, timed: bool, position: str
) -> None:
    monkeypatch.setattr(progress_bar, "_SECONDS_BETWEEN_LINES", 0)
    follow_a_run(ProgressBar(timed))
    assert capsys.readouterr().err.splitlines() == [
        "verifying images: 3/7",
        "verifying images: 7/7",
        f"{position} gen 1.5, dis 0.25, 12.3 images/s, {progress_bar.duration(65)} left",
        "A message.",
    ]


def test_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    follow_a_run(ProgressBar())
    assert capsys.readouterr().err == "A message.\n"


def test_a_bar_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    follow_a_run(ProgressBar())
    output = capsys.readouterr().err
    assert "verifying images: 100%" in output and "7/7" in output
    assert "iteration 1,234/5,000  50%" in output and "gen 1.5, dis 0.25, 12.3 images/s" in output
    assert "A message.\n" in output
