"""The distribution of encoded styles against N(0, I), which random styles are drawn from, and against any normal."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastmunit.data.seeding import named_generator
from fastmunit.errors import DataError
from fastmunit.image_files.packages import needed
from fastmunit.metrics.images import evenly_spaced
from fastmunit.systems.code_checks import require_codes
from fastmunit.systems.style_distributions import FittedNormal

MIN_CODES = 20
"""Fewest codes, below which the approximation of the test of kurtosis does not hold."""
LEVEL = 0.05
"""Level of the tests."""
MAX_CODES = 1000
"""Number of codes for the energy distances, evenly spaced if there are more."""
_SIMULATIONS = 199


@dataclass(frozen=True)
class Moment:
    """A moment of one dimension of the codes, and its test.

    Attributes:
        value: The estimate.
        p: p value of the test, corrected for all tests of the check.
    """

    value: float
    p: float

    @property
    def differs(self) -> bool:
        """True if the test rejects the value of N(0, 1)."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Dimension:
    """Mean, variance, skewness and excess kurtosis of one dimension, which are 0, 1, 0 and 0 for N(0, 1)."""

    mean: Moment
    variance: Moment
    skewness: Moment
    kurtosis: Moment


@dataclass(frozen=True)
class EnergyTest:
    """A test by energy distance.

    Attributes:
        distance: Squared energy distance between the codes and the normal distribution.
        expected: Mean of the same for as many samples of the normal distribution.
        p: Part of the simulated samples whose distance is at least as large.
    """

    distance: float
    expected: float
    p: float


@dataclass(frozen=True)
class DistributionCheck:
    """The result of `check_distribution`.

    Attributes:
        count: Number of codes.
        dimensions: Moments of each dimension.
        standard: Energy distance from N(0, I).
        fitted: Energy distance of codes that are standardized by their mean and covariance, from N(0, I): of the codes'
            shape from that of any normal distribution. None if the covariance is singular.
        distribution: The fitted normal distribution.
    """

    count: int
    dimensions: list[Dimension]
    standard: EnergyTest
    fitted: EnergyTest | None
    distribution: FittedNormal

    def rejected(self, *moments: str) -> int:
        """Return the number of dimensions in which one of the moments differs from that of N(0, 1)."""
        return sum(any(getattr(each, moment).differs for moment in moments) for each in self.dimensions)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "count": self.count,
            "dimensions": [asdict(dimension) for dimension in self.dimensions],
            "energy_distance_from_standard_normal": asdict(self.standard),
            "energy_distance_from_fitted_normal": None if self.fitted is None else asdict(self.fitted),
            "mean": self.distribution.mean.tolist(),
            "covariance": self.distribution.covariance.tolist(),
        }


def check_distribution(codes: Tensor, seed: int = 0) -> DistributionCheck:
    """Test if style codes are samples of N(0, I), and if they are samples of a normal distribution at all.

    Each dimension is tested for mean 0 (Student's t), variance 1 (χ²), skewness 0 (D'Agostino, Biometrika 57, 1970) and
    excess kurtosis 0 (Anscombe and Glynn, Biometrika 70, 1983). The p values are corrected for their number by Holm
    (Scandinavian Journal of Statistics 6, 1979), which holds for dependent tests: if the codes are samples of N(0, I),
    any of them is below 0.05 in at most one check of 20. All dimensions together are tested by the energy distance
    (Székely and Rizzo, Journal of Statistical Planning and Inference 143, 2013; for the standardized codes: Journal of
    Multivariate Analysis 93, 2005), with p values from simulated samples.

    All p values hold for independent codes. Those of several photos of the same object are not, which makes the p
    values too small.

    Args:
        codes: Style codes (S, style_dim, 1, 1), at least `MIN_CODES` of them.
        seed: Seed of the simulated samples.

    Raises:
        DataError: If there are too few codes, they have a wrong shape or NaN or infinite values, or scipy is not
            installed.
    """
    require_codes(codes)
    if len(codes) < MIN_CODES:
        raise DataError(f"a check of the distribution needs at least {MIN_CODES} styles, got {len(codes)}: add images.")
    values = codes.detach().flatten(1).double().cpu()
    sample = values[evenly_spaced(len(values), MAX_CODES)]
    fitted = None if _standardized(sample) is None else _energy_test(sample, seed, standardize=True)
    return DistributionCheck(
        len(values), _dimensions(values.numpy()), _energy_test(sample, seed), fitted, FittedNormal(codes)
    )


def _dimensions(values: np.ndarray) -> list[Dimension]:
    """Test the moments of each column."""
    stats = needed("scipy.stats", "styles", "a check of the distribution")
    count, dims = values.shape
    mean, variance = values.mean(0), values.var(0, ddof=1)
    constant = variance <= 1e-12 * np.maximum(mean**2, 1e-12)  # a single value has no moments beyond its mean
    varied = np.where(constant, np.arange(count)[:, None], values)
    scaled = (count - 1) * variance
    p_values = [
        np.where(constant, mean == 0, stats.ttest_1samp(varied, 0).pvalue),
        np.minimum(1, 2 * np.minimum(stats.chi2.cdf(scaled, count - 1), stats.chi2.sf(scaled, count - 1))),
        np.where(constant, 0, stats.skewtest(varied).pvalue),
        np.where(constant, 0, stats.kurtosistest(varied).pvalue),
    ]
    skewness = np.where(constant, 0, stats.skew(varied))
    kurtosis = np.where(constant, 0, stats.kurtosis(varied))
    corrected = holm(np.concatenate(p_values)).reshape(4, dims)
    return [
        Dimension(
            *(
                Moment(float(estimates[dim]), float(corrected[row, dim]))
                for row, estimates in enumerate((mean, variance, skewness, kurtosis))
            )
        )
        for dim in range(dims)
    ]


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p values (N,) that are corrected for their number, by Holm's step-down method."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty_like(stepped)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def energy_distance(values: Tensor) -> float:
    """Return the squared energy distance between the empirical distribution of rows (N, d) and N(0, I).

    2 E|x - z| - E|x - x'| - E|z - z'|, where x and x' are rows and z and z' are normal. The mean distance of a row from
    z is that of a noncentral χ distribution, and exact:
    E|x - z| = √2 Γ((d + 1) / 2) / Γ(d / 2) · ₁F₁(-1/2; d/2; -|x|² / 2). Source: Székely and Rizzo, 2005, equation 2.1.
    """
    special = needed("scipy.special", "styles", "an energy distance")
    dims = values.shape[1]
    root = math.exp(math.lgamma((dims + 1) / 2) - math.lgamma(dims / 2))
    squares = values.square().sum(1).numpy()
    from_normal = math.sqrt(2) * root * special.hyp1f1(-0.5, dims / 2, -squares / 2)
    within = float(torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist").mean())
    return float(2 * from_normal.mean() - within - 2 * root)


def _energy_test(values: Tensor, seed: int, standardize: bool = False) -> EnergyTest:
    """Compare the energy distance of rows with that of simulated samples, which are treated alike."""
    generator = named_generator("style distribution", seed)

    def distance(rows: Tensor) -> float:
        standardized = _standardized(rows) if standardize else rows
        assert standardized is not None
        return energy_distance(standardized)

    found = distance(values)
    simulated = [
        distance(torch.randn(values.shape, generator=generator, dtype=torch.float64)) for _ in range(_SIMULATIONS)
    ]
    larger = sum(other >= found for other in simulated)
    return EnergyTest(found, sum(simulated) / _SIMULATIONS, (1 + larger) / (1 + _SIMULATIONS))


def _standardized(values: Tensor) -> Tensor | None:
    """Return rows with mean 0 and covariance I. None if their covariance is singular."""
    centered = values - values.mean(0)
    variances, axes = torch.linalg.eigh(centered.T @ centered / (len(values) - 1))
    if float(variances[0]) <= 1e-10 * float(variances[-1]):
        return None
    return centered @ axes / variances.sqrt() @ axes.T
