"""Pictures of an evaluation: which outputs to show, and the real images beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.metrics.features import FeatureNet, features_of
from fastmunit.metrics.results import Sheet

_NEIGHBOURS = 3
_THUMBNAIL = 16


def most(values: Sequence[float], count: int) -> list[int]:
    """Places of the `count` largest values, the largest first."""
    return sorted(range(len(values)), key=lambda place: -values[place])[:count]


def neighbour_sheet(
    outputs: Sequence[Tensor], real: Sequence[Tensor], kind: str, network: FeatureNet | None, device: torch.device
) -> Sheet:
    """Outputs, and below each the real images nearest to it: images learned by heart would show.

    Args:
        outputs: (3, H, W) in [-1, 1].
        real: images to look among, of any sizes.
        kind: what they are, for the caption.
        network: its features measure the distance; None compares images of 16x16 pixels.
        device: where the network is.
    """

    def described(images: Sequence[Tensor]) -> Tensor:
        if network is None:
            return torch.stack([F.adaptive_avg_pool2d(image, _THUMBNAIL).flatten() for image in images])
        return torch.cat([features_of(network, image[None].to(device)) for image in images])

    space = f"{_THUMBNAIL}x{_THUMBNAIL} pixels" if network is None else f"{network.name} features"
    distances = torch.cdist(described(outputs), described(real))
    nearest = distances.topk(min(_NEIGHBOURS, len(real)), largest=False).indices.tolist()
    columns = [[output, *(real[k] for k in found)] for output, found in zip(outputs, nearest, strict=True)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Sheet(f"Outputs (first row), and below each the nearest {kind} in {space}", rows)
