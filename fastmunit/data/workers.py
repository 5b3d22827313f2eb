"""The processes that load batches: how they start, how they end, and how their failures are explained."""

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
    """Return how many processors this process may use: its part of them, where a training has more processes here."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // distributed.local_world_size())


def start(_number: int) -> None:
    """Prepare a new worker process; a `worker_init_fn` of a DataLoader."""
    # Ctrl-C is for the main process, which saves first and then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="fastmunit parent", daemon=True).start()
    # A batch that cannot be sent is dropped by default, and the main process would wait for it forever.
    cast(Any, multiprocessing.queues.Queue)._on_queue_feeder_error = staticmethod(_end_without_batch)


def end(workers: Collection[BaseProcess]) -> None:
    """End worker processes, also those that hang."""
    alive = [worker for worker in workers if worker.is_alive()]
    for worker in alive:
        worker.terminate()
    for worker in alive:
        worker.join(_SECONDS_TO_END)
        if worker.is_alive():  # waiting for a disk, where only SIGKILL is heard
            worker.kill()


def explain_failure(error: BaseException, workers: Collection[BaseProcess] = ()) -> DataError | None:
    """Return the error for the user where `error` is how a dead worker shows.

    Args:
        error: What a DataLoader raised, or torch's handler of SIGCHLD wherever the program was.
        workers: Processes of that DataLoader, to name the signals that ended them.

    Returns:
        None for any other error.
    """
    text = str(error)
    if isinstance(error, FastmunitError) or text.startswith("Caught "):  # a worker handed on an exception of its own
        return None
    # A worker that dies shows as any of these, depending on what it was doing.
    of_torch = isinstance(error, RuntimeError) and ("DataLoader worker (pid" in text or "Pin memory thread" in text)
    if not of_torch and not isinstance(error, EOFError | OSError):
        return None
    reason = " ".join(text.split()) or type(error).__name__
    # A killed process closes its pipes first, which torch sees, then its sentinel. Its exit code comes last.
    ended = connection.wait([worker.sentinel for worker in workers], _SECONDS_TO_END)
    for worker in workers:
        if worker.sentinel in ended:
            worker.join(_SECONDS_TO_END)
    signals = sorted({signal.Signals(-w.exitcode).name for w in workers if w.exitcode is not None and w.exitcode < 0})
    ended_by = f"; ended by {', '.join(signals)}" if signals else ""
    return DataError(
        f"loading images in worker processes failed ({reason}{ended_by}): lower num_workers (0 uses none) "
        "or batch_size; there may be too little (shared) memory, or too few open files allowed."
    )


def _end_with_parent() -> NoReturn:
    """End this worker as soon as the process that started it is gone, whatever the worker is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _end_without_batch(error: BaseException, _batch: object) -> NoReturn:
    print(f"fastmunit: a worker process cannot send its batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)
