"""Callbacks: hooks for progress bars, loggers and other code that follows a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from fastmunit.runs.reports.evaluation_log import EvaluationRecord
    from fastmunit.runs.result import TrainingResult
    from fastmunit.systems.base import System


@dataclass(frozen=True)
class Status:
    """Progress of a run after an iteration.

    Attributes:
        iterations: Iterations done, including those before a resume.
        max_iter: Iterations of the whole training.
        seconds: Training time so far, including that before a resume.
        iterations_per_second: Recent speed; 0 before it is known.
        images_per_second: Recent speed in images of both domains.
        seconds_left: Expected time until `max_iter` or the time limit; None before it is known.
        fraction: Fraction done, 0 to 1, of the iterations or of the time limit, whichever is closer to its end.
        losses: Latest losses read from the device, by attribute name.
        learning_rate: Learning rate of the generator.
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
    """Base class of callbacks. Every hook does nothing by default: override the ones you need.

    Hooks run in the thread of the training, which waits for them, in the order of the callbacks. An exception in a hook
    ends the run and leaves `train`; the latest checkpoint is kept, and the report shows the error. With several
    processes, only the first one calls hooks.

    A run stays exact as long as hooks change nothing in the trainer and draw nothing from torch's global generators,
    which the style codes come from: give random functions a `torch.Generator` of your own. `trainer.sample`,
    `fastmunit.translate` and a `Translator` leave the global generators alone.
    """

    def indexing(self, done: int, total: int) -> None:
        """Handle progress of the search for usable regions of slides: `done` of `total` regions are looked at.

        With several processes, these are the regions of the first one.
        """

    def verifying(self, done: int, total: int) -> None:
        """Handle progress of the verification before a run: `done` of `total` images are verified."""

    def started(self, status: Status, trainer: System) -> None:
        """Handle the start of the run, before the first iteration."""

    def logged(self, status: Status) -> None:
        """Handle newly logged losses, every `log_iter` iterations: `status.losses` are those of this iteration."""

    def sampled(self, status: Status, grids: Mapping[str, Tensor], kept: bool) -> None:
        """Handle new sample grids.

        Args:
            status: Progress of the run.
            grids: Grids as uint8 tensors (3, H, W), by direction and part: "a2b_test", "b2a_train" and so on.
            kept: True every `image_save_iter` iterations, when the grids are also saved under the iteration's number.
        """

    def evaluated(self, status: Status, evaluation: EvaluationRecord, best: bool) -> None:
        """Handle an evaluation, every `eval_iter` iterations.

        Args:
            status: Progress of the run.
            evaluation: The scores with their intervals.
            best: True if it is the best so far; its checkpoint is saved next.
        """

    def saved(self, iterations: int, checkpoints: Path) -> None:
        """Handle a new checkpoint of that many iterations in the folder `checkpoints`."""

    def iteration(self, status: Status, trainer: System) -> None:
        """Handle the end of an iteration, after its log, sample grids and checkpoint, if any."""

    def message(self, text: str) -> None:
        """Handle a sentence for the user."""

    def ended(self, result: TrainingResult) -> None:
        """Handle the end of a run without an error: it finished, was stopped, or its time is up."""

    def failed(self, status: Status, error: BaseException) -> None:
        """Handle an error that ends the run after `started`."""

    def finished(self) -> None:
        """Clean up at the end of a run, in any case: the last hook after `started`."""


class Callbacks(Callback):
    """Several callbacks as one. Its hooks call those of all callbacks, in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def failed(self, status: Status, error: BaseException) -> None:
        """Call the hook of all callbacks, even if one raises; then raise the first exception."""
        self._call_all("failed", status, error)

    def finished(self) -> None:
        """Call the hook of all callbacks, even if one raises; then raise the first exception."""
        self._call_all("finished")

    def _call_all(self, hook: str, *arguments: Any) -> None:
        errors = []
        for callback in self._callbacks:
            try:
                getattr(callback, hook)(*arguments)
            except BaseException as error:  # raised after the last callback
                errors.append(error)
        if errors:
            raise errors[0]


def _forward(hook: str) -> Any:
    def call(self: Callbacks, *arguments: Any, **keywords: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(*arguments, **keywords)

    return call


_HOOKS = (
    "indexing",
    "verifying",
    "started",
    "logged",
    "sampled",
    "evaluated",
    "saved",
    "iteration",
    "message",
    "ended",
)
for _hook in _HOOKS:
    setattr(Callbacks, _hook, _forward(_hook))
