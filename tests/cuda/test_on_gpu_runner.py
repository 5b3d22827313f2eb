"""bench.on_gpu's runner: it reports stages that raise, crash, hang or take too long, and runs the next ones."""

import json
import os
import signal
import time

import pytest

from bench.on_gpu.clock import FakeClock, WallClock
from bench.on_gpu.report import Report
from bench.on_gpu.runner import END_SECONDS, FORKING, Runner
from bench.on_gpu.stage import Stage
from tests.cuda import on_gpu_stages as toys
from tests.cuda.on_gpu_stages import stage


@pytest.fixture(scope="module", autouse=True)
def forking_server(tmp_path_factory):
    """Start the server before a test has a deadline."""
    run(tmp_path_factory.mktemp("first"), stage("good"))


def run(folder, *stages, seconds=600.0, clock=None):
    """Return the stages in the report's file."""
    report = Report(folder, dry_run=True, minutes=seconds / 60)
    runner = Runner(report, clock or WallClock(), dry_run=True, tell=lambda stage, row: None)
    runner.run(stages, seconds)
    assert not runner.immortal
    return json.loads(report.path.read_text())["stages"]


def results(rows):
    """Return (task, value or status) of each row."""
    return [(row["task"], row.get("status", row.get("value"))) for row in rows]


def reason_of(found, status):
    return next(row["reason"] for row in found["rows"] if row.get("status") == status)


def test_an_exception_is_reported_and_the_next_task_runs(tmp_path):
    found, after = run(tmp_path, stage("raises", "skips", "good"), stage("not finite"))
    assert found["status"] == "done"
    expected = [("raises", 1), ("raises", "failed"), ("skips", "skipped"), ("good", 1), ("good", 2)]
    assert results(found["rows"]) == expected
    assert reason_of(found, "failed") == "ValueError: a task's fault"
    assert reason_of(found, "skipped") == "not here"
    assert results(after["rows"]) == [("not finite", "nan"), ("not finite", "inf")]


def test_a_crash_or_hang_costs_only_its_own_row(tmp_path):
    chosen = stage("crashes", "good", "exits", "hangs", "good", "crashes", task_seconds=3)
    found, after = run(tmp_path, chosen, stage("good"))
    assert results(found["rows"]) == [
        ("crashes", 1), ("crashes", "crashed"), ("good", 1), ("good", 2), ("exits", "crashed"), ("hangs", 1),
        ("hangs", "hung"), ("good", 1), ("good", 2), ("crashes", 1), ("crashes", "crashed"),
    ]  # fmt: skip
    assert found["status"] == "done"
    assert found["left_out"] == []
    assert reason_of(found, "crashed") == "the process ended: SIGSEGV"
    assert reason_of(found, "hung") == "no end within 3 s"
    assert after["status"] == "done"


def test_a_stage_ends_at_its_deadline(tmp_path):
    found, after = run(tmp_path, stage("good", "hangs", "good", "raises", seconds=6), stage("good"))
    assert found["status"] == "out of time"
    assert results(found["rows"]) == [("good", 1), ("good", 2), ("hangs", 1), ("hangs", "out of time")]
    assert found["left_out"] == ["good", "raises"]
    assert after["status"] == "done"


def test_a_run_ends_within_its_time(tmp_path):
    begun = time.monotonic()
    found, after = run(tmp_path, stage("hangs"), stage("good"), seconds=END_SECONDS + 3)
    assert time.monotonic() - begun < END_SECONDS + 3  # the guarantee
    assert found["status"] == "out of time"
    assert after == {
        "name": "good", "status": "skipped", "reason": after["reason"], "seconds": after["seconds"],
        "seconds_allowed": after["seconds_allowed"], "rows": [], "left_out": [],
    }  # fmt: skip
    assert "no time is left" in after["reason"]


def test_time_is_checked_between_tasks_with_the_clock_of_the_run(tmp_path):
    clock = FakeClock(FORKING)
    chosen = [stage("advances", "advances", "good", seconds=100), *(stage("good", seconds=s) for s in (10, 50, 50))]
    first, second, third, last = run(tmp_path, *chosen, seconds=END_SECONDS + 400, clock=clock)
    assert (first["status"], first["seconds"], first["left_out"]) == ("out of time", 120.0, ["good"])
    assert (second["status"], second["seconds_allowed"]) == ("skipped", 0.0)
    assert (third["status"], third["seconds_allowed"]) == ("done", 40.0)
    assert (last["status"], last["seconds_allowed"]) == ("done", 280.0)  # all that is left


@pytest.mark.parametrize(
    ("tasks", "status", "reason"),
    [
        (toys.listing_raises, "failed", "RuntimeError: no list"),
        (toys.listing_skips, "skipped", "no such device"),
        (toys.listing_crashes, "crashed", "the process ended: SIGKILL"),
    ],
)
def test_a_stage_that_cannot_list_its_tasks(tmp_path, tasks, status, reason):
    found, after = run(tmp_path, Stage("listing", 60, tasks), stage("good"))
    assert (found["status"], found["reason"], found["rows"]) == (status, reason, [])
    assert after["status"] == "done"


def test_processes_of_a_task_end_with_it(tmp_path):
    (found,) = run(tmp_path, stage("starts"))
    (row,) = found["rows"]
    for _ in range(200):  # the system may take a moment to end it
        if not is_running(row["pid"]):
            return
        time.sleep(0.05)
    os.kill(row["pid"], signal.SIGKILL)
    pytest.fail("the process still runs")


def is_running(pid):
    try:
        state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]  # noqa: PTH123, SIM115
    except FileNotFoundError:
        return False
    return state != "Z"


def test_results_are_kept_if_the_run_is_interrupted(tmp_path):
    report = Report(tmp_path, dry_run=True, minutes=1)

    def interrupt(stage, row):
        raise KeyboardInterrupt

    runner = Runner(report, WallClock(), dry_run=True, tell=interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run([stage("good", "hangs")], 60)
    (found,) = json.loads(report.path.read_text())["stages"]
    assert found["status"] == "interrupted"
    assert results(found["rows"]) == [("good", 1)]
