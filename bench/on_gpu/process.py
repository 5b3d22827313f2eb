"""The process of a stage: runs its tasks and tells the runner what they find, as it comes."""

import multiprocessing
import os
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection

from bench.on_gpu.clock import Clock
from bench.on_gpu.stage import Context, Row, SkippedError, Stage, Task, first_line

TASKS, BEGIN, ROW, END = "tasks", "begin", "row", "end"
"""The first items of the messages: ("tasks", names), ("begin", index), ("row", row), ("end", status, reason)."""
LOST_DEVICE = "lost device"
"""Status of an end behind which the stage can go on in another process."""


def run_stage(connection: Connection, stage: Stage, dry_run: bool, clock: Clock, deadline: float, first: int) -> None:
    """Run the tasks of a stage from number `first` on, until they are done or it is `deadline`."""
    os.setpgrp()  # what a task starts, such as the workers of a compiler, is ended with it
    connection.send((END, *_run(connection, stage, dry_run, clock, deadline, first)))
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()  # it ends this process, so that no library's clean-up can hang; or has ended itself


def _run(
    connection: Connection, stage: Stage, dry_run: bool, clock: Clock, deadline: float, first: int
) -> tuple[str, str | None]:
    try:
        context = Context.of(dry_run, clock)
        tasks = stage.tasks(context)
    except SkippedError as error:
        return "skipped", str(error)
    except Exception as error:  # whatever a stage raises is its result
        return "failed", first_line(error)
    connection.send((TASKS, [task.name for task in tasks]))
    for index, task in islice(enumerate(tasks), first, None):
        if clock.now() >= deadline:
            return "out of time", None
        connection.send((BEGIN, index))
        for row in _rows(task):
            connection.send((ROW, {"task": task.name, **row, "seconds_left": round(deadline - clock.now(), 3)}))
        if context.device_is_lost():
            return LOST_DEVICE, f"the device is of no use to a process after task {task.name!r}"
    return "done", None


def _rows(task: Task) -> Iterator[Row]:
    """Yield the task's rows, and one that says why where it does not end well."""
    try:
        yield from task.rows()
    except SkippedError as error:
        yield {"status": "skipped", "reason": str(error)}
    except Exception as error:  # whatever a task raises is its result; the next one may run
        yield {"status": "failed", "reason": first_line(error)}
