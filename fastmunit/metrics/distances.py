"""Distances between a set of outputs and a set of real images, on feature vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.intervals import FEWEST, Estimate, counts_of_resample, resampled_estimate, spread_estimate

_FRECHET_RESAMPLES = 40


class _Given(nn.Module):
    """Hands on features that are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet_distance(real: Tensor, outputs: Tensor) -> float:
    """‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½) of features (N, d) and (M, d), in float64, by torchmetrics.

    Biased upward by small N and M: compare values of equal counts only, and of one feature network. FID is this with
    Inception-v3. Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NIPS 2017, equation 6.

    Raises:
        DataError: fewer than two vectors in a set, other dimensions, or NaN.
        FastmunitError: torchmetrics is not installed.
    """
    x, y = _checked(real, outputs, "the Fréchet distance")
    metric = _torchmetrics_frechet(x.shape[1])
    metric.update(x, real=True)
    metric.update(y, real=False)
    return max(0.0, float(metric.compute()))


def frechet_estimate(
    real: Tensor, outputs: Tensor, seed: int = 0, each: Callable[..., Iterable[float]] = map
) -> Estimate:
    """`frechet_distance` with an interval.

    Args:
        real: (N, d).
        outputs: (I, S, d): S outputs for each of I inputs; inputs are resampled with all their outputs.
        seed: of the resampling.
        each: computes a function of each item of a list; `distributed.each` divides the resamples by the processes.
    """
    count = min(len(real), len(outputs))
    generator = torch.Generator().manual_seed(seed)
    draws = [
        tuple(torch.randint(n, (n,), generator=generator) for n in (len(real), len(outputs)))
        for _ in range(_FRECHET_RESAMPLES if count >= FEWEST else 0)
    ]

    def distance(drawn: Sequence[Tensor]) -> float:
        x, y = (vectors[indices] for vectors, indices in zip((real, outputs), drawn, strict=True))
        return frechet_distance(x, y.flatten(0, 1))

    whole = tuple(torch.arange(len(vectors)) for vectors in (real, outputs))
    value, *resampled = each(distance, [whole, *draws])
    return spread_estimate(value, count, resampled)


def kernel_distance(real: Tensor, outputs: Tensor) -> float:
    """Unbiased MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j), in float64.

    k(x, y) = (x·y / d + 1)³. KID is this with Inception-v3. It can be a little below 0 where the sets are alike.
    torchmetrics and torch-fidelity average it over random subsets of equal size; this is the same on all vectors, which
    needs no equal numbers and no random choice (with one subset of all vectors they are equal).
    Source: Bińkowski et al., Demystifying MMD GANs, ICLR 2018, section 4.

    Args:
        real: (N, d).
        outputs: (M, d).

    Raises:
        DataError: fewer than two vectors in a set, other dimensions, or NaN.
    """
    x, y = _checked(real, outputs, "the kernel distance")
    kernels = (_kernel(x, x), _kernel(y, y), _kernel(x, y))
    return _mmd(*kernels, torch.ones(len(x), dtype=x.dtype), torch.ones(len(y), dtype=x.dtype))


def kernel_estimate(real: Tensor, outputs: Tensor, seed: int = 0) -> Estimate:
    """`kernel_distance` with an interval; arguments as `frechet_estimate`.

    A vector that a resample holds several times makes no pair with itself, so that the resampled values are unbiased.
    """
    x, y = _checked(real, outputs.flatten(0, 1), "the kernel distance")
    kernels = (_kernel(x, x), _kernel(y, y), _kernel(x, y))
    samples = outputs.shape[1]

    def resampled(generator: torch.Generator) -> float:
        real_counts = counts_of_resample(len(x), generator)
        output_counts = counts_of_resample(len(outputs), generator).repeat_interleave(samples)
        return _mmd(*kernels, real_counts, output_counts)

    value = _mmd(*kernels, torch.ones(len(x), dtype=x.dtype), torch.ones(len(y), dtype=x.dtype))
    return resampled_estimate(value, min(len(real), len(outputs)), resampled, resamples=200, seed=seed)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mmd(k_xx: Tensor, k_yy: Tensor, k_xy: Tensor, counts_x: Tensor, counts_y: Tensor) -> float:
    """Weighted by how often each vector counts; no vector is paired with itself."""

    def within(k: Tensor, counts: Tensor) -> Tensor:
        pairs = counts.sum() ** 2 - counts.square().sum()
        return (counts @ k @ counts - (counts.square() * k.diagonal()).sum()) / pairs

    across = (counts_x @ k_xy @ counts_y) / (counts_x.sum() * counts_y.sum())
    return float(within(k_xx, counts_x) + within(k_yy, counts_y) - 2 * across)


def _checked(real: Tensor, outputs: Tensor, measure: str) -> tuple[Tensor, Tensor]:
    for name, vectors in (("real", real), ("output", outputs)):
        if vectors.ndim != 2 or len(vectors) < 2:
            raise DataError(
                f"{measure} needs at least 2 {name} images, got features of shape {tuple(vectors.shape)}: add images."
            )
        if not bool(torch.isfinite(vectors).all()):
            raise DataError(f"{measure} got {name} features with NaN: the network that made the images has diverged.")
    if real.shape[1] != outputs.shape[1]:
        raise DataError(
            f"{measure} got features of {real.shape[1]} and {outputs.shape[1]} dimensions: use one feature network."
        )
    return real.double(), outputs.double()


def _torchmetrics_frechet(num_features: int) -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise FastmunitError(
            'Fréchet distances need torchmetrics, which is not installed: pip install "fastmunit[eval]".'
        ) from error
    # By default it would add up the vectors of all processes.
    return FrechetInceptionDistance(feature=_Given(num_features), normalize=True, sync_on_compute=False)
