"""Confidence intervals by bootstrap."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

LEVEL = 0.95
"""Nominal coverage of an interval."""

MIN_COUNT = 10
"""Number of independent values below which no interval is given: it would be a guess."""


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    Attributes:
        value: The value.
        low: Lower end of the interval; None if there are too few independent values for one.
        high: Upper end of the interval.
        count: Number of independent values.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_estimate(
    values: Sequence[float] | Tensor, *, level: float = LEVEL, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean of independent values with a bootstrap-t interval.

    With t* = (mean* - mean) / se* of resamples with replacement, the interval is
    [mean - t*₁₋α/₂ se, mean - t*α/₂ se], where se is the standard error of the mean. It is second-order accurate, also
    for skewed values. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5.

    Args:
        values: At least one value. Fewer than `MIN_COUNT` give no interval, equal values one of width 0.
        level: Nominal coverage of the interval.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling; the global random state is not touched.

    Raises:
        ValueError: If there is no value, a value is NaN or infinite, or the level is not in (0, 1).
    """
    data = torch.as_tensor(values, dtype=torch.float64).flatten().cpu()
    count = len(data)
    if count == 0 or not 0 < level < 1:
        raise ValueError(f"expected at least one value and a level in (0, 1), got {count} values and level {level}")
    if not bool(torch.isfinite(data).all()):
        raise ValueError("expected finite values, got NaN or infinity")
    if bool((data == data[0]).all()):
        same = float(data[0])
        end = same if count >= MIN_COUNT else None
        return Estimate(same, end, end, count)
    mean = float(data.mean())
    if count < MIN_COUNT:
        return Estimate(mean, None, None, count)
    error = float(data.std()) / math.sqrt(count)
    drawn = data[torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))]
    errors = drawn.std(dim=1) / math.sqrt(count)
    usable = errors > 0  # t is undefined for a resample of equal values
    t = (drawn.mean(dim=1)[usable] - mean) / errors[usable]
    upper, lower = torch.quantile(t, torch.tensor([(1 + level) / 2, (1 - level) / 2], dtype=t.dtype)).tolist()
    return Estimate(mean, mean - upper * error, mean - lower * error, count)


def spread_estimate(value: float, count: int, resampled: Iterable[float], *, level: float = LEVEL) -> Estimate:
    """Return a value with the interval value ± z · (standard deviation of its bootstrap values).

    It is for statistics that are not means and whose bootstrap values are biased, such as the Fréchet distance, which
    repeated samples bias: only the spread of the bootstrap values is used. Source: Efron and Tibshirani 1993, sections
    6.2 and 12.2.

    Args:
        value: Statistic of the data.
        count: Number of independent values. Fewer than `MIN_COUNT` give no interval, and `resampled` is not used.
        resampled: Statistic of each resample, for example from `bootstrap`.
        level: Nominal coverage of the interval.
    """
    if count < MIN_COUNT:
        return Estimate(value, None, None, count)
    half_width = statistics.NormalDist().inv_cdf((1 + level) / 2) * statistics.stdev(resampled)
    return Estimate(value, value - half_width, value + half_width, count)


def bootstrap(statistic: Callable[[torch.Generator], float], seed: int, resamples: int = 100) -> Iterator[float]:
    """Yield the statistics of resamples, which `statistic` draws with the given generator."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        yield statistic(generator)


def counts_of_resample(count: int, generator: torch.Generator) -> Tensor:
    """Return how often each of `count` values is drawn in one bootstrap sample, (count,), float64."""
    drawn = torch.randint(count, (count,), generator=generator)
    return torch.bincount(drawn, minlength=count).double()
