"""Commands that run in several processes: starting them on this machine, and ending them together."""

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
    """Run this command line in `count` processes, as `torchrun -m fastmunit` does, and wait for them.

    Raises:
        typer.Exit: If a process has failed. It has printed its own message.
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
    except SignalException:  # the processes have ended and have printed how to resume
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def report_once() -> Iterator[None]:
    """Let only the first process report an error that all processes hit, such as a wrong configuration.

    Raises:
        typer.Exit: If this is another process and the first one has the same error.
    """
    from fastmunit.distributed.processes import heartbeat

    try:
        yield
    except FastmunitError as error:
        beats = heartbeat()
        if beats is None:
            raise
        if beats.rank != 0 and (reported := beats.failure_of(0)) is not None and reported in str(error):
            raise typer.Exit(1) from error
        raise


@contextmanager
def as_one_command() -> Iterator[None]:
    """Run the body in all processes as one command: if it fails in one, all end, and only the first reports why.

    The others wait for the first: torchrun ends all processes as soon as one has ended with an error.

    Raises:
        typer.Exit: If the command has failed in several processes, after the first has reported why.
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
