"""A process that ends without leaving its group ends with its own status, and waits for no other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import outputs, start

# Functions that are registered first run last.
PRINT_THREADS = """
import atexit
from pathlib import Path

def show():
    print(sorted(task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")))

atexit.register(show)

import signal
import torch, torch.distributed as dist
from fastmunit import distributed

distributed.setup(timeout=60, device="cpu")
dist.all_reduce(torch.ones(3))
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the threads from /proc")


@needs_proc
@pytest.mark.parametrize("end", ["raise SystemExit(3)", "raise RuntimeError('no images')"])
def test_no_thread_of_gloo_is_left_when_the_interpreter_ends(end: str) -> None:
    processes = start(2, ["-c", PRINT_THREADS + end])
    for process, written in zip(processes, outputs(processes), strict=True):
        assert process.returncode == (3 if "3" in end else 1), written
        assert "'python'" in written and "gloo" not in written


@pytest.mark.slow
@needs_proc
def test_a_process_that_does_not_answer_is_left_behind() -> None:
    end = """
if distributed.rank() == 1:
    signal.pause()
pending = [dist.all_reduce(torch.ones(3), async_op=True) for _ in range(3)]
raise SystemExit(3)
"""
    silent, failing = reversed(start(2, ["-c", PRINT_THREADS + end]))
    try:
        assert outputs([failing], timeout=50)[0].count("gloo") > 0
        assert failing.returncode == 3
        assert silent.poll() is None
    finally:
        silent.kill()
        silent.communicate()
