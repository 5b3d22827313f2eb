"""Distances between a set of outputs and a set of real images, from feature vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.confidence import MIN_COUNT, Estimate, bootstrap, counts_of_resample, spread_estimate

_FRECHET_RESAMPLES = 40


class _Identity(nn.Module):
    """The identity, for torchmetrics: the features are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet_distance(real: Tensor, outputs: Tensor) -> float:
    """Return the Fréchet distance ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½) of two sets of features.

    torchmetrics computes it, in float64. Few vectors bias it upward, so compare only values with equal counts and the
    same feature network. FID is this distance in Inception-v3 features. Source: Heusel et al., GANs Trained by a Two
    Time-Scale Update Rule, NIPS 2017, equation 6.

    Args:
        real: Features (N, d) of real images.
        outputs: Features (M, d) of outputs.

    Raises:
        DataError: If a set has fewer than two vectors, the dimensions differ, or a value is NaN.
        FastmunitError: If torchmetrics is not installed.
    """
    x, y = _checked(real, outputs, "the Fréchet distance")
    metric = _torchmetrics_frechet(x.shape[1])
    metric.update(x, real=True)
    metric.update(y, real=False)
    return max(0.0, float(metric.compute()))


def frechet_estimate(
    real: Tensor, outputs: Tensor, seed: int = 0, each: Callable[..., Iterable[float]] = map
) -> Estimate:
    """Return `frechet_distance` with an interval.

    Args:
        real: Features (N, d) of real images.
        outputs: Features (I, S, d) of S outputs for each of I inputs. Inputs are resampled with all their outputs.
        seed: Seed of the resampling.
        each: Applies a function to each item of a list. `distributed.each` divides the resamples among processes.
    """
    count = min(len(real), len(outputs))
    generator = torch.Generator().manual_seed(seed)
    draws = [
        tuple(torch.randint(n, (n,), generator=generator) for n in (len(real), len(outputs)))
        for _ in range(_FRECHET_RESAMPLES if count >= MIN_COUNT else 0)
    ]

    def distance(drawn: Sequence[Tensor]) -> float:
        x, y = (vectors[indices] for vectors, indices in zip((real, outputs), drawn, strict=True))
        return frechet_distance(x, y.flatten(0, 1))

    whole = tuple(torch.arange(len(vectors)) for vectors in (real, outputs))
    value, *resampled = each(distance, [whole, *draws])
    return spread_estimate(value, count, resampled)


def kernel_distance(real: Tensor, outputs: Tensor) -> float:
    """Return the unbiased MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j).

    k(x, y) = (x·y / d + 1)³, in float64. KID is this distance in Inception-v3 features. It can be slightly negative
    for similar sets. torchmetrics and torch-fidelity average it over random subsets of equal size. This function uses
    all vectors at once: the sets may differ in size and nothing is random. The results are equal for a single subset
    of all vectors. Source: Bińkowski et al., Demystifying MMD GANs, ICLR 2018, section 4.

    Args:
        real: Features (N, d) of real images.
        outputs: Features (M, d) of outputs.

    Raises:
        DataError: If a set has fewer than two vectors, the dimensions differ, or a value is NaN.

    Example:
        >>> from fastmunit.metrics.distances import kernel_distance
        >>> kernel_distance(torch.zeros(2, 4), torch.zeros(3, 4))
        0.0
    """
    x, y = _checked(real, outputs, "the kernel distance")
    kernels = (_kernel(x, x), _kernel(y, y), _kernel(x, y))
    return _mmd(*kernels, torch.ones(len(x), dtype=x.dtype), torch.ones(len(y), dtype=x.dtype))


def kernel_estimate(real: Tensor, outputs: Tensor, seed: int = 0) -> Estimate:
    """Return `kernel_distance` with an interval. Arguments: see `frechet_estimate`.

    A vector that a resample contains several times forms no pair with itself, so the resampled values are unbiased.
    """
    x, y = _checked(real, outputs.flatten(0, 1), "the kernel distance")
    kernels = (_kernel(x, x), _kernel(y, y), _kernel(x, y))
    samples = outputs.shape[1]

    def resampled(generator: torch.Generator) -> float:
        real_counts = counts_of_resample(len(x), generator)
        output_counts = counts_of_resample(len(outputs), generator).repeat_interleave(samples)
        return _mmd(*kernels, real_counts, output_counts)

    value = _mmd(*kernels, torch.ones(len(x), dtype=x.dtype), torch.ones(len(y), dtype=x.dtype))
    return spread_estimate(value, min(len(real), len(outputs)), bootstrap(resampled, seed, resamples=200))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mmd(k_xx: Tensor, k_yy: Tensor, k_xy: Tensor, counts_x: Tensor, counts_y: Tensor) -> float:
    """Return MMD², weighted by the count of each vector. No vector is paired with itself."""

    def within(k: Tensor, counts: Tensor) -> Tensor:
        pairs = counts.sum() ** 2 - counts.square().sum()
        return (counts @ k @ counts - (counts.square() * k.diagonal()).sum()) / pairs

    across = (counts_x @ k_xy @ counts_y) / (counts_x.sum() * counts_y.sum())
    return float(within(k_xx, counts_x) + within(k_yy, counts_y) - 2 * across)


def _checked(real: Tensor, outputs: Tensor, measure: str) -> tuple[Tensor, Tensor]:
    for name, vectors in (("real", real), ("output", outputs)):
        if vectors.ndim != 2 or len(vectors) < 2:
            raise DataError(
                f"{measure}: expected at least 2 {name} images, got features {tuple(vectors.shape)}: add images."
            )
        if not bool(torch.isfinite(vectors).all()):
            raise DataError(f"{measure} got {name} features with NaN: the network that made the images has diverged.")
    if real.shape[1] != outputs.shape[1]:
        raise DataError(
            f"{measure}: expected features of one network, got {real.shape[1]} and {outputs.shape[1]} dimensions."
        )
    return real.double(), outputs.double()


def _torchmetrics_frechet(num_features: int) -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise FastmunitError(
            'Fréchet distances need torchmetrics, which is not installed: pip install "fastmunit[eval]".'
        ) from error
    # By default, torchmetrics would add up the vectors of all processes.
    return FrechetInceptionDistance(feature=_Identity(num_features), normalize=True, sync_on_compute=False)
