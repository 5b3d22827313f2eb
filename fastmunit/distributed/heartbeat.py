"""Heartbeats, which show the process that does not answer and what each process was doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch.distributed as dist

_SECONDS = 1.0
_SECONDS_FOR_STORE = 5.0
_MAX_LINES = 20

Result = TypeVar("Result")


def _within(seconds: float, action: Callable[[], Result]) -> Result:
    """Return the result of `action`.

    Raises:
        TimeoutError: If it takes longer, for example because the network was cut.
    """
    results: list[Result] = []
    failed: list[RuntimeError] = []

    def run() -> None:
        try:
            results.append(action())
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not results:
        raise failed[0] if failed else TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


class Heartbeat:
    """A thread that tells the other processes, once per second, that this process is alive.

    It increments a counter in a store that all processes read, and adds the current activity. A process that was killed
    or stopped no longer counts. One that hangs still counts, but its activity stays the same.

    Args:
        store: Store for all processes. This object must be its only user in this process, since a call may block it.
        rank: Rank of this process.
        world: Number of processes.

    Attributes:
        rank: As given.
    """

    def __init__(self, store: dist.Store, rank: int, world: int) -> None:
        self._store, self.rank, self._world = store, rank, world
        self._doing, self._beats = "starting", 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._run, name="fastmunit-heartbeat", daemon=True)
        self._thread.start()

    def doing(self, activity: str) -> None:
        """Set the activity that errors of other processes quote: "iteration 12, waiting for images"."""
        self._doing = activity

    def failed(self, message: str) -> None:
        """Publish the message of an error that ends this process, for the errors of the other processes."""

        def publish() -> None:
            with self._lock:
                self._store.set(f"failed/{self.rank}", message)

        with suppress(RuntimeError, TimeoutError):
            _within(_SECONDS_FOR_STORE, publish)

    def failure_of(self, rank: int) -> str | None:
        """Return the message that a process has published or publishes within a few seconds, or None."""
        deadline = time.monotonic() + 3 * _SECONDS
        with suppress(RuntimeError, TimeoutError):
            while time.monotonic() < deadline:
                if message := _within(_SECONDS_FOR_STORE, self._read)[rank][1]:
                    return message
                time.sleep(0.2 * _SECONDS)
        return None

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        self._thread.join(2 * _SECONDS)

    def explain(self) -> str:
        """Return a line per process that does not answer or has failed, or the activity of each if all answer.

        Takes a few seconds, since it compares two readings of the counters.
        """
        try:
            before = _within(_SECONDS_FOR_STORE, self._read)
            time.sleep(2.5 * _SECONDS)
            after = _within(_SECONDS_FOR_STORE, self._read)
        except (RuntimeError, TimeoutError):  # the store has ended with the process that hosts it
            return "rank 0, or the machine that hosts the rendezvous, does not answer."
        lines = []
        for rank in range(self._world):
            failed, doing = after[rank][1], after[rank][2]
            if rank == self.rank:
                continue
            if failed:
                lines.append(f"rank {rank} failed: {failed}")
            elif after[rank][0] == before[rank][0]:
                lines.append(f"rank {rank} does not answer; it was last seen at: {doing}.")
        if not lines:
            lines = [f"rank {rank} was at: {after[rank][2]}." for rank in range(self._world)]
        return "\n".join(lines[:_MAX_LINES])

    def _read(self) -> dict[int, tuple[int, str, str]]:
        """Read counter, error message and activity of each process."""
        with self._lock:
            return {rank: self._read_one(rank) for rank in range(self._world)}

    def _read_one(self, rank: int) -> tuple[int, str, str]:
        failed = self._store.get(f"failed/{rank}").decode() if self._store.check([f"failed/{rank}"]) else ""
        if not self._store.check([f"beat/{rank}"]):
            return 0, failed, "not started"
        count, _, doing = self._store.get(f"beat/{rank}").decode().partition(" ")
        return int(count), failed, doing

    def _run(self) -> None:
        while not self._stopped.wait(_SECONDS):
            with suppress(RuntimeError):  # the store may have ended: processes that read it report that
                self._beat()

    def _beat(self) -> None:
        self._beats += 1
        with self._lock:
            self._store.set(f"beat/{self.rank}", f"{self._beats} {self._doing}")
