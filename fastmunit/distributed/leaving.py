"""Leaving the process group at the end of the interpreter, whatever ends it."""

from __future__ import annotations

import atexit
import functools
import threading

import torch.distributed as dist

_SECONDS = 5.0


@functools.cache
def leave_at_exit() -> None:
    """Leave a group of gloo when the interpreter ends, if the process has not left it by then.

    Threads of gloo need the interpreter to release the tensors of an operation. One that does so while the interpreter
    ends aborts the process, and exit status 134 hides the one that says why it ended. Leaving the group waits for them:
    for a few seconds, since a thread may wait for a process that has stopped.
    """
    ending = threading.Event()

    def leave() -> None:
        ending.wait()
        if dist.is_initialized():
            dist.destroy_process_group()

    thread = threading.Thread(target=leave, name="fastmunit-leave", daemon=True)
    thread.start()  # now, because Python 3.12 and later start no thread at exit

    def end() -> None:
        ending.set()
        thread.join(_SECONDS)

    atexit.register(end)
