"""IS and CIS: do the outputs fall into many classes, and do the outputs of one input?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.metrics.intervals import Estimate, mean_estimate, resampled_estimate


@dataclass(frozen=True)
class Score:
    """An inception score.

    Attributes:
        kl: the mean divergence, as in the MUNIT paper's table 2 (values below 1 occur there).
        exponential: exp(kl.value), as the public test script prints it, and as the original inception score is defined.
        per_input: CIS: the divergence of each input; empty for IS.
    """

    kl: Estimate
    exponential: float
    per_input: tuple[float, ...] = ()


def mean_divergence(probabilities: Tensor) -> float:
    """Mean over n of KL(p(·|x_n) ‖ mean_m p(·|x_m)) = Σ_k p log(p / mean p), in nats, for (N, K) probabilities.

    0 when all rows are equal, log k when k classes occur equally often, each row certain. torchmetrics'
    InceptionScore has the exponential of it alone, over random splits, and nothing conditional.
    """
    p = probabilities.double()
    marginal = p.mean(dim=0, keepdim=True)
    divergences = (torch.special.xlogy(p, p) - torch.special.xlogy(p, marginal)).sum(dim=1)
    return max(0.0, float(divergences.mean()))


def inception_score(probabilities: Tensor, seed: int = 0) -> Score:
    """IS = E over all outputs of KL(p(y|x) ‖ p(y)), p(y) the mean over all outputs of all inputs.

    Source: MUNIT paper, section 5.2; Salimans et al., Improved Techniques for Training GANs, 2016. The interval
    resamples inputs with all their outputs.

    Args:
        probabilities: (I, S, K): classes of S outputs for each of I inputs, rows that sum to 1.
        seed: of the interval's resampling.

    Raises:
        DataError: another shape, or rows that are no probabilities.
    """
    p = _checked(probabilities, "IS")
    value = mean_divergence(p.flatten(0, 1))

    def resampled(generator: torch.Generator) -> float:
        return mean_divergence(p[torch.randint(len(p), (len(p),), generator=generator)].flatten(0, 1))

    return Score(resampled_estimate(value, len(p), resampled, seed=seed), math.exp(value))


def conditional_inception_score(probabilities: Tensor, seed: int = 0) -> Score:
    """CIS = E over inputs of E over its outputs of KL(p(y|x) ‖ p(y|input)), p(y|input) the mean over its outputs.

    Source: MUNIT paper, section 5.2. Arguments and errors: see `inception_score`; S must be at least 2.
    """
    p = _checked(probabilities, "CIS")
    if p.shape[1] < 2:
        raise DataError("CIS needs at least 2 outputs of each input: with one it is always 0.")
    per_input = tuple(mean_divergence(outputs) for outputs in p)
    estimate = mean_estimate(per_input, seed=seed)
    return Score(estimate, math.exp(estimate.value), per_input)


def _checked(probabilities: Tensor, measure: str) -> Tensor:
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise DataError(f"{measure} takes probabilities (inputs, outputs, classes), got {tuple(probabilities.shape)}.")
    if probabilities.shape[2] < 2:
        raise DataError(f"{measure} needs a classifier of at least 2 classes, got {probabilities.shape[2]}.")
    p = probabilities.double()
    sums = p.sum(dim=2)
    if not bool((p >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)):
        raise DataError(f"{measure} takes probabilities: values of at least 0 that sum to 1 over the classes.")
    return p / sums[..., None]
