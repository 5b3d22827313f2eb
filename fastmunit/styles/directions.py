"""Directions of the space of styles, by principal component analysis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.systems.code_checks import require_codes, require_integer

_MIN_DEVIATION = 1e-6
"""Directions whose deviation is smaller than this part of the largest are rounding errors."""


@dataclass(frozen=True)
class Directions:
    """Principal components of style codes, in the order of their variances.

    Attributes:
        mean: Mean code (1, style_dim, 1, 1), float64.
        vectors: Unit vectors (K, style_dim, 1, 1), float64, whose largest coordinate by magnitude is positive.
        deviations: Standard deviation of the codes along each, with the divisor S - 1.
        shares: Part of the total variance of each.
    """

    mean: Tensor
    vectors: Tensor
    deviations: list[float]
    shares: list[float]

    def steps(self, index: int, count: int, reach: float = 3.0) -> Tensor:
        """Return codes (count, style_dim, 1, 1) along a direction, float32.

        They are evenly spaced around the mean, from -reach to +reach standard deviations.
        """
        offsets = self.deviations[index] * torch.linspace(-reach, reach, count, dtype=torch.float64)
        return (self.mean + offsets.view(-1, 1, 1, 1) * self.vectors[index]).float()


def principal_directions(codes: Tensor, count: int | None = None) -> Directions:
    """Return the principal components of style codes.

    Source: Härkönen et al., GANSpace: Discovering Interpretable GAN Controls, NeurIPS 2020, which finds directions of
    latent codes in the same way.

    Args:
        codes: Style codes (S, style_dim, 1, 1).
        count: Number of components. None is all along which the codes vary, which are S - 1 at most.

    Raises:
        DataError: If there are fewer than two codes, they are all equal, or they have a wrong shape or NaN or infinite
            values.
        ConfigError: If the count is not an integer of at least 1.
    """
    require_codes(codes)
    if count is not None:
        require_integer("count", count, 1)
    values = codes.detach().flatten(1).double().cpu()
    if len(values) < 2:
        raise DataError(f"directions need the styles of at least 2 images, got {len(values)}: add images.")
    mean = values.mean(0)
    _, scales, vectors = torch.linalg.svd(values - mean, full_matrices=False)
    if float(scales[0]) <= _MIN_DEVIATION * float(values.abs().max()):
        raise DataError("directions need different styles, but those of all images are equal: add images.")
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()
    varied = int((scales > _MIN_DEVIATION * scales[0]).sum())
    kept = varied if count is None else min(count, varied)
    return Directions(
        mean[None, :, None, None],
        vectors[:kept, :, None, None],
        (scales[:kept] / (len(values) - 1) ** 0.5).tolist(),
        (scales.square() / scales.square().sum())[:kept].tolist(),
    )
