"""Interpolation between two style codes: linear, or spherical."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fastmunit.systems.code_checks import require_code, require_integer

Interpolation = Literal["linear", "spherical"]
METHODS: tuple[str, ...] = get_args(Interpolation)

_MIN_ANGLE = 1e-4
"""In radians. Below it, a straight line is as exact as the arc; this close to π, the arc depends on rounding."""


def interpolate(first: Tensor, second: Tensor, count: int, method: Interpolation = "linear") -> Tensor:
    """Interpolate between two style codes.

    Linear: (1 - t) a + t b. Samples of N(0, I) in many dimensions have norms near √d, and a straight line between two
    passes closer to the origin. Spherical: sin((1 - t) Ω) / sin Ω · a + sin(t Ω) / sin Ω · b, where Ω is the angle
    between a and b; for codes of equal norms all results have that norm. Sources: Shoemake, Animating Rotation with
    Quaternion Curves, SIGGRAPH 1985; White, Sampling Generative Networks, arXiv:1609.04468, section 2.

    Args:
        first: Style code (1, style_dim, 1, 1).
        second: Style code of the same shape.
        count: Number of codes, both ends included.
        method: "linear" or "spherical".

    Returns:
        Style codes (count, style_dim, 1, 1), for t from 0 to 1 in equal steps.

    Raises:
        ValueError: If a code has a wrong shape, the count is below 2, the method is unknown, a code of a spherical
            interpolation is zero, or the two are opposite, so that no shortest arc exists.

    Example:
        >>> a, b = torch.zeros(1, 8, 1, 1), torch.ones(1, 8, 1, 1)
        >>> fastmunit.styles.interpolate(a, b, 3)[:, 0].flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    if method not in METHODS:
        raise ValueError(f"expected interpolation linear or spherical, got {method}")
    require_code(first, "the first style")
    require_code(second, "the second style", first.shape[1])
    require_integer("count", count, 2)
    weights = torch.linspace(0, 1, count, dtype=first.dtype, device=first.device).view(-1, 1, 1, 1)
    if method == "linear":
        return torch.lerp(first, second, weights)
    a, b, t = first.double(), second.double(), weights.double()
    if not bool(a.any() and b.any()):
        raise ValueError("a style of zeros has no direction, which a spherical interpolation needs: use linear")
    # The angle from the chord of unit vectors, which is exact for small ones, unlike the arc cosine.
    unit_a, unit_b = a / a.norm(), b / b.norm()
    angle = 2 * torch.atan2((unit_a - unit_b).norm(), (unit_a + unit_b).norm())
    if float(angle) < _MIN_ANGLE:
        return torch.lerp(first, second, weights)
    if float(angle) > torch.pi - _MIN_ANGLE:
        raise ValueError("the two styles are opposite, so there is no shortest arc between them: use linear")
    results = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return results.to(first.dtype)
