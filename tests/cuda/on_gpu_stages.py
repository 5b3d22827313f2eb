"""Stages that end in every possible way, for the tests of bench.on_gpu. The process that runs a stage imports it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

from bench.on_gpu.stage import Context, SkippedError, Stage, Task

HOURS = 10_000


def rows(*values):
    return [{"value": value} for value in values]


def raises():
    yield {"value": 1}
    raise ValueError("a task's fault\nand more of it")


def skips():
    raise SkippedError("not here")


def crashes():
    yield {"value": 1}
    os.kill(os.getpid(), signal.SIGSEGV)


def exits():
    os._exit(3)


def hangs():
    yield {"value": 1}
    time.sleep(HOURS)


def starts_another_process():
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({HOURS})"])
    yield {"pid": child.pid}


def advances(context):
    context.clock.advance(60)
    yield {"value": 1}


def names(context, *of):
    tasks = {
        "good": lambda: rows(1, 2),
        "raises": raises,
        "skips": skips,
        "crashes": crashes,
        "exits": exits,
        "hangs": hangs,
        "starts": starts_another_process,
        "advances": partial(advances, context),
        "not finite": lambda: rows(float("nan"), float("inf")),
    }
    return [Task(name, tasks[name]) for name in of]


def listing_raises(context: Context):
    raise RuntimeError("no list")


def listing_skips(context: Context):
    raise SkippedError("no such device")


def listing_crashes(context: Context):
    os.kill(os.getpid(), signal.SIGKILL)


def stage(*of: str, seconds: float = 60, task_seconds: float = 60) -> Stage:
    return Stage(" ".join(of), seconds, partial(_listed, of), task_seconds)


def _listed(of, context):
    return names(context, *of)
