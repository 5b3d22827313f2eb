"""A progress bar for training runs."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from fastmunit.runs.callbacks import Callback, Status
from fastmunit.runs.reports.evaluation_log import EvaluationRecord
from fastmunit.runs.reports.training_report import duration
from fastmunit.systems.base import System

_SECONDS_BETWEEN_LINES = 30.0


class ProgressBar(Callback):
    """A bar with iteration, main losses, images/s and time left on standard error.

    If standard error is not a terminal, a line every 30 seconds.

    Args:
        timed: True if time limits the run. The total number of iterations is then not shown.
    """

    def __init__(self, timed: bool = False) -> None:
        self._timed = timed
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._last_line = time.monotonic()

    def indexing(self, done: int, total: int) -> None:
        """Show the number of regions that were looked at."""
        self._count("looking for foreground", "region", done, total)

    def verifying(self, done: int, total: int) -> None:
        """Show the number of verified images."""
        self._count("verifying images", "image", done, total)

    def _count(self, what: str, unit: str, done: int, total: int) -> None:
        if self._terminal:
            if self._bar is None:
                self._bar = tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True)
            self._bar.update(done - self._bar.n)
            if done == total:
                self.finished()
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(f"{what}: {done:,}/{total:,}", file=sys.stderr, flush=True)

    def started(self, status: Status, trainer: System) -> None:
        """Open the bar."""
        if self._terminal:
            layout = "{desc} {percentage:3.0f}%|{bar}|{postfix}"
            self._bar = tqdm(total=1.0, bar_format=layout, dynamic_ncols=True, smoothing=0, leave=True)
            self._bar.set_description_str(self._position(status))

    def iteration(self, status: Status, trainer: System) -> None:
        """Update the bar, or print a line from time to time."""
        if self._bar is not None:
            self._bar.n = min(1.0, status.fraction)
            self._bar.set_description_str(self._position(status), refresh=False)
            self._bar.set_postfix_str(_details(status), refresh=False)
            now = time.monotonic()
            if now - self._last_line >= 0.1 or status.fraction >= 1:
                self._bar.refresh()
                self._last_line = now
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(f"{self._position(status)} {_details(status)}", file=sys.stderr, flush=True)

    def evaluated(self, status: Status, evaluation: EvaluationRecord, best: bool) -> None:
        """Print the scores above the bar."""
        self.message(f"Iteration {status.iterations:,}: {evaluation}{' (best so far)' if best else ''}")

    def message(self, text: str) -> None:
        """Print a message above the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(text, file=sys.stderr, flush=True)

    def finished(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _position(self, status: Status) -> str:
        return f"iteration {status.iterations:,}" + ("" if self._timed else f"/{status.max_iter:,}")


def _details(status: Status) -> str:
    parts = [
        f"{name} {status.losses[key]:.3g}"
        for name, key in (("gen", "loss_gen_total"), ("dis", "loss_dis_total"))
        if key in status.losses
    ]
    if status.images_per_second:
        parts.append(f"{status.images_per_second:.3g} images/s")
    if status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left")
    return ", ".join(parts)
