"""Geometry of curves over iterations, which the `chart` macro of the templates draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One curve: its name in the legend, one value per x, and the ends of its interval; None where there is none."""

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class Curve:
    """A series in the chart.

    Attributes:
        name: Name in the legend.
        points: SVG coordinates.
        last: Last value; NaN if there is none.
        band: SVG coordinates of the outline of the interval; empty if there is none.
    """

    name: str
    points: list[Point]
    last: float
    band: list[Point]


@dataclass(frozen=True)
class Chart:
    """Curves over iterations, in SVG coordinates.

    Attributes:
        title: Caption.
        grid: Height and label of each grid line.
        ticks: Position and label of each tick on the x axis.
        curves: One per series.
        data: Values that chart.js displays under the pointer.
    """

    title: str
    grid: list[tuple[float, str]]
    ticks: list[tuple[float, str]]
    curves: list[Curve]
    data: dict[str, Any]

    width: ClassVar[int] = 520
    height: ClassVar[int] = 230
    left: ClassVar[int] = 52
    right: ClassVar[int] = 508
    top: ClassVar[int] = 10
    bottom: ClassVar[int] = 202


def line_chart(title: str, x: Sequence[int], series: Sequence[Series]) -> Chart | None:
    """Lay out curves over iterations; return None if there is no value.

    The y axis starts at 0 and ends above the bulk of the values (1.5 times the 98th percentile), so that a spike at
    the start does not flatten the rest.
    """
    values = sorted(v for s in series for v in (*s.values, *s.low, *s.high) if v is not None)
    if not x or not values:
        return None
    bulk = max(0.0, min(values[-1], 1.5 * values[math.ceil(0.98 * len(values)) - 1]))
    step = _nice_step(max(bulk, -values[0]) / 4 or 1.0)
    high = step * max(1, math.ceil(bulk / step))
    low = -step * math.ceil(-values[0] / step) if values[0] < 0 else 0.0
    last = max(x[-1], 1)
    span = Chart.right - Chart.left

    def place(iteration: float, value: float) -> Point:
        fraction = (min(max(value, low), high) - low) / (high - low)
        return (
            round(Chart.left + span * iteration / last, 1),
            round(Chart.bottom - (Chart.bottom - Chart.top) * fraction, 1),
        )

    def curves() -> Iterator[Curve]:
        for s in series:
            known = [(i, v) for i, v in zip(x, s.values, strict=True) if v is not None]
            intervals = [
                (i, low, high)
                for i, low, high in zip(x, s.low, s.high, strict=False)
                if low is not None and high is not None
            ]
            upper = [place(i, high) for i, _, high in intervals]
            lower = [place(i, low) for i, low, _ in reversed(intervals)]
            yield Curve(s.name, [place(i, v) for i, v in known], known[-1][1] if known else math.nan, [*upper, *lower])

    levels = [low + k * step for k in range(round((high - low) / step) + 1)]
    x_step = max(1, round(_nice_step(last / 5)))
    return Chart(
        title=title,
        grid=[(place(0, level)[1], f"{level:.4g}") for level in levels],
        ticks=[(place(i, low)[0], _short(i)) for i in range(0, last + 1, x_step)],
        curves=list(curves()),
        data={
            "x": list(x),
            "left": Chart.left,
            "span": span,
            "last": last,
            "series": [
                {
                    "name": s.name,
                    "values": [_rounded(v) for v in s.values],
                    "low": [_rounded(v) for v in s.low],
                    "high": [_rounded(v) for v in s.high],
                }
                for s in series
            ],
        },
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _nice_step(rough: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _short(count: int) -> str:
    if count >= 1_000_000:
        return f"{count / 1e6:g}M"
    return f"{count / 1000:g}k" if count >= 10_000 else str(count)
