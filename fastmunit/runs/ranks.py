"""What the processes of one training decide together, and what the first of them does for all."""

from __future__ import annotations

import functools
import hashlib
import json
import signal
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.distributed.collectives import largest
from fastmunit.distributed.processes import heartbeat
from fastmunit.errors import ConfigError, FastmunitError, RankError, TrainingError
from fastmunit.systems.base import System

FAILED = "failed"
"""What `Ranks.reason_to_stop` returns where a process has no batch."""

_TIME, _FAILURE = 1, 1000


_P = ParamSpec("_P")
_R = TypeVar("_R")


def told_to_others(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have `function` leave the error that it raises for the errors of the other processes, which wait for this one."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            beats = heartbeat()
            if beats is not None:
                beats.failed(str(error) or type(error).__name__)
            raise

    return call


class Ranks:
    """This process among those of its training; alone, it decides for itself.

    Every method but `doing` is called by all processes, in the same order.

    Attributes:
        main: Whether this process writes the run folder and talks to the user.
    """

    def __init__(self) -> None:
        self.main = distributed.rank() == 0
        self._equal_at: int | None = None

    def doing(self, what: str) -> None:
        """Set what this process is doing, for the errors of the others."""
        beats = heartbeat()
        if beats is not None:
            beats.doing(what)

    def reason_to_stop(self, own: str | None, failed: bool = False) -> str | None:
        """Return why all stop: `FAILED` where it is so in one process, else a signal, else "time", else None.

        Args:
            own: "time" or the name of a signal, where this process has a reason; else None.
            failed: Whether this process has no images to go on with.
        """
        code = 0 if own is None else (_TIME if own == "time" else _TIME + signal.Signals[own].value)
        code = largest(_FAILURE if failed else code)
        if code in (0, _TIME, _FAILURE):
            return {0: None, _TIME: "time", _FAILURE: FAILED}[code]
        return signal.Signals(code - _TIME).name

    def by_main(self, action: Callable[[], None]) -> None:
        """Have the main process do something while the others wait.

        Raises:
            TrainingError: In the others, where it has failed; the main process raises the error itself.
        """
        problem: FastmunitError | None = None
        if self.main:
            try:
                action()
            except FastmunitError as error:  # raised below, when the others know of it
                problem = error
        messages = distributed.gather_objects(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        if messages[0] is not None:
            raise TrainingError(f"rank 0 failed: {messages[0]}")

    def require_same_start(self, config: Config, images: Mapping[str, Any], resume_at: int | None) -> None:
        """Check that all processes have the same configuration, training images and snapshot.

        Raises:
            ConfigError: They differ; the message names rank and difference.
        """
        mine: dict[str, Any] = {
            "configuration": config.to_dict(),
            "training images": dict(images),
            "snapshot": resume_at,
        }
        for rank, theirs in enumerate(distributed.gather_objects(mine)):
            for what, value in theirs.items():
                if value == mine[what]:
                    continue
                where = (
                    f" ({_first_difference(mine[what], value)})"
                    if isinstance(value, dict) and isinstance(mine[what], dict)
                    else ""
                )
                raise ConfigError(
                    f"rank {rank} has another {what} than rank {distributed.rank()}{where}: start all processes with "
                    "the same command, and give them data and an output folder that all of them see."
                )

    def require_same_weights(self, trainer: System, iterations: int) -> None:
        """Check that networks, averages and random states are the same in all processes, bit for bit.

        Raises:
            RankError: They are not; the message says when they last were.
        """
        if not distributed.is_active():
            return
        digests = distributed.gather_objects(checksum(trainer))
        differing = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if differing:
            last = "never since the start" if self._equal_at is None else f"last after iteration {self._equal_at}"
            ranks = ", ".join(map(str, differing))
            raise RankError(
                f"iteration {iterations}: the weights of rank {ranks} are not those of rank 0; they were equal {last}. "
                "Something changed them in one process alone: memory errors, mixed versions or GPUs, or a script that "
                "writes to the networks. No snapshot was written; --resume continues the last one."
            )
        self._equal_at = iterations


def checksum(trainer: System) -> str:
    """Return a digest of all weights, averages and torch's random state on the CPU."""
    tensors = [value for value in trainer.state_dict().values() if isinstance(value, Tensor)]
    if trainer.averages is not None:
        tensors += trainer.averages.values(trainer.generators()).values()
    sums = torch.stack([_sum_of_bits(tensor.detach()) for tensor in tensors])
    content = sums.cpu().numpy().tobytes() + torch.get_rng_state().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Sum of a tensor's bits as whole numbers, which wraps: the same bits in any order."""
    words = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(tensor.element_size(), torch.uint8)
    flat = tensor.contiguous().view(-1) if tensor.dim() else tensor.reshape(1)
    return flat.view(words).sum(dtype=torch.int64)


def _first_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    for key in sorted({*mine, *theirs}):
        here, there = (json.dumps(found.get(key), default=str) for found in (mine, theirs))
        if here != there:
            return f"{key}: {there} instead of {here}"
    return "order"
