"""The page of a check of the distribution: a histogram per dimension, the tests, and all dimensions together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmunit.image_files.packages import needed
from fastmunit.runs.reports import html
from fastmunit.styles.distribution import LEVEL, DistributionCheck, EnergyTest

_BINS, _CURVE = 56, 81
_FAR = 20
"""Values this many times as large as the median, or as 1 if that is larger, are left out of a histogram."""
_MAX_POINTS = 300
_MAX_CORRELATIONS = 32
Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """A drawing area in SVG coordinates, and the ranges of both axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 240
    height: float = 130
    left: float = 8
    bottom: float = 18
    top: float = 6

    def place(self, x: float, y: float) -> Point:
        """Return the SVG coordinates of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        inner = self.height - self.top - self.bottom
        return round(self.left + across * (self.width - 2 * self.left), 1), round(self.top + (1 - up) * inner, 1)

    @property
    def base(self) -> float:
        """The y coordinate of the lower border."""
        return self.height - self.bottom


@dataclass(frozen=True)
class Histogram:
    """A histogram with the densities of N(0, 1) and of the fitted normal distribution, in SVG coordinates.

    Attributes:
        frame: Drawing area.
        bars: Left, top, width and height of each bar.
        standard: Points of the density of N(0, 1).
        fitted: Points of the fitted density.
        ticks: Position and label on the x axis.
        outside: Number of values that are left out, because the others could not be seen next to them.
    """

    frame: Frame
    bars: list[tuple[float, float, float, float]]
    standard: list[Point]
    fitted: list[Point]
    ticks: list[tuple[float, str]]
    outside: int


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of squared norms against those of χ², in SVG coordinates.

    Attributes:
        frame: Drawing area.
        codes: Points of the codes.
        standardized: Points of the codes after subtracting their mean and dividing by their covariance.
        diagonal: Ends of the line on which samples of N(0, I) are.
        x_ticks: Position and label on the x axis.
        y_ticks: Position and label on the y axis.
    """

    frame: Frame
    codes: list[Point]
    standardized: list[Point]
    diagonal: tuple[Point, Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def render(codes: Tensor, check: DistributionCheck, facts: Mapping[str, str]) -> str:
    """Render the page as HTML that needs no other file and no network.

    Args:
        codes: Style codes (S, style_dim, 1, 1).
        check: Their check.
        facts: Names and values of facts, such as the model.
    """
    values = codes.detach().flatten(1).double().cpu()
    return html.render(
        "style_distribution.html.j2",
        title="Distribution of styles",
        facts=facts,
        check=check,
        level=LEVEL,
        summary=summary(check),
        histograms=[histogram(column) for column in values.T.numpy()],
        quantiles=quantiles(values, check),
        correlations=_correlations(check.distribution.covariance),
    )


def summary(check: DistributionCheck) -> list[str]:
    """Return sentences about the result."""
    dims = len(check.dimensions)
    moments, shape = check.rejected("mean", "variance"), check.rejected("skewness", "kurtosis")
    lines = [
        f"Against N(0, I): {moments} of {dims} dimensions differ in mean or variance; {_energy(check.standard)}.",
        f"Against any normal distribution: {shape} of {dims} dimensions differ in skewness or kurtosis; "
        + ("the covariance is singular." if check.fitted is None else f"standardized, {_energy(check.fitted)}."),
    ]
    if moments or check.standard.p < LEVEL:
        lines.append(
            "Random styles from N(0, I) are distributed differently from encoded ones. --style-distribution draws from "
            "the normal distribution with their mean and covariance instead"
            + (", whose shape still differs from theirs." if shape or _differs(check.fitted) else ".")
        )
    else:
        lines.append("No difference from N(0, I) was found.")
    return lines


def _differs(test: EnergyTest | None) -> bool:
    return test is not None and test.p < LEVEL


def _energy(test: EnergyTest) -> str:
    return f"energy distance {test.distance:.3g} ({test.expected:.2g} by chance, p = {test.p:.3f})"


def histogram(values: np.ndarray) -> Histogram:
    """Lay out the histogram of one dimension. The x axis holds N(0, 1) and all values, without those that are far."""
    sizes = np.abs(values)
    shown = sizes[sizes <= _FAR * max(1.0, float(np.median(sizes)))]
    reach = max(3.5, float(shown.max()) * 1.02)
    edges = np.linspace(-reach, reach, _BINS + 1)
    densities = np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0]))
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    x = _curve_places(reach, mean, deviation)
    standard = _density(x, 0, 1)
    fitted = _density(x, mean, deviation) if deviation > 0 else np.zeros_like(x)
    frame = Frame((-reach, reach), (0.0, 1.08 * max(float(densities.max()), float(standard.max()))))
    bars = []
    for left, right, density in zip(edges, edges[1:], densities, strict=False):
        (x0, y0), (x1, _) = frame.place(left, density), frame.place(right, density)
        if density > 0:
            bars.append((x0, y0, round(x1 - x0, 1), round(frame.base - y0, 1)))
    step = 1 if reach < 5 else math.ceil(reach / 4)
    ticks = [(frame.place(k, 0)[0], f"{k:g}") for k in range(-step * int(reach // step), int(reach) + 1, step)]
    # A narrow distribution would otherwise flatten everything else.
    capped = np.minimum(fitted, frame.y[1])
    return Histogram(
        frame,
        bars,
        [frame.place(*point) for point in zip(x, standard, strict=True)],
        [frame.place(*point) for point in zip(x, capped, strict=True)],
        ticks,
        len(values) - len(shown),
    )


def _curve_places(reach: float, mean: float, deviation: float) -> np.ndarray:
    """Return places on the x axis for curves: even ones, and more where one of the densities is not flat."""
    steps = np.linspace(-4, 4, _CURVE)
    places = np.concatenate([np.linspace(-reach, reach, _CURVE), steps, mean + deviation * steps])
    return np.unique(places[np.abs(places) <= reach])


def quantiles(values: Tensor, check: DistributionCheck) -> Quantiles:
    """Lay out the quantiles of |s|² against those of χ² with as many degrees of freedom as dimensions.

    Source: Gnanadesikan and Kettenring, Robust Estimates, Residuals, and Outlier Detection with Multiresponse Data,
    Biometrics 28, 1972, which compares squared norms of standardized values with χ² or a beta distribution.
    """
    stats = needed("scipy.stats", "styles", "a check of the distribution")
    count, dims = values.shape
    places = np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).round().astype(int))
    expected = stats.chi2.ppf((places + 0.5) / count, dims)
    series = [values.square().sum(1).sort().values.numpy()[places]]
    if check.fitted is not None:
        centered = values - check.distribution.mean
        solved = torch.linalg.solve(check.distribution.covariance, centered.T).T
        series.append((centered * solved).sum(1).sort().values.numpy()[places])
    high_x = float(expected.max()) * 1.05
    high_y = max(high_x, *(float(each.max()) * 1.05 for each in series))
    frame = Frame((0, high_x), (0, high_y), width=520, height=260, left=40, bottom=22)
    points = [[frame.place(*point) for point in zip(expected, each, strict=True)] for each in series]
    return Quantiles(
        frame,
        points[0],
        points[1] if len(points) > 1 else [],
        (frame.place(0, 0), frame.place(high_x, high_x)),
        [(frame.place(value, 0)[0], f"{value:g}") for value in _levels(high_x)],
        [(frame.place(0, value)[1], f"{value:g}") for value in _levels(high_y)],
    )


def _density(x: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))


def _levels(high: float) -> list[float]:
    """Return round numbers from 0 to `high`."""
    power = 10.0 ** math.floor(math.log10(high / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= high / 5)
    return [step * k for k in range(int(high / step) + 1)]


def _correlations(covariance: Tensor) -> Sequence[Sequence[float]]:
    """Return the correlation matrix; an empty one if it is too large to be read, or a variance is 0."""
    deviations = covariance.diagonal().sqrt()
    if len(covariance) > _MAX_CORRELATIONS or not bool((deviations > 0).all()):
        return []
    return (covariance / deviations / deviations[:, None]).tolist()
