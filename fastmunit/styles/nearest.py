"""The style codes that are nearest to another."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastmunit.systems.code_checks import require_code, require_codes, require_integer


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

    Raises:
        DataError: If the codes have a wrong shape or NaN or infinite values.
        ConfigError: If the count is not an integer of at least 1.
    """
    require_codes(codes)
    require_code(code, "the code to search for", codes.shape[1])
    require_integer("count", count, 1)
    distances = (codes.detach().cpu().double() - code.detach().cpu().double()).flatten(1).norm(dim=1)
    values, indices = distances.sort(stable=True)
    return [Neighbor(int(index), float(value)) for value, index in zip(values[:count], indices[:count], strict=True)]
