"""Loss curves in memory, thinned as a run gets longer."""

from __future__ import annotations

import math
from collections.abc import Mapping

_Sums = dict[str, tuple[float, int]]
"""Sum and number of the finite values of each loss."""


class Curves:
    """Means of the logged losses over equal spans of the run. Memory stays bounded however long the run is.

    Args:
        capacity: Maximum number of points per curve, rounded up to an even number. Neighbors are merged in pairs when
            it is exceeded.
    """

    def __init__(self, capacity: int = 400) -> None:
        self._capacity = capacity + capacity % 2
        self._per_point = 1
        self._points: list[tuple[int, int, _Sums]] = []  # last iteration, rows, sums

    def add(self, iteration: int, losses: Mapping[str, float]) -> None:
        """Add one logged row."""
        finite = {name: (value, 1) for name, value in losses.items() if math.isfinite(value)}
        if self._points and self._points[-1][1] < self._per_point:
            _, rows, sums = self._points[-1]
            self._points[-1] = (iteration, rows + 1, _add(sums, finite))
            return
        if len(self._points) >= self._capacity:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(last, rows + more, _add(sums, others)) for (_, rows, sums), (last, more, others) in pairs]
            self._per_point *= 2
        self._points.append((iteration, 1, finite))

    @property
    def names(self) -> list[str]:
        """Names of the losses, in the order in which they were first logged."""
        return list(dict.fromkeys(name for _, _, sums in self._points for name in sums))

    @property
    def iterations(self) -> list[int]:
        """Last iteration of each point."""
        return [iteration for iteration, _, _ in self._points]

    def means(self, name: str) -> list[float | None]:
        """Return the mean of the finite values of a loss at each point, None where there are none."""
        return [sums[name][0] / sums[name][1] if name in sums else None for _, _, sums in self._points]


def _add(sums: _Sums, others: _Sums) -> _Sums:
    totals = dict(sums)
    for name, (value, count) in others.items():
        total, earlier = totals.get(name, (0.0, 0))
        totals[name] = total + value, earlier + count
    return totals
