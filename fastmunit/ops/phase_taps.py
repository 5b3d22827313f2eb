"""Taps of the kernels that convolve an upsampled map without upsampling it: sums of the taps of the given kernel.

Along one axis, nearest upsampling repeats pixel i // 2 of the low-resolution map at position i. At position i = 2 m + a
(phase a, 0 or 1), a kernel of k taps with p = k // 2 reads the low-resolution pixels m + floor((a + t - p) / 2), for
t = 0 ... k - 1. At most (k + 1) / 2 of them are different, so taps that read the same pixel are summed. With
r = `low_resolution_pad(k)`:

- k = 5, 9, 13, ...: both phases read pixels m - r ... m + r.
- k = 3, 7, 11, ...: phase 0 reads pixels m - r ... m + r - 1, and phase 1 reads one pixel further. The kernels of both
  phases are written for the pixels of phase 0, so the results of phase 1 are one pixel further in the output.

Reflect padding of the upsampled map equals replicate padding of the low-resolution map, except for windows that extend
two or more positions beyond the edge. These are the windows of the outermost `border_width(k)` positions. Their
difference depends on the differences between the outermost pixel and its `edge_neighbors(k)` next ones.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

EDGES = 4
"""Number of edges of a map, in the order top, bottom, left, right."""


def low_resolution_pad(k: int) -> int:
    """Return the number of pixels by which the low-resolution map is padded on each side."""
    return (k + 1) // 4


def border_width(k: int) -> int:
    """Return the number of upsampled positions at each edge that differ between reflect and replicate padding."""
    return k // 2 - 1


def edge_neighbors(k: int) -> int:
    """Return the number of pixels next to the outermost one on which these positions depend."""
    return k // 4


def shifted(k: int) -> bool:
    """Return True if the results of phase 1 are one pixel further than those of phase 0."""
    return k % 4 == 3


class TapSums(NamedTuple):
    """The linear map from the taps of a kernel to the taps of all kernels that are made from it.

    Attributes:
        matrix: (k · k, phases + borders).
        phases: Number of taps of the phases, 2 · 2 · taps · taps with taps = (k + 1) / 2.
        borders: Number of taps for the borders, 4 · border_width · edge_neighbors · k, or 0 without borders.
    """

    matrix: Tensor
    phases: int
    borders: int


@functools.cache
def tap_sums(k: int, dtype: torch.dtype, device: torch.device, has_borders: bool) -> TapSums:
    """Return the linear map for kernels of k x k taps."""
    with torch.inference_mode(False):
        like = torch.empty(0, dtype=dtype, device=device)
        phases, borders = _phase_matrix(k, like), _border_matrix(k, like)
        if not has_borders:
            return TapSums(phases, phases.shape[1], 0)
        return TapSums(torch.cat([phases, borders], dim=1), phases.shape[1], borders.shape[1])


def _phase_taps(k: int, like: Tensor) -> Tensor:
    """Return (2, taps, k) with a one at [a, u, t] if tap t of the kernel is part of tap u of phase a."""
    a, u, t = _grid(like, 2, (k + 1) // 2, k)
    pixel = torch.div(a + t - k // 2, 2, rounding_mode="floor")
    return (u == pixel + low_resolution_pad(k) - (a if shifted(k) else 0)).to(like.dtype)


def _border_taps(k: int, like: Tensor) -> Tensor:
    """Return (2, border_width, edge_neighbors, k) with ones for the taps that read another pixel beyond an edge.

    At position i < border_width, tap t reads position t + i - p. If this is beyond the first edge, reflect padding
    reads position p - i - t instead, in pixel s + 1 for which the matrix has a one at [0, i, s, t]. Replicate padding
    reads pixel 0. At the last edge, s and t are counted from there, and i is not.
    """
    i, s, t = _grid(like, border_width(k), edge_neighbors(k), k)
    first = (s + 1 == torch.div(k // 2 - i - t, 2, rounding_mode="floor")).to(like.dtype)
    return torch.stack([first, first.flip(0, 2)])


def _phase_matrix(k: int, like: Tensor) -> Tensor:
    """Return the map to the kernels of the phases, (k · k, 2 · 2 · taps · taps)."""
    taps = _phase_taps(k, like)
    return torch.einsum("aut,bvs->tsabuv", taps, taps).reshape(k * k, -1)


def _border_matrix(k: int, like: Tensor) -> Tensor:
    """Return the map to the kernels for the borders, (k · k, 4 · border_width · edge_neighbors · k)."""
    taps, identity = _border_taps(k, like), torch.eye(k, dtype=like.dtype, device=like.device)
    rows = torch.einsum("eipt,vs->tseipv", taps, identity)
    columns = torch.einsum("eips,vt->tseipv", taps, identity)
    return torch.cat([rows, columns], dim=2).reshape(k * k, -1)


def _grid(like: Tensor, *sizes: int) -> list[Tensor]:
    axes = [torch.arange(size, device=like.device) for size in sizes]
    return list(torch.meshgrid(*axes, indexing="ij"))
