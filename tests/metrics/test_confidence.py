from __future__ import annotations

import math

import pytest
import torch

from fastmunit.metrics.confidence import (
    MIN_COUNT,
    Estimate,
    bootstrap,
    counts_of_resample,
    mean_estimate,
    spread_estimate,
)


@pytest.mark.parametrize(
    ("name", "draw", "truth"),
    [
        ("normal", lambda g, n: torch.randn(n, generator=g), 0.0),
        ("skewed", lambda g, n: -torch.rand(n, generator=g).log(), 1.0),
    ],
)
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_of_means_have_their_nominal_coverage(name: str, draw, truth: float, level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    trials = 400
    covered = 0
    for trial in range(trials):
        estimate = mean_estimate(draw(generator, 40), level=level, resamples=400, seed=trial)
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
    # Three standard errors of the fraction over the trials, and 2 % for the approximation of the interval.
    slack = 3 * math.sqrt(level * (1 - level) / trials) + 0.02
    assert abs(covered / trials - level) < slack, f"{name}: {covered} of {trials}"


def test_resampled_intervals_cover_too() -> None:
    """The statistic is a variance, whose bootstrap values are biased by (n - 1) / n."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        data = torch.randn(60, generator=generator).double()

        def variance(random: torch.Generator, data: torch.Tensor = data) -> float:
            return float(data[torch.randint(60, (60,), generator=random)].var())

        estimate = spread_estimate(float(data.var()), 60, bootstrap(variance, seed=trial))
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 1 <= estimate.high
    assert 0.87 <= covered / 200 <= 0.99


def test_width_falls_with_the_root_of_the_count() -> None:
    values = torch.randn(1600, generator=torch.Generator().manual_seed(0)).double()
    few, many = mean_estimate(values[:100]), mean_estimate(values)
    assert few.high is not None and few.low is not None and many.high is not None and many.low is not None
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.3)


def test_equal_values_have_no_width() -> None:
    assert mean_estimate([0.1] * 20) == Estimate(0.1, 0.1, 0.1, 20)


def test_too_few_values_for_an_interval() -> None:
    estimate = mean_estimate(torch.arange(MIN_COUNT - 1))
    assert (estimate.value, estimate.low, estimate.high, estimate.count) == (4, None, None, 9)
    assert mean_estimate(torch.arange(MIN_COUNT)).low is not None
    assert spread_estimate(2.0, MIN_COUNT - 1, iter(())) == Estimate(2.0, None, None, MIN_COUNT - 1)
    assert str(mean_estimate([3.0])) == "3"
    with pytest.raises(ValueError, match="got 0 values"):
        mean_estimate([])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="expected finite values"):
            mean_estimate([bad] * 10)
    with pytest.raises(ValueError, match="level 1"):
        mean_estimate([1.0, 2.0], level=1)


def test_the_seed_decides_and_the_global_state_is_left_alone() -> None:
    values = [float(k % 7) for k in range(30)]
    before = torch.get_rng_state()
    assert mean_estimate(values, seed=1) == mean_estimate(values, seed=1)
    assert mean_estimate(values, seed=1) != mean_estimate(values, seed=2)
    assert torch.equal(before, torch.get_rng_state())


def test_resample_counts() -> None:
    counts = counts_of_resample(50, torch.Generator().manual_seed(0))
    assert counts.shape == (50,) and counts.sum() == 50 and counts.min() == 0 and counts.max() > 1
