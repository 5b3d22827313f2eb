"""Decisions and checks that the processes of one training share."""

from __future__ import annotations

import hashlib
import signal

import torch
from torch import Tensor

from fastmunit import distributed
from fastmunit.distributed.collectives import largest
from fastmunit.errors import RankError
from fastmunit.systems.base import System

FAILED = "failed"
"""Result of `Ranks.reason_to_stop` if a process has no batch."""

_TIME, _FAILURE = 1, 1000


class Ranks:
    """This process among those of its training. A single process decides for itself.

    All processes call every method, in the same order.

    Attributes:
        main: True if this process writes the run folder and talks to the user.
    """

    def __init__(self) -> None:
        self.main = distributed.rank() == 0
        self._equal_at: int | None = None

    def reason_to_stop(self, own: str | None, failed: bool = False) -> str | None:
        """Return why all processes stop: `FAILED` if one has failed, else a signal, else "time", else None.

        Args:
            own: This process's reason: "time" or the name of a signal; None without one.
            failed: True if this process cannot load its images.
        """
        code = 0 if own is None else (_TIME if own == "time" else _TIME + signal.Signals[own].value)
        code = largest(_FAILURE if failed else code)
        if code in (0, _TIME, _FAILURE):
            return {0: None, _TIME: "time", _FAILURE: FAILED}[code]
        return signal.Signals(code - _TIME).name

    def require_same_weights(self, trainer: System, iterations: int) -> None:
        """Check that networks, averages and random states are the same in all processes, bit for bit.

        Raises:
            RankError: If they differ; the message says when they were last equal.
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
                "Something changed them in one process only: memory errors, mixed versions or GPUs, or a script that "
                "writes to the networks. No checkpoint was written; --resume continues the last one."
            )
        self._equal_at = iterations


def checksum(trainer: System) -> str:
    """Compute a digest of all weights, averages and torch's random state on the CPU."""
    tensors = [value for value in trainer.state_dict().values() if isinstance(value, Tensor)]
    if trainer.averages is not None:
        tensors += trainer.averages.values(trainer.generators()).values()
    sums = torch.stack([_sum_of_bits(tensor.detach()) for tensor in tensors])
    content = sums.cpu().numpy().tobytes() + torch.get_rng_state().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Sum the bits of a tensor as integers, which wrap around: the result does not depend on the order."""
    words = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(tensor.element_size(), torch.uint8)
    flat = tensor.contiguous().view(-1) if tensor.dim() else tensor.reshape(1)
    return flat.view(words).sum(dtype=torch.int64)
