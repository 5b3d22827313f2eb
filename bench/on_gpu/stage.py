"""Definition of a stage: tasks in order of value, each yielding rows of the report."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.on_gpu.clock import Clock
from bench.on_gpu.timer import DryTimer, GpuTimer, Timer

Row = dict[str, Any]


class SkippedError(Exception):
    """Raised by a stage or a task that cannot run here; the message says why."""


@dataclass(frozen=True)
class Context:
    """Settings that the tasks of a stage share.

    Attributes:
        dry_run: Whether this is a run on the CPU with tiny inputs, without real times.
        clock: The clock that deadlines are read from.
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
        """Return "cuda", or "cpu" in a dry run."""
        return "cpu" if self.dry_run else "cuda"

    @property
    def size(self) -> int:
        """Return the height and width of the images that maps are those of."""
        return 16 if self.dry_run else 256

    def compile_options(self, mode: str | None = None) -> dict[str, Any]:
        """Return the keywords of torch.compile; a dry run traces and compiles nothing."""
        return {"dynamic": False, "backend": "eager"} if self.dry_run else {"dynamic": False, "mode": mode}

    def device_is_lost(self) -> bool:
        """Return whether an error has left the device unusable by this process, as an illegal access does."""
        if self.dry_run:
            return False
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False


@dataclass(frozen=True)
class Task:
    """A part of a stage that may fail, hang or crash by itself.

    Attributes:
        name: Name in the report.
        rows: Runs the task and yields its rows; what it has yielded is kept if it does not end.
    """

    name: str
    rows: Callable[[], Iterable[Row]]


@dataclass(frozen=True)
class Stage:
    """A part of a run with a deadline of its own; it runs in a process of its own.

    Attributes:
        name: Name in the report.
        seconds: Time of the stage. What earlier stages have left of theirs is added.
        tasks: Lists the tasks in order of value, without running them. It is called again, for the same list, where a
            task has ended the process: the stage goes on behind it.
        task_seconds: Time of one task, after which it counts as hung.
    """

    name: str
    seconds: float
    tasks: Callable[[Context], Sequence[Task]]
    task_seconds: float = 45.0


def first_line(error: BaseException) -> str:
    """Return the class and the first line of the message of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
