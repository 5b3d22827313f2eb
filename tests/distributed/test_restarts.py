"""torchrun restarts the processes after one was killed: the run ends with the weights of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.distributed.launch import ROOT
from tests.runs.tiny import assert_same_checkpoint, make_images, tiny_config

ITERATIONS = 2000


def torchrun(folder: Path, name: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    command += ["-m", "fastmunit", "train", "--config", str(folder / "config.yaml"), "--output", str(folder / name)]
    return subprocess.Popen(
        [*command, "--device", "cpu", "--timeout", "60", "--keep", "2"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers(agent: int) -> list[int]:
    """Return the process numbers of torchrun's direct children."""
    children = Path(f"/proc/{agent}/task/{agent}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def iterations(losses: Path) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(losses.read_text().splitlines()[-1].split(",")[0])
    return 0


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_resumes(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=1, last=60)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=20, last=ITERATIONS)


def kill_and_compare(folder: Path, kills: int, last: int) -> None:
    chance = random.Random(0)
    tiny_config(make_images(folder / "images"), max_iter=last, snapshot_save_iter=5).save(folder / "config.yaml")
    disturbed = torchrun(folder, "disturbed", "--max-restarts", str(kills))
    losses, reached = folder / "disturbed" / "logs" / "losses.csv", 0
    try:
        for _ in range(kills):
            deadline = time.monotonic() + 120
            while iterations(losses) <= reached + 6:  # past a checkpoint of this attempt
                assert disturbed.poll() is None, disturbed.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.3))
            reached = iterations(losses)
            with suppress(ProcessLookupError):
                os.kill(chance.choice(workers(disturbed.pid)), signal.SIGKILL)
        written = disturbed.communicate(timeout=600)[0]
        assert disturbed.returncode == 0, written
        assert written.count("Resuming after iteration") == kills, written
    finally:
        disturbed.kill()
    undisturbed = torchrun(folder, "undisturbed")
    assert undisturbed.wait(timeout=600) == 0, undisturbed.communicate()[0]
    assert_same_checkpoint(folder / "disturbed", folder / "undisturbed", last)
