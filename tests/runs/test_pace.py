"""Speeds and times of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmunit.config import Config
from fastmunit.runs import pace, train
from fastmunit.runs.pace import Pace
from tests.runs.tiny import Recorder, tiny_config


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def trained(clock: Clock, seconds: list[float], *, first: int = 0, before: float = 0.0) -> Pace:
    """Return the pace of a run after iterations that took `seconds` each."""
    run = Pace(Config(max_iter=1000, batch_size=2), clock.now, None)
    run.first, run.seconds_before = first, before
    clock.now += 7  # loading networks
    run.start()
    for duration in seconds:
        clock.now += duration
        run.iteration()
    return run


def test_speed_is_recent_during_a_run_and_the_mean_at_its_end(clock: Clock) -> None:
    run = trained(clock, [2.0] * 10 + [1.0] * 60)
    during, end = (run.status(70, {}, 0.0, ended=ended) for ended in (False, True))
    assert during.iterations_per_second == pytest.approx(1.0)
    assert during.seconds_left == pytest.approx(930)
    assert end.iterations_per_second == pytest.approx(70 / 80)
    assert end.images_per_second == pytest.approx(4 * 70 / 80)
    assert end.seconds == pytest.approx(80)


def test_mean_of_a_resumed_run(clock: Clock) -> None:
    run = trained(clock, [1.0] * 20, first=30, before=60.0)
    assert run.status(50, {}, 0.0, ended=True).iterations_per_second == pytest.approx(50 / 80)
    assert run.session_speed(50) == pytest.approx(1.0)
    unknown = trained(clock, [1.0] * 20, first=30)  # a checkpoint of the public trainer
    assert unknown.status(50, {}, 0.0, ended=True).iterations_per_second == pytest.approx(1.0)


def test_no_iteration_has_no_speed(clock: Clock) -> None:
    run = trained(clock, [])
    for ended in (False, True):
        status = run.status(0, {}, 0.0, ended=ended)
        assert (status.iterations_per_second, status.seconds_left) == (0.0, None)


def test_time_limit(clock: Clock) -> None:
    run = Pace(Config(), clock.now, 5.0)
    assert not run.time_is_up
    clock.now += 5
    assert run.time_is_up
    assert run.status(1, {}, 0.0, ended=False).fraction == 1.0


def test_report_and_last_line_show_the_mean(images: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    result = train(tiny_config(images), tmp_path / "run", device="cpu", callbacks=[recorder])
    last = recorder.statuses[-1]
    assert last.iterations_per_second == pytest.approx(7 / last.seconds)
    assert result.status.iterations_per_second == pytest.approx(7 / result.status.seconds)
    report = result.folder.report.read_text(encoding="utf-8")
    assert f"<dt>iterations / s</dt><dd>{result.status.iterations_per_second:.3g}</dd>" in report
