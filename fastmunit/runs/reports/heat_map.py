"""Heat maps: values per pixel as colors over a pale gray picture."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmunit.runs.reports.image_grid import to_rgb

POSITIVE, NEGATIVE = ("#f6c445", "#c4161c"), ("#7fc4e8", "#1f4fbf")
"""Colors of small and of large values. The page draws its legend with them."""

_PALE = 0.55


def heat_map(image: Tensor, values: Tensor, limit: float) -> Tensor:
    """Draw values per pixel as colors over an image. Zero shows the image, in pale gray.

    Args:
        image: Image (C, H, W) in [-1, 1].
        values: Values (H, W). Positive ones are yellow to red, negative ones light to dark blue.
        limit: Absolute value of full color. Larger ones have the same color.

    Returns:
        A uint8 picture (3, H, W).
    """
    gray = to_rgb(image).float().mean(dim=0) / 255
    base = (1 - _PALE + _PALE * gray).expand(3, -1, -1)
    strength = (values.float() / (limit or 1.0)).clamp(-1, 1)
    picture = base
    for part, colors in ((strength.clamp_min(0), POSITIVE), (-strength.clamp_max(0), NEGATIVE)):
        small, large = (_rgb(color).view(3, 1, 1) for color in colors)
        color = torch.lerp(small, large, part)
        picture = torch.lerp(picture, color, (2 * part).clamp_max(1).square())  # small values do not tint the picture
    return (picture * 255).round().to(torch.uint8)


def _rgb(color: str) -> Tensor:
    return torch.tensor([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
