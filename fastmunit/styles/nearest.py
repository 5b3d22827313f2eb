"""The style codes that are nearest to another."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Neighbor:
    """A style code: its index, and its Euclidean distance from the one that was searched for."""

    index: int
    distance: float


def nearest(codes: Tensor, code: Tensor, count: int = 5) -> list[Neighbor]:
    """Return the nearest of some style codes, the nearest first. Of equally distant ones, the first is the nearest.

    Args:
        codes: Style codes (S, style_dim, 1, 1).
        code: Style code (1, style_dim, 1, 1).
        count: Number of codes to return; all of them if there are fewer.
    """
    distances = (codes.detach().cpu().double() - code.detach().cpu().double()).flatten(1).norm(dim=1)
    values, indices = distances.sort(stable=True)
    return [Neighbor(int(index), float(value)) for value, index in zip(values[:count], indices[:count], strict=True)]
