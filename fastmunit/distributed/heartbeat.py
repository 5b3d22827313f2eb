"""Which process does not answer: each counts up in a store that all can read, and says what it is doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch.distributed as dist

_SECONDS = 1.0
_SECONDS_FOR_STORE = 5.0
_LINES = 20

Result = TypeVar("Result")


def _within(seconds: float, action: Callable[[], Result]) -> Result:
    """Return what `action` returns; raise TimeoutError where that takes longer, as over a network that was cut."""
    found: list[Result] = []
    failed: list[RuntimeError] = []

    def run() -> None:
        try:
            found.append(action())
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise failed[0] if failed else TimeoutError(f"no answer within {seconds:g} s")
    return found[0]


class Heartbeat:
    """Tells the other processes, once per second and from a thread, that this one is alive.

    A process that was killed or stopped no longer counts up; one that hangs does, but says what it has been doing.

    Args:
        store: What all processes read and write; used by this object alone, since a call may block it.
        rank: Number of this process.
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

    def doing(self, what: str) -> None:
        """Set what this process is doing, as the errors of others quote it: "iteration 12, waiting for images"."""
        self._doing = what

    def failed(self, message: str) -> None:
        """Leave the message of an error that ends this process, for the errors of the others."""

        def leave() -> None:
            with self._lock:
                self._store.set(f"failed/{self.rank}", message)

        with suppress(RuntimeError, TimeoutError):
            _within(_SECONDS_FOR_STORE, leave)

    def failure_of(self, rank: int) -> str | None:
        """Return the error that another process has left, or leaves within seconds; None where there is none."""
        deadline = time.monotonic() + 3 * _SECONDS
        with suppress(RuntimeError, TimeoutError):
            while time.monotonic() < deadline:
                if message := _within(_SECONDS_FOR_STORE, self._read)[rank][1]:
                    return message
                time.sleep(0.2 * _SECONDS)
        return None

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(2 * _SECONDS)

    def explain(self) -> str:
        """Return a sentence per process that does not answer or has failed, or what each is doing where all answer.

        It takes a few seconds: two looks at the counts.
        """
        try:
            before = _within(_SECONDS_FOR_STORE, self._read)
            time.sleep(2.5 * _SECONDS)
            after = _within(_SECONDS_FOR_STORE, self._read)
        except (RuntimeError, TimeoutError):  # the store has ended with the process that hosts it
            return "rank 0, or the machine that hosts the rendezvous, does not answer."
        found = []
        for rank in range(self._world):
            failed, doing = after[rank][1], after[rank][2]
            if rank == self.rank:
                continue
            if failed:
                found.append(f"rank {rank} failed: {failed}")
            elif after[rank][0] == before[rank][0]:
                found.append(f"rank {rank} does not answer; its last sign was: {doing}.")
        if not found:
            found = [f"rank {rank} was at: {after[rank][2]}." for rank in range(self._world)]
        return "\n".join(found[:_LINES])

    def _read(self) -> dict[int, tuple[int, str, str]]:
        """Count, message of failure and doing of each process."""
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
            with suppress(RuntimeError):  # the store may have ended: the others are told so when they look
                self._beat()

    def _beat(self) -> None:
        self._beats += 1
        with self._lock:
            self._store.set(f"beat/{self.rank}", f"{self._beats} {self._doing}")
