"""Inception score (IS) and conditional inception score (CIS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.metrics.confidence import Estimate, bootstrap, mean_estimate, spread_estimate


@dataclass(frozen=True)
class InceptionScore:
    """An inception score.

    Attributes:
        kl: Mean KL divergence, as in table 2 of the MUNIT paper, which has values below 1.
        exponential: exp(kl.value), which the public test script prints and which defines the original inception score.
        per_input: For CIS, the divergence of each input; empty for IS.
    """

    kl: Estimate
    exponential: float
    per_input: tuple[float, ...] = ()


def mean_divergence(probabilities: Tensor) -> float:
    """Return the mean over n of KL(p(·|x_n) ‖ mean_m p(·|x_m)) = Σ_k p log(p / mean p), in nats.

    It is 0 if all rows are equal, and log k if every row is certain and k classes occur equally often. torchmetrics'
    InceptionScore offers only its exponential over random splits, and no conditional score.

    Args:
        probabilities: Class probabilities (N, K).
    """
    p = probabilities.double()
    marginal = p.mean(dim=0, keepdim=True)
    divergences = (torch.special.xlogy(p, p) - torch.special.xlogy(p, marginal)).sum(dim=1)
    return max(0.0, float(divergences.mean()))


def inception_score(probabilities: Tensor, seed: int = 0) -> InceptionScore:
    """Return IS: the mean over all outputs of KL(p(y|x) ‖ p(y)), where p(y) is the mean over all outputs.

    The interval resamples inputs with all their outputs. Source: MUNIT paper, section 5.2; Salimans et al., Improved
    Techniques for Training GANs, 2016.

    Args:
        probabilities: Class probabilities (I, S, K) of S outputs for each of I inputs; rows sum to 1.
        seed: Seed of the resampling.

    Raises:
        DataError: If the shape is wrong, or a row is not a probability distribution.
    """
    p = _checked(probabilities, "IS")
    value = mean_divergence(p.flatten(0, 1))

    def resampled(generator: torch.Generator) -> float:
        return mean_divergence(p[torch.randint(len(p), (len(p),), generator=generator)].flatten(0, 1))

    return InceptionScore(spread_estimate(value, len(p), bootstrap(resampled, seed)), math.exp(value))


def conditional_inception_score(probabilities: Tensor, seed: int = 0) -> InceptionScore:
    """Return CIS: the mean over inputs and outputs of KL(p(y|x) ‖ p(y|input)).

    p(y|input) is the mean over the outputs of one input. Source: MUNIT paper, section 5.2. Arguments and errors: see
    `inception_score`; S must be at least 2.
    """
    p = _checked(probabilities, "CIS")
    if p.shape[1] < 2:
        raise DataError("CIS: expected at least 2 outputs per input, got 1: it would always be 0.")
    per_input = tuple(mean_divergence(outputs) for outputs in p)
    estimate = mean_estimate(per_input, seed=seed)
    return InceptionScore(estimate, math.exp(estimate.value), per_input)


def _checked(probabilities: Tensor, measure: str) -> Tensor:
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise DataError(
            f"{measure}: expected probabilities (inputs, outputs, classes), got {tuple(probabilities.shape)}."
        )
    if probabilities.shape[2] < 2:
        raise DataError(f"{measure}: expected a classifier of at least 2 classes, got {probabilities.shape[2]}.")
    p = probabilities.double()
    sums = p.sum(dim=2)
    if not bool((p >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)):
        raise DataError(f"{measure}: expected probabilities, which are at least 0 and sum to 1 over the classes.")
    return p / sums[..., None]
