"""The process of a stage: runs its tasks and sends their results to the runner as they come."""

import multiprocessing
import os
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection

from bench.on_gpu.clock import Clock
from bench.on_gpu.stage import Context, Row, SkippedError, Stage, Task, first_line

TASKS, BEGIN, ROW, END = "tasks", "begin", "row", "end"
"""Kinds of messages: ("tasks", names), ("begin", index), ("row", row), ("end", status, reason)."""
LOST_DEVICE = "lost device"
"""Status after which the stage can continue in another process."""


def run_stage(connection: Connection, stage: Stage, dry_run: bool, clock: Clock, deadline: float, first: int) -> None:
    """Run the tasks of a stage, starting with index `first`, until all are done or the deadline is reached."""
    os.setpgrp()  # processes that a task starts, such as workers of a compiler, end with it
    connection.send((END, *_run(connection, stage, dry_run, clock, deadline, first)))
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()  # it kills this process, so the cleanup of a library cannot hang, or it has ended itself


def _run(
    connection: Connection, stage: Stage, dry_run: bool, clock: Clock, deadline: float, first: int
) -> tuple[str, str | None]:
    try:
        context = Context.of(dry_run, clock)
        tasks = stage.tasks(context)
    except SkippedError as error:
        return "skipped", str(error)
    except Exception as error:  # any exception of a stage is its result
        return "failed", first_line(error)
    connection.send((TASKS, [task.name for task in tasks]))
    for index, task in islice(enumerate(tasks), first, None):
        if clock.now() >= deadline:
            return "out of time", None
        connection.send((BEGIN, index))
        for row in _rows(task):
            connection.send((ROW, {"task": task.name, **row, "seconds_left": round(deadline - clock.now(), 3)}))
        if context.device_is_lost():
            return LOST_DEVICE, f"the process cannot use the device after task {task.name!r}"
    return "done", None


def _rows(task: Task) -> Iterator[Row]:
    """Yield the rows of a task, and a row with the reason if it fails or is skipped."""
    try:
        yield from task.rows()
    except SkippedError as error:
        yield {"status": "skipped", "reason": str(error)}
    except Exception as error:  # any exception of a task is its result; the next task may run
        yield {"status": "failed", "reason": first_line(error)}
