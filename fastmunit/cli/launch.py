"""One command in several processes: starting them on this machine, and ending them together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fastmunit.cli.errors import show_error
from fastmunit.cli.interrupt import INTERRUPTED
from fastmunit.errors import FastmunitError


def start_processes(count: int) -> None:
    """Run the command of this process in `count` processes, as `torchrun -m fastmunit` does, and wait for them.

    Raises:
        typer.Exit: One of them has failed; its own message has been printed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    from fastmunit.data.workers import usable_processors

    # torchrun would give each process one thread, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_processors() // count)))
    try:
        main(["--standalone", "--nproc-per-node", str(count), "--module", "fastmunit", *sys.argv[1:]])
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        raise typer.Exit(max([1, *codes])) from None
    except SignalException:  # the processes have ended, and have said how the run goes on
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def told_once() -> Iterator[None]:
    """Context in which an error that all processes find, such as a wrong configuration, is told by the first alone.

    Raises:
        typer.Exit: This is another process, and the first has the same error.
    """
    from fastmunit.distributed.processes import heartbeat

    try:
        yield
    except FastmunitError as error:
        beats = heartbeat()
        if beats is None:
            raise
        if beats.rank != 0 and (told := beats.failure_of(0)) is not None and told in str(error):
            raise typer.Exit(1) from error
        raise


@contextmanager
def as_one_command() -> Iterator[None]:
    """Context of a command that all processes run: when one fails, all end, and the first alone says why.

    The others wait for it: torchrun ends all processes once one has ended with an error.

    Raises:
        typer.Exit: The command has failed in several processes, and the first has said why.
    """
    from fastmunit import distributed

    work = distributed.Together()
    try:
        with work:
            yield
    except Exception as error:
        if not work.agreed:
            raise
        explained = isinstance(error, FastmunitError)
        if explained and distributed.rank() == 0:
            show_error(str(error))
        distributed.barrier()
        distributed.shutdown()
        if explained:
            raise typer.Exit(1) from error
        raise
    distributed.shutdown()
