"""The worker processes that load batches: their start, their end, and messages about their failures."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import threading
from collections.abc import Collection
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, cast

from fastmunit import distributed
from fastmunit.errors import DataError, FastmunitError

_SECONDS_TO_END = 0.5


def usable_processors() -> int:
    """Return the number of processors for this process: a share if training has several processes on this machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // distributed.local_world_size())


def start(_number: int) -> None:
    """Prepare a new worker process, as `worker_init_fn` of a DataLoader."""
    # The main process handles Ctrl-C: it saves a checkpoint, then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="fastmunit parent", daemon=True).start()
    # By default, a batch that cannot be sent is dropped, and the main process waits for it forever.
    cast(Any, multiprocessing.queues.Queue)._on_queue_feeder_error = staticmethod(_end_without_batch)


def end(workers: Collection[BaseProcess]) -> None:
    """End worker processes, even if they hang."""
    alive = [worker for worker in workers if worker.is_alive()]
    for worker in alive:
        worker.terminate()
    for worker in alive:
        worker.join(_SECONDS_TO_END)
        if worker.is_alive():  # only SIGKILL ends a process that waits for a disk
            worker.kill()


def explain_failure(error: BaseException, workers: Collection[BaseProcess] = ()) -> DataError | None:
    """Convert an error caused by the death of a worker process to an error for the user.

    Args:
        error: Exception of a DataLoader, or of torch's handler of SIGCHLD in the middle of any code.
        workers: Processes of that DataLoader, to name the signals that ended them.

    Returns:
        The error for the user, or None if `error` has another cause.
    """
    text = str(error)
    if isinstance(error, FastmunitError) or text.startswith("Caught "):  # the worker raised an exception
        return None
    # The death of a worker causes any of these errors, depending on what the worker was doing.
    from_torch = isinstance(error, RuntimeError) and ("DataLoader worker (pid" in text or "Pin memory thread" in text)
    if not from_torch and not isinstance(error, EOFError | OSError):
        return None
    reason = " ".join(text.split()) or type(error).__name__
    # A killed process closes its pipes first, which torch notices, then its sentinel. Its exit code is set last.
    ended = connection.wait([worker.sentinel for worker in workers], _SECONDS_TO_END)
    for worker in workers:
        if worker.sentinel in ended:
            worker.join(_SECONDS_TO_END)
    signals = sorted({signal.Signals(-w.exitcode).name for w in workers if w.exitcode is not None and w.exitcode < 0})
    ended_by = f"; ended by {', '.join(signals)}" if signals else ""
    return DataError(
        f"loading images in worker processes failed ({reason}{ended_by}): lower num_workers (0 uses none) "
        "or batch_size. There may be too little (shared) memory, or too low a limit of open files."
    )


def _end_with_parent() -> NoReturn:
    """End this worker as soon as its parent process has ended, even in the middle of its work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _end_without_batch(error: BaseException, _batch: object) -> NoReturn:
    print(f"fastmunit: a worker process cannot send its batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)
