"""Statistics of a map that is seen one tile at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastmunit import functional

# Differences that rounding leaves between the sums of a convolution, in units of the type's epsilon.
_ROUNDING = 16

NormKind = Literal["instance", "layer"]


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared differences from the mean of each channel, in float64 on the CPU.

    Attributes:
        count: Number of pixels.
        mean: Mean of each channel, (C,).
        squares: Sum of (x - mean)² of each channel, (C,).
    """

    count: int
    mean: Tensor
    squares: Tensor

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both parts together.

        Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
        """
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        squares = self.squares + other.squares + delta.square() * (self.count * other.count / count)
        return Moments(count, mean, squares)

    def is_constant(self, dtype: torch.dtype) -> bool:
        """Return True if all channels are constant up to the rounding of a type, which low precision never is."""
        if dtype.itemsize < 4:
            return False
        noise = _ROUNDING * torch.finfo(dtype).eps * self.mean.abs().max()
        return bool((self.squares <= self.count * noise.square()).all())

    def normalization(self, kind: NormKind, eps: float) -> tuple[Tensor, Tensor]:
        """Return (mean, rstd) in float64, (1, C) each, or (1,) for "layer".

        Args:
            kind: "instance" uses the biased variance of each channel: rstd = 1 / sqrt(var + eps). "layer" uses the
                unbiased standard deviation of all channels together: rstd = 1 / (std + eps).
            eps: Number that is added to the variance or standard deviation.
        """
        if kind == "instance":
            return self.mean[None], torch.rsqrt(self.squares / self.count + eps)[None]
        mean = self.mean.mean()
        squares = self.squares.sum() + self.count * (self.mean - mean).square().sum()
        rstd = 1 / ((squares / (self.count * len(self.mean) - 1)).sqrt() + eps)
        return mean[None], rstd[None]


def no_moments(channels: int) -> Moments:
    """Return the moments of no pixels."""
    return Moments(0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))


def moments_of(tile: Tensor) -> Moments:
    """Return the moments of a tile (1, C, h, w)."""
    count = tile.shape[2] * tile.shape[3]
    mean, rstd = (value[0].double().cpu() for value in functional.instance_norm_stats(tile, eps=0.0))
    return Moments(count, mean, rstd.pow(-2) * count)
