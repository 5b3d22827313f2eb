"""What a training run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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


class Progress:
    """Watches a run; this one stays silent. Override what you want to see."""

    def verifying(self, done: int, total: int) -> None:
        """Called with the number of images that are verified, and of all, before a run that verifies its images."""

    def started(self, status: Status) -> None:
        """Called once, before the first iteration."""

    def iteration(self, status: Status) -> None:
        """Called after every iteration."""

    def message(self, text: str) -> None:
        """Called with a sentence for the user."""

    def finished(self) -> None:
        """Called once, when the run ends for whatever reason."""
