"""If a process dies, hangs, stops or fails, the others end in time with an error that names it. Nothing is lost."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from fastmunit.runs import RunFolder
from fastmunit.runs.checkpoints.checkpoint import resumable
from tests.distributed.launch import outputs, start
from tests.runs.tiny import make_images, tiny_config


def broken(folder: Path, how: str) -> tuple[list[str], list[int]]:
    """Train in two processes with a fault in one, and return their outputs and exit codes."""
    config = tiny_config(make_images(folder / "images"), batch_size=2, max_iter=6, snapshot_save_iter=1)
    config.save(folder / "config.yaml")
    processes = start(2, ["-m", "tests.distributed.worker", "broken", str(folder), how])
    began = time.monotonic()
    healthy = processes[0].communicate(timeout=120)[0]
    assert time.monotonic() - began < 100
    if how in ("stopped", "hangs"):
        processes[1].kill()
    other = outputs(processes[1:])[0]
    return [healthy, other], [process.returncode for process in processes]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("killed", r"rank 1 does not answer; it was last seen at: (starting|iteration \d, \w+)"),
        pytest.param(
            "stopped",
            r"rank 1 does not answer; it was last seen at: (starting|iteration \d, \w+)",
            marks=pytest.mark.slow,
        ),
        pytest.param("hangs", r"rank 1 was at: iteration 3, computing\.", marks=pytest.mark.slow),
        pytest.param("before the start", r"rank 1 failed: dis_00000001\.pt is damaged", marks=pytest.mark.slow),
        pytest.param("not a number", "iteration 3: ", marks=pytest.mark.slow),
        pytest.param("damaged image", "another process could not load its images", marks=pytest.mark.slow),
    ],
)
def test_the_others_end_and_name_it(how: str, message: str, tmp_path: Path) -> None:
    written, codes = broken(tmp_path, how)
    assert codes[0] not in (0, None) and codes[1] != 0
    assert re.search(message, written[0]), written[0]
    if how == "not a number":
        assert "NaN or infinite" in written[0] and "NaN or infinite" in written[1]
    if how == "damaged image":
        assert "is damaged" in written[1], written[1]
    assert resumable(RunFolder(tmp_path / "run")) == (None if how == "before the start" else 2)


@pytest.mark.slow
def test_a_full_disk_of_rank_0_ends_all(tmp_path: Path) -> None:
    written, codes = broken(tmp_path, "disk full")
    assert 0 not in codes
    assert "rank 0 failed" in written[1], written[1]
    assert resumable(RunFolder(tmp_path / "run")) is None
