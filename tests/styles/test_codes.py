"""Banks, neighbors, directions and distributions of style codes against independent computations."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmunit.errors import ConfigError, DataError
from fastmunit.styles import (
    FittedNormal,
    GivenStyles,
    check_distribution,
    interpolate,
    make_bank,
    nearest,
    principal_directions,
    write_styles,
)


def normal(count: int, dims: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dims, 1, 1, generator=torch.Generator().manual_seed(seed))


def test_a_bank_is_the_best_partition() -> None:
    """k-means must reach the minimum inertia over all partitions of eight codes into three clusters."""
    codes = normal(8, 2)
    found = make_bank(codes, 3)
    values = codes.flatten(1).double().numpy()

    def inertia(labels: tuple[int, ...]) -> float:
        groups = [values[np.array(labels) == k] for k in range(3)]
        return sum(((group - group.mean(0)) ** 2).sum() for group in groups)

    best = min((x for x in itertools.product(range(3), repeat=8) if len(set(x)) == 3), key=inertia)
    assert inertia(tuple(found.labels.tolist())) == pytest.approx(inertia(best))
    assert found.sizes == sorted(found.sizes, reverse=True)
    for cluster, medoid in enumerate(found.medoids):
        members = (found.labels == cluster).nonzero().flatten().tolist()
        np.testing.assert_allclose(found.codes[cluster].flatten(), values[members].mean(0), rtol=1e-6)
        sums = {member: ((values[members] - values[member]) ** 2).sum() for member in members}
        assert sums[medoid] == pytest.approx(min(sums.values()))


def test_a_bank_of_separate_clusters_does_not_depend_on_order_and_seed() -> None:
    centers = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]])
    codes = (centers.repeat_interleave(torch.tensor([5, 7, 3]), 0) + normal(15, 3).flatten(1))[..., None, None]
    first = make_bank(codes, 3, seed=1)
    assert first.sizes == [7, 5, 3]
    assert first.labels.tolist() == [1] * 5 + [0] * 7 + [2] * 3
    torch.testing.assert_close(make_bank(codes.flip(0), 3, seed=2).codes, first.codes)
    again = make_bank(codes, 3, seed=1)
    assert torch.equal(again.codes, first.codes)
    assert again.medoids == first.medoids


@pytest.mark.parametrize("count", [1, 4])
def test_the_smallest_and_the_largest_bank(count: int) -> None:
    codes = normal(4, 5)
    found = make_bank(codes, count)
    expected = codes.mean(0, keepdim=True) if count == 1 else codes[found.medoids]
    torch.testing.assert_close(found.codes, expected)


def test_a_bank_needs_enough_different_styles() -> None:
    codes = normal(3, 2).repeat(4, 1, 1, 1)
    with pytest.raises(DataError, match="a bank of 4 styles needs at least as many different ones, got 3"):
        make_bank(codes, 4)
    assert make_bank(codes, 3).sizes == [4, 4, 4]


def test_neighbors_are_sorted_and_the_first_of_equal_ones_wins() -> None:
    codes = torch.tensor([[3.0, 4], [0, 1], [0, -1], [0, 0]])[..., None, None]
    found = nearest(codes, torch.zeros(1, 2, 1, 1), 3)
    assert [(each.index, each.distance) for each in found] == [(3, 0), (1, 1), (2, 1)]
    assert len(nearest(codes, codes[:1], 99)) == 4


@pytest.mark.parametrize(("count", "dims"), [(40, 5), (3, 8), (2, 4)])
def test_directions_are_eigenvectors_of_the_covariance(count: int, dims: int) -> None:
    codes = normal(count, dims) * torch.arange(1, dims + 1).view(-1, 1, 1) + 7
    found = principal_directions(codes)
    values = codes.flatten(1).double().numpy()
    variances, axes = np.linalg.eigh(np.cov(values.T))
    kept = min(dims, count - 1)
    variances, axes = variances[::-1][:kept], axes[:, ::-1].T[:kept]
    axes = axes * np.sign(axes[np.arange(kept), np.abs(axes).argmax(1)])[:, None]
    np.testing.assert_allclose(found.vectors.flatten(1), axes, atol=1e-9)
    np.testing.assert_allclose(np.square(found.deviations), variances, rtol=1e-9)
    np.testing.assert_allclose(found.shares, variances / np.trace(np.cov(values.T)), rtol=1e-9)
    steps = found.steps(0, 5, 2.0)
    np.testing.assert_allclose(steps[2].flatten(), values.mean(0), rtol=1e-5)
    np.testing.assert_allclose((steps[4] - steps[0]).flatten(), 4 * found.deviations[0] * axes[0], rtol=1e-4, atol=1e-5)


def test_directions_need_styles_that_differ() -> None:
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        principal_directions(normal(1, 3))
    with pytest.raises(DataError, match="those of all images are equal"):
        principal_directions(normal(1, 3).repeat(5, 1, 1, 1))
    assert len(principal_directions(normal(9, 3), 2).shares) == 2


@pytest.mark.parametrize("count", [2, 5, 200])
def test_a_fitted_normal_has_the_mean_and_the_covariance_of_the_codes(count: int) -> None:
    mixing = torch.tensor([[1.0, 0.5, 0], [0, 0.2, 0], [0.3, 0, 2]])
    codes = (normal(count, 3).flatten(1) @ mixing + torch.tensor([1.0, -2, 0]))[..., None, None]
    fitted = FittedNormal(codes)
    np.testing.assert_allclose(fitted.covariance, np.cov(codes.flatten(1).double().numpy().T), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fitted.factor @ fitted.factor.T, fitted.covariance, atol=1e-6)
    samples = fitted.sample(50_000, torch.Generator().manual_seed(0))
    assert (samples.shape, samples.dtype) == ((50_000, 3, 1, 1), torch.float32)
    np.testing.assert_allclose(samples.flatten(1).mean(0), fitted.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(samples.flatten(1).numpy().T), fitted.covariance, atol=0.15)
    with pytest.raises(ValueError, match="at least 2 style codes"):
        FittedNormal(codes[:1])


def test_given_styles_are_drawn_without_repetition_first() -> None:
    given = GivenStyles(torch.arange(5.0).view(5, 1, 1, 1))
    drawn = given.sample(12, torch.Generator().manual_seed(0)).flatten().tolist()
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 2, 3, 4]
    assert len(set(drawn[10:])) == 2
    assert drawn == given.sample(12, torch.Generator().manual_seed(0)).flatten().tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes * torch.nan, "expected finite .*, got infinite or NaN values"),
        (lambda codes: codes.flatten(1), r"\(S, .*, 1, 1\), got \(\d+, 2\)"),
        (lambda codes: codes[:0], r"\(S, .*, 1, 1\), got \(0, 2, 1, 1\)"),
        (lambda codes: codes.expand(-1, -1, 2, 1), r"got \(\d+, 2, 2, 1\)"),
        (lambda codes: codes.to(torch.complex64), "got torch.complex64"),
        (lambda codes: codes.numpy(), "as a tensor, got ndarray"),
    ],
)
def test_codes_that_cannot_be_used(change: Callable[[Tensor], Tensor], message: str) -> None:
    codes, one = normal(30, 2), normal(1, 2)
    for use in (
        FittedNormal,
        GivenStyles,
        check_distribution,
        principal_directions,
        lambda given: make_bank(given, 1),
        lambda given: nearest(given, one),
        lambda given: nearest(codes, given[:1]),
        lambda given: interpolate(given[:1], one, 3),
        lambda given: interpolate(one, given[:1], 3, "spherical"),
        lambda given: write_styles("/proc/none", given),
    ):
        with pytest.raises(DataError, match=message):
            use(change(codes))


def test_codes_of_another_length_or_number() -> None:
    codes = normal(3, 8)
    for wrong in (codes[:, :1], codes[:2]):
        with pytest.raises(DataError, match="expected the code to search for"):
            nearest(codes, wrong)
        with pytest.raises(DataError, match="expected the second style"):
            interpolate(codes[:1], wrong, 3)


def test_numbers_out_of_range() -> None:
    codes = normal(3, 2)
    for call, message in (
        (lambda: nearest(codes, codes[:1], -1), "expected count as an integer of at least 1, got -1"),
        (lambda: make_bank(codes, 2.5), "at least 1, got 2.5"),  # type: ignore[arg-type]
        (lambda: make_bank(codes, 0), "at least 1, got 0"),
        (lambda: make_bank(codes, 1, seed=-1), "seed as an integer of at least 0 and at most 4,294,967,295, got -1"),
        (lambda: principal_directions(codes, -3), "at least 1, got -3"),
        (lambda: interpolate(codes[:1], codes[1:2], -1), "at least 2, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
