"""Definition of a stage: tasks in order of importance, each yielding rows of the report."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.on_gpu.clock import Clock
from bench.on_gpu.timer import DryTimer, GpuTimer, Timer

Row = dict[str, Any]


class SkippedError(Exception):
    """Raised by a stage or task that cannot run; the message is the reason."""


@dataclass(frozen=True)
class Context:
    """Settings that the tasks of a stage share.

    Attributes:
        dry_run: True for a run on the CPU with tiny inputs and made-up times.
        clock: Clock for deadlines.
        timer: Measures launches and steps, or makes up times in a dry run.
    """

    dry_run: bool
    clock: Clock
    timer: Timer

    @classmethod
    def of(cls, dry_run: bool, clock: Clock) -> "Context":
        """Return the context of a process."""
        return cls(dry_run, clock, DryTimer(clock) if dry_run else GpuTimer())

    @property
    def device(self) -> str:
        """Device of the inputs: "cuda", or "cpu" in a dry run."""
        return "cpu" if self.dry_run else "cuda"

    @property
    def size(self) -> int:
        """Height and width of the images from which the sizes of maps follow."""
        return 16 if self.dry_run else 256

    def compile_options(self, mode: str | None = None) -> dict[str, Any]:
        """Return the keyword arguments of torch.compile; a dry run only traces."""
        return {"dynamic": False, "backend": "eager"} if self.dry_run else {"dynamic": False, "mode": mode}

    def device_is_lost(self) -> bool:
        """Return true if an error, such as an illegal access, has left the device unusable for this process."""
        if self.dry_run:
            return False
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False


@dataclass(frozen=True)
class Task:
    """A part of a stage that may fail, hang or crash independently.

    Attributes:
        name: Name in the report.
        rows: Runs the task and yields its rows, which are kept even if it does not end.
    """

    name: str
    rows: Callable[[], Iterable[Row]]


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own deadline, which runs in its own process.

    Attributes:
        name: Name in the report.
        seconds: Time of the stage. The unused time of earlier stages is added.
        tasks: Returns the tasks in order of importance, without running them. If a task ends the process, it is called
            again in a new process, for the same list, and the stage continues with the next task.
        task_seconds: Time after which a task counts as hung.
    """

    name: str
    seconds: float
    tasks: Callable[[Context], Sequence[Task]]
    task_seconds: float = 45.0


def first_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
