"""The check of the distribution on samples whose distribution is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.styles import DistributionCheck, check_distribution
from fastmunit.styles.distribution import energy_distance, holm
from fastmunit.styles.distribution_page import histogram, render, summary

MOMENTS = ("mean", "variance", "skewness", "kurtosis")


def normal(count: int = 120, dims: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(values: Tensor, seed: int = 0) -> DistributionCheck:
    return check_distribution(values[..., None, None], seed)


def test_samples_of_the_standard_normal_are_not_rejected() -> None:
    found = check(normal(seed=1))
    assert found.rejected(*MOMENTS) == 0
    assert found.fitted is not None
    assert min(found.standard.p, found.fitted.p) > 0.05
    assert summary(found)[-1] == "No difference from N(0, I) was found."


def test_rejections_are_as_rare_as_stated() -> None:
    """Each kind of test rejects true hypotheses in at most 5 of 100 cases. More than 5 of 30 have p = 0.003."""
    checks = [check(normal(40, 2, seed)) for seed in range(30)]
    assert sum(each.rejected(*MOMENTS) > 0 for each in checks) <= 5
    assert sum(each.standard.p < 0.05 for each in checks) <= 5
    assert sum(each.fitted is not None and each.fitted.p < 0.05 for each in checks) <= 5


@pytest.mark.parametrize(
    ("change", "moment"),
    [
        (lambda x: x + 0.6, "mean"),
        (lambda x: x * 0.6, "variance"),
        (lambda x: (x.exp() - math.exp(0.5)) / 2.16, "skewness"),
        (lambda x: x**3 / 15**0.5, "kurtosis"),
    ],
)
def test_each_moment_is_found(change: Callable[[Tensor], Tensor], moment: str) -> None:
    values = normal(200)
    values[:, 1] = change(values[:, 1])
    found = check(values)
    assert getattr(found.dimensions[1], moment).differs
    assert not getattr(found.dimensions[0], moment).differs
    assert found.fitted is not None
    # Mean and variance do not matter after standardizing; the shape does.
    assert (found.fitted.p < 0.05) == (moment in ("skewness", "kurtosis"))


def test_dependence_of_normal_dimensions_is_found_by_the_energy_distance_alone() -> None:
    values = normal(200, 2)
    values[:, 1] = 0.9 * values[:, 0] + math.sqrt(1 - 0.81) * values[:, 1]
    found = check(values)
    assert found.rejected(*MOMENTS) == 0
    assert found.fitted is not None
    assert found.standard.p < 0.05 < found.fitted.p


def test_estimates_and_p_values_are_those_of_single_tests() -> None:
    values = normal(50, 2) * torch.tensor([1.0, 1.4]) + 0.3
    found = check(values)
    for dim, column in enumerate(values.T.numpy()):
        moments = found.dimensions[dim]
        central = (column - column.mean()) / np.sqrt(((column - column.mean()) ** 2).mean())
        assert moments.mean.value == pytest.approx(column.mean())
        assert moments.variance.value == pytest.approx(column.var() * 50 / 49)
        assert moments.skewness.value == pytest.approx((central**3).mean())
        assert moments.kurtosis.value == pytest.approx((central**4).mean() - 3)
    raw = []
    for column in values.T.numpy():
        raw.append(2 * stats.t.sf(abs(column.mean() / np.sqrt(column.var(ddof=1) / 50)), 49))
    for column in values.T.numpy():
        scaled = 49 * column.var(ddof=1)
        raw.append(2 * min(stats.chi2.cdf(scaled, 49), stats.chi2.sf(scaled, 49)))
    for test in (stats.skewtest, stats.kurtosistest):
        raw += [test(column).pvalue for column in values.T.numpy()]
    p_values = [getattr(moments, name).p for name in MOMENTS for moments in found.dimensions]
    np.testing.assert_allclose(p_values, holm(np.array(raw)), rtol=1e-9)


def test_holm() -> None:
    """Each ordered p value times the number of those left, never falling, at most 1."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1, 1])


@pytest.mark.parametrize("dims", [1, 2, 8])
def test_the_energy_distance_is_that_of_simulated_pairs(dims: int) -> None:
    values = normal(30, dims, seed=3) * 0.7 + 0.4
    other = normal(40_000, dims, seed=4)
    between = torch.cdist(values, other).mean()
    within = (values[:, None] - values[None]).norm(dim=2).mean()
    of_normal = (other[:20_000] - other[20_000:]).norm(dim=1).mean()
    assert energy_distance(values) == pytest.approx(float(2 * between - within - of_normal), abs=0.03)
    if dims == 1:  # E|x - z| = 2 φ(x) + x (2 Φ(x) - 1), and E|z - z'| = 2 / √π
        x = values[:, 0].numpy()
        mean = (2 * stats.norm.pdf(x) + x * (2 * stats.norm.cdf(x) - 1)).mean()
        assert energy_distance(values) == pytest.approx(2 * mean - float(within) - 2 / math.sqrt(math.pi), abs=1e-12)


def test_constant_and_dependent_dimensions() -> None:
    values = normal(40)
    values[:, 1] = 2.5
    found = check(values)
    assert found.fitted is None
    assert found.dimensions[1].mean.p == found.dimensions[1].variance.p == 0
    assert "the covariance is singular" in summary(found)[1]
    page = render(values[..., None, None], found, {"model": "x"})
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower()
    values[:, 1] = 0
    assert check(values).dimensions[1].mean.p == 1
    values[:, 1] = values[:, 0]
    assert check(values).fitted is None


def test_too_few_styles() -> None:
    with pytest.raises(DataError, match="needs at least 20 styles, got 19"):
        check(normal(19))


def test_a_check_is_seeded_and_json() -> None:
    first, again, other = check(normal(), 1).to_dict(), check(normal(), 1).to_dict(), check(normal(), 2).to_dict()
    assert first == again
    assert first != other
    assert json.loads(json.dumps(first)) == first


def test_the_page_needs_nothing_else_and_escapes_names() -> None:
    values = normal()
    page = render(values[..., None, None], check(values), {"model": "<b>&"})
    assert "&lt;b&gt;&amp;" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert page.count("<svg") == 4


@pytest.mark.parametrize("far", [1e3, 1e4, 1e20])
def test_one_large_value_neither_hides_the_others_nor_takes_memory(far: float) -> None:
    values = normal(40)
    values[0, 1] = -far
    others = values[1:, 1].abs().max()
    drawn = histogram(values[:, 1].numpy())
    assert others < drawn.frame.x[1] == pytest.approx(max(3.5, 1.02 * others))
    assert drawn.outside == 1
    assert max(height for *_, height in drawn.bars) > 0.5 * drawn.frame.base
    page = render(values[..., None, None], check(values), {"model": "x"})
    assert page.count("far outside: 1 of 40") == 1
    assert len(page) < 100_000


def test_curves_far_from_each_other_are_both_drawn() -> None:
    """All values are large, so that none is far from the others. The peaks of both densities are narrow then."""
    drawn = histogram(normal(40)[:, 0].numpy() * 0.5 + 1e5)
    top = drawn.frame.place(0, drawn.frame.y[1] / 1.08)[1]
    assert drawn.outside == 0
    assert len(drawn.standard) < 300
    assert min(y for _, y in drawn.standard) == top
    assert min(y for _, y in drawn.fitted) < top


def test_a_histogram_holds_all_values() -> None:
    drawn = histogram(np.array([-9.0, 0.0, 0.1, 4.0]))
    unit = (drawn.frame.width - 2 * drawn.frame.left) / (drawn.frame.x[1] - drawn.frame.x[0])
    assert drawn.frame.x[0] < -9 < 9 < drawn.frame.x[1]
    scale = (drawn.frame.height - drawn.frame.top - drawn.frame.bottom) / drawn.frame.y[1]
    area = sum(width / unit * height / scale for _, _, width, height in drawn.bars)
    assert area == pytest.approx(1, rel=0.05)  # coordinates have one decimal
    assert all(0 <= x <= drawn.frame.width and 0 <= y <= drawn.frame.base for x, y in (*drawn.standard, *drawn.fitted))
