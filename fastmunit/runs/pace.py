"""Training time, speed and remaining time of a run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from fastmunit.config import Config
from fastmunit.runs.callbacks import Status

_WINDOW = 50


class Pace:
    """A clock for the training time and speed of a run.

    Args:
        config: Configuration of the run.
        started: Value of `time.monotonic()` from which the time limit counts.
        time_limit: Seconds after which the run ends; None for no limit.

    Attributes:
        first: Iterations before the resume.
        seconds_before: Training time before the resume; 0 if it is not known.
    """

    def __init__(self, config: Config, started: float, time_limit: float | None) -> None:
        self._config = config
        self._started, self._time_limit = started, time_limit
        self.first = 0
        self.seconds_before = 0.0
        self._session_start = time.monotonic()
        self._moments: deque[float] = deque(maxlen=_WINDOW + 1)

    def start(self) -> None:
        """Start to measure the training time since the start or resume."""
        self._session_start = time.monotonic()

    def iteration(self) -> None:
        """Record that an iteration ends now."""
        self._moments.append(time.monotonic())

    @property
    def time_is_up(self) -> bool:
        """True if the time limit has passed."""
        return self._time_limit is not None and time.monotonic() - self._started >= self._time_limit

    @property
    def session_seconds(self) -> float:
        """Training time since the start or resume."""
        return max(time.monotonic() - self._session_start, 1e-9)

    @property
    def seconds(self) -> float:
        """Training time, including that before the resume."""
        return self.seconds_before + self.session_seconds

    def session_speed(self, iterations: int) -> float:
        """Return the mean iterations per second since the start or resume."""
        return (iterations - self.first) / self.session_seconds

    def status(self, iterations: int, losses: Mapping[str, float], learning_rate: float, *, ended: bool) -> Status:
        """Return the progress of the run.

        Args:
            iterations: Iterations done, including those before the resume.
            losses: Latest losses.
            learning_rate: Latest learning rate.
            ended: True if the run has ended. The speed is then the mean of the run, otherwise of the last iterations.
        """
        seconds = self.seconds
        speed = self._mean_speed(iterations, seconds) if ended else self._recent_speed()
        left = (self._config.max_iter - iterations) / speed if speed else None
        fraction = iterations / self._config.max_iter
        if self._time_limit is not None:
            elapsed = time.monotonic() - self._started
            remaining = max(0.0, self._time_limit - elapsed)
            left = remaining if left is None else min(left, remaining)
            fraction = max(fraction, min(1.0, elapsed / max(self._time_limit, 1e-9)))
        return Status(
            iterations=iterations,
            max_iter=self._config.max_iter,
            seconds=seconds,
            iterations_per_second=speed,
            images_per_second=speed * 2 * self._config.batch_size,
            seconds_left=left,
            fraction=fraction,
            losses=dict(losses),
            learning_rate=learning_rate,
        )

    def _recent_speed(self) -> float:
        if len(self._moments) < 2:
            return 0.0
        return (len(self._moments) - 1) / max(self._moments[-1] - self._moments[0], 1e-9)

    def _mean_speed(self, iterations: int, seconds: float) -> float:
        """Return the mean speed of the run, or since the resume if the time before it is not known."""
        return (iterations if self.seconds_before else iterations - self.first) / seconds
