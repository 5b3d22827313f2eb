"""Runs stages one after another, each in its own process, which is killed at its deadline."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from typing import Any

from bench.on_gpu import process
from bench.on_gpu.clock import Clock
from bench.on_gpu.report import Report, StageReport
from bench.on_gpu.stage import Row, Stage

# Forked from a server that has imported torch, a process starts within milliseconds. The server must not initialize
# CUDA, which does not survive a fork. So it does not import bench.harness, which looks for a GPU. Modules that cannot
# be imported are skipped.
FORKING = multiprocessing.get_context("forkserver")
PRELOADED = ["torch", "fastmunit.functional", "fastmunit.testing", "fastmunit.systems.munit"]
PRELOADED_FOR_DRY_RUNS = ["torch._dynamo.eval_frame", "bench.on_gpu.stages", "bench.steps"]  # these may look for a GPU

END_SECONDS = 8.0  # reserved at the end of a run for killing a process and writing the report
KILL_SECONDS = 4.0  # killing a process on a busy GPU takes a while
MIN_SECONDS = 2.0  # a stage does not start with less time left
MAX_PROCESSES = 8  # per stage
WRITE_SECONDS = 2.0  # between writes of the report while a stage runs


@dataclass
class _Progress:
    """The progress of a stage: task names, the running task, its start time and the next task."""

    names: list[str] = field(default_factory=list)
    running: int | None = None
    begun: float = 0.0
    next: int = 0


class Runner:
    """A runner of stages.

    Args:
        report: Receives the results.
        clock: Clock for deadlines. Processes are always killed by real time.
        dry_run: Run stages on the CPU.
        tell: Called with each row as it comes.
    """

    def __init__(self, report: Report, clock: Clock, *, dry_run: bool, tell: Callable[[str, Row], None]) -> None:
        self._report = report
        self._clock = clock
        self._dry_run = dry_run
        self._tell = tell
        self._written = 0.0
        self.immortal = False
        """True if a process is still alive after being killed."""
        FORKING.set_forkserver_preload([*PRELOADED, *(PRELOADED_FOR_DRY_RUNS if dry_run else [])])

    def run(self, stages: Sequence[Stage], seconds: float) -> None:
        """Run the stages in order within `seconds`; write the report after each one.

        A stage may use its own time and the unused time of earlier stages; the last one may use all remaining time.
        """
        start = due = self._clock.now()
        end = start + seconds - END_SECONDS
        for stage in stages:
            due += stage.seconds
            deadline = end if stage is stages[-1] else min(due, end)
            begun = self._clock.now()
            found = self._report.begin(stage.name, max(0.0, deadline - begun))
            try:
                if deadline - begun < MIN_SECONDS:
                    found.status, found.reason = "skipped", f"no time is left of {seconds / 60:g} minutes"
                else:
                    self._run(stage, deadline, found)
            finally:
                if found.status == "running":  # by Ctrl-C or SIGTERM
                    found.status, found.reason = "interrupted", "the run was ended from outside"
                found.seconds = round(self._clock.now() - begun, 6)
                self._report.write()

    def _run(self, stage: Stage, deadline: float, found: StageReport) -> None:
        """Run a stage. If a task ends the process, continue with the next task in another process."""
        progress = _Progress()
        for _ in range(MAX_PROCESSES):
            found.status, found.reason = self._attempt(stage, deadline, found, progress)
            can_go_on = found.status in ("crashed", "hung", process.LOST_DEVICE) and progress.running is not None
            if not can_go_on:
                break
            if progress.next == len(progress.names):
                found.status, found.reason = "done", None
                break
            found.status = "running"
        else:
            found.status, found.reason = "failed", f"{MAX_PROCESSES} of its tasks ended their process"
        found.left_out = progress.names[progress.next :]

    def _attempt(
        self, stage: Stage, deadline: float, found: StageReport, progress: _Progress
    ) -> tuple[str, str | None]:
        """Run the remaining tasks of a stage in one process. Return the status and reason of the stage."""
        receiver, sender = FORKING.Pipe(duplex=False)
        arguments = (sender, stage, self._dry_run, self._clock, deadline, progress.next)
        child = FORKING.Process(target=process.run_stage, args=arguments, name=f"on_gpu {stage.name}")
        kill_at = time.monotonic() + deadline - self._clock.now()
        progress.running = None
        child.start()
        sender.close()
        try:
            return self._listen(receiver, child, stage, kill_at, found, progress)
        finally:
            receiver.close()
            self._end(child)

    def _listen(
        self,
        receiver: Any,
        child: ForkServerProcess,
        stage: Stage,
        kill_at: float,
        found: StageReport,
        progress: _Progress,
    ) -> tuple[str, str | None]:
        """Receive messages of a stage's process until it ends or reaches its deadline."""
        while True:
            hung_at = progress.begun + stage.task_seconds if progress.running is not None else kill_at
            left = min(kill_at, hung_at) - time.monotonic()
            if left <= 0:
                return self._overrun(stage, hung_at < kill_at, found, progress)
            if not receiver.poll(left):
                continue
            try:
                kind, *message = receiver.recv()
            except EOFError:
                return self._crash(child, found, progress)
            if kind == process.TASKS:
                progress.names = message[0]
            elif kind == process.BEGIN:
                progress.running, progress.begun = message[0], time.monotonic()
                progress.next = progress.running + 1
            elif kind == process.ROW:
                self._add(found, message[0])
            else:
                status, reason = message
                return status, reason

    def _overrun(self, stage: Stage, is_hung: bool, found: StageReport, progress: _Progress) -> tuple[str, str | None]:
        if is_hung:
            self._add_end_of_task(found, progress, "hung", f"no end within {stage.task_seconds:g} s")
            return "hung", None
        if progress.running is not None:
            self._add_end_of_task(found, progress, "out of time", "it ran at the stage's deadline")
        return "out of time", None if progress.names else "it had not begun at its deadline"

    def _crash(self, child: ForkServerProcess, found: StageReport, progress: _Progress) -> tuple[str, str | None]:
        child.join(KILL_SECONDS)
        code = child.exitcode
        signals = {-number: number.name for number in signal.Signals}
        how = signals.get(code, f"exit status {code}") if code is not None else "it closed its pipe"
        self._add_end_of_task(found, progress, "crashed", f"the process ended: {how}")
        return "crashed", f"the process ended: {how}"

    def _add_end_of_task(self, found: StageReport, progress: _Progress, status: str, reason: str) -> None:
        if progress.running is not None:
            self._add(found, {"task": progress.names[progress.running], "status": status, "reason": reason})

    def _add(self, found: StageReport, row: Row) -> None:
        found.rows.append(row)
        self._tell(found.name, row)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._report.write()
            self._written = time.monotonic()

    def _end(self, child: ForkServerProcess) -> None:
        """Kill the process of a stage and all processes that it has started."""
        assert child.pid is not None
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended, or has not created its process group yet
            with suppress(ProcessLookupError):
                child.kill()
        child.join(KILL_SECONDS)
        self.immortal = self.immortal or child.is_alive()
