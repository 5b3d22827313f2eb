"""Distributions that style codes are drawn from instead of N(0, I)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fastmunit.systems.code_checks import require_codes


class StyleDistribution(Protocol):
    """A distribution of style codes."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw style codes (count, style_dim, 1, 1) with a CPU generator."""
        ...


class FittedNormal:
    """The normal distribution N(mean, covariance) of encoded styles.

    A sample is mean + factor · z with z from N(0, I), where factor · factorᵀ is the covariance. z has the values that
    `Translator.random_styles` draws from N(0, I) with the same generator.

    Args:
        codes: Style codes (S, style_dim, 1, 1). The covariance has the divisor S - 1, and a rank of S - 1 at most.

    Attributes:
        mean: (style_dim,), float64.
        covariance: (style_dim, style_dim), float64.
        factor: The symmetric square root of the covariance, (style_dim, style_dim), float64.

    Raises:
        ValueError: If there are fewer than two codes, or they have a wrong shape or NaN or infinite values.
    """

    def __init__(self, codes: Tensor) -> None:
        require_codes(codes)
        if len(codes) < 2:
            raise ValueError(f"expected at least 2 style codes to fit a normal distribution to, got {len(codes)}")
        values = codes.detach().flatten(1).double().cpu()
        self.mean = values.mean(0)
        centered = values - self.mean
        self.covariance = centered.T @ centered / (len(values) - 1)
        variances, axes = torch.linalg.eigh(self.covariance)
        self.factor = (axes * variances.clamp_min(0).sqrt()) @ axes.T

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw style codes (count, style_dim, 1, 1), float32."""
        draws = torch.randn(count, len(self.mean), 1, 1, generator=generator).flatten(1).double()
        return (self.mean + draws @ self.factor).float()[..., None, None]


class GivenStyles:
    """A set of style codes, drawn without replacement until all have been used.

    Args:
        codes: Style codes (S, style_dim, 1, 1).

    Raises:
        ValueError: If there are no codes, or they have a wrong shape or NaN or infinite values.
    """

    def __init__(self, codes: Tensor) -> None:
        require_codes(codes)
        self.codes = codes.detach().cpu()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw style codes (count, style_dim, 1, 1). Each is used once before any is used again."""
        rounds = -(-count // len(self.codes))
        order = torch.cat([torch.randperm(len(self.codes), generator=generator) for _ in range(rounds)])
        return self.codes[order[:count]]
