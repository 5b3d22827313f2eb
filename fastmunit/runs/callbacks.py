"""What a training run tells whoever takes part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmunit.runs.loop import TrainingResult
    from fastmunit.systems.base import System


@dataclass(frozen=True)
class Status:
    """Where a run stands after an iteration.

    Attributes:
        iterations: iterations done since the run began, resumed parts included.
        max_iter: iterations of the whole training.
        seconds: training time so far, resumed parts included.
        iterations_per_second: recent speed; 0 before it is known.
        images_per_second: recent speed in images, those of both domains counted.
        seconds_left: expected time to the end (of the iterations or of the time limit); None before it is known.
        fraction: part done, 0 to 1, of the iterations or of the time limit, whichever is nearer its end.
        losses: the latest losses read from the device, by attribute name.
        learning_rate: of the generator.
    """

    iterations: int
    max_iter: int
    seconds: float
    iterations_per_second: float = 0.0
    images_per_second: float = 0.0
    seconds_left: float | None = None
    fraction: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0


class Callback:
    """What a run tells whoever takes part in it. Every hook does nothing: override those that you want.

    Hooks are called in the thread of the training, which waits for them, and in the order of the callbacks. What one
    raises ends the run and leaves `train`; the latest snapshot is kept, and the report says what happened.

    A run stays exact as long as hooks change nothing in the trainer and draw nothing from torch's global generators,
    which the styles come from: give random functions a `torch.Generator` of your own. `trainer.sample`,
    `fastmunit.translate` and a `Translator` do so.
    """

    def verifying(self, done: int, total: int) -> None:
        """Called with the number of images that are verified, and of all, before a run that verifies its images."""

    def started(self, status: Status, trainer: System) -> None:
        """Called once, before the first iteration, with the system that is trained."""

    def iteration(self, status: Status, trainer: System) -> None:
        """Called after every iteration, and after its snapshot where it has one."""

    def saved(self, iterations: int, checkpoints: Path) -> None:
        """Called after a snapshot is written: gen_*.pt and the others of that many iterations, in that folder."""

    def message(self, text: str) -> None:
        """Called with a sentence for the user."""

    def ended(self, result: TrainingResult) -> None:
        """Called once, when the run has ended without an error: finished, stopped, or its time is up."""

    def finished(self) -> None:
        """Called once after `started`, and last, when the run ends for whatever reason."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)

    def verifying(self, done: int, total: int) -> None:
        """See `Callback.verifying`."""
        for callback in self._callbacks:
            callback.verifying(done, total)

    def started(self, status: Status, trainer: System) -> None:
        """See `Callback.started`."""
        for callback in self._callbacks:
            callback.started(status, trainer)

    def iteration(self, status: Status, trainer: System) -> None:
        """See `Callback.iteration`."""
        for callback in self._callbacks:
            callback.iteration(status, trainer)

    def saved(self, iterations: int, checkpoints: Path) -> None:
        """See `Callback.saved`."""
        for callback in self._callbacks:
            callback.saved(iterations, checkpoints)

    def message(self, text: str) -> None:
        """See `Callback.message`."""
        for callback in self._callbacks:
            callback.message(text)

    def ended(self, result: TrainingResult) -> None:
        """See `Callback.ended`."""
        for callback in self._callbacks:
            callback.ended(result)

    def finished(self) -> None:
        """See `Callback.finished`: of all callbacks, also where one raises."""
        errors = []
        for callback in self._callbacks:
            try:
                callback.finished()
            except BaseException as error:  # raised when all are told
                errors.append(error)
        if errors:
            raise errors[0]
