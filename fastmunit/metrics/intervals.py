"""Confidence intervals by bootstrap."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

LEVEL = 0.95
"""How often an interval is meant to hold the true value."""

FEWEST = 10
"""With fewer independent values an interval would be a guess, and none is given."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the figure.
        low: lower end of the interval; None where there are too few values for one.
        high: upper end.
        count: independent values that it rests on.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """The fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_estimate(
    values: Sequence[float] | Tensor, *, level: float = LEVEL, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of independent values with a bootstrap-t interval.

    Resample the values with replacement, t* = (mean* - mean) / se*; the interval is
    [mean - t*₁₋α/₂ se, mean - t*α/₂ se], se the standard error of the mean. It is exact to second order also for
    skewed values. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5.

    Args:
        values: at least one; with fewer than `FEWEST` there is no interval. Equal values give an interval of width 0.
        level: how often the interval should hold the true mean.
        resamples: bootstrap samples.
        seed: of the resampling; the global random state is not touched.

    Raises:
        ValueError: no values, NaN or infinite ones, or a level outside (0, 1).
    """
    data = torch.as_tensor(values, dtype=torch.float64).flatten().cpu()
    count = len(data)
    if count == 0 or not 0 < level < 1:
        raise ValueError(f"{count} values, level {level}: at least one value and a level in (0, 1) are needed")
    if not bool(torch.isfinite(data).all()):
        raise ValueError("values with NaN or infinity have no mean")
    if bool((data == data[0]).all()):
        same = float(data[0])
        end = same if count >= FEWEST else None
        return Estimate(same, end, end, count)
    mean = float(data.mean())
    if count < FEWEST:
        return Estimate(mean, None, None, count)
    error = float(data.std()) / math.sqrt(count)
    drawn = data[torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))]
    errors = drawn.std(dim=1) / math.sqrt(count)
    usable = errors > 0  # a resample of one value only has no t
    t = (drawn.mean(dim=1)[usable] - mean) / errors[usable]
    upper, lower = torch.quantile(t, torch.tensor([(1 + level) / 2, (1 - level) / 2], dtype=t.dtype)).tolist()
    return Estimate(mean, mean - upper * error, mean - lower * error, count)


def resampled_estimate(
    value: float,
    count: int,
    statistic: Callable[[torch.Generator], float],
    *,
    level: float = LEVEL,
    resamples: int = 100,
    seed: int = 0,
) -> Estimate:
    """A figure with the interval value ± z · (standard deviation of its bootstrap values).

    For figures that are no means, and whose bootstrap values are biased, as a Fréchet distance's are by the repeated
    samples: their spread is used, not their place. Source: Efron and Tibshirani 1993, sections 6.2 and 12.2.

    Args:
        value: the figure on the data themselves.
        count: independent values it rests on; with fewer than `FEWEST` there is no interval.
        statistic: the figure on one resample, drawn with the generator it is given.
        level: how often the interval should hold the true value.
        resamples: bootstrap samples.
        seed: of the resampling; the global random state is not touched.
    """
    if count < FEWEST:
        return Estimate(value, None, None, count)
    generator = torch.Generator().manual_seed(seed)
    return spread_estimate(value, count, [statistic(generator) for _ in range(resamples)], level=level)


def spread_estimate(value: float, count: int, resampled: Sequence[float], *, level: float = LEVEL) -> Estimate:
    """`resampled_estimate` from bootstrap values that are computed already; with few independent values none are used.

    Args:
        value: the figure on the data themselves.
        count: independent values it rests on; with fewer than `FEWEST` there is no interval.
        resampled: the figure on each resample.
        level: how often the interval should hold the true value.
    """
    if count < FEWEST:
        return Estimate(value, None, None, count)
    spread = statistics.stdev(resampled)
    reach = statistics.NormalDist().inv_cdf((1 + level) / 2) * spread
    return Estimate(value, value - reach, value + reach, count)


def counts_of_resample(count: int, generator: torch.Generator) -> Tensor:
    """How often each of `count` values is drawn in one bootstrap sample: (count,), float64."""
    drawn = torch.randint(count, (count,), generator=generator)
    return torch.bincount(drawn, minlength=count).double()
