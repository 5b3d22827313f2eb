"""Kernels that convolve an upsampled map without upsampling it: sums of the taps of the given kernel.

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

from fastmunit.ops.layout import dense_format


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


class Kernels(NamedTuple):
    """The kernels of a weight (O, C, k, k), or their gradients. taps = (k + 1) / 2.

    Attributes:
        phases: Kernels for the padded low-resolution map, (4 O, C, taps, taps).
        rows: Kernels for the differences of the first and the last rows, upsampled along the columns,
            (2 · O · border_width, C, edge_neighbors, k), or None if they are not needed.
        columns: Kernels for the differences of the first and the last columns, as rows,
            (2 · O · 2 · border_width, C, edge_neighbors, taps), or None if they are not needed.
    """

    phases: Tensor
    rows: Tensor | None
    columns: Tensor | None


def summed(
    weight: Tensor, dtype: torch.dtype, memory_format: torch.memory_format, *, phases_first: bool, edges: bool
) -> Kernels:
    """Compute the kernels of weight (O, C, k, k).

    Args:
        weight: Kernel for the upsampled map. Sums are taken in its dtype.
        dtype: Dtype of the results.
        memory_format: Layout of the results.
        phases_first: Order the output channels of the phases as (2, 2, O) instead of (O, 2, 2).
        edges: Compute the kernels for rows and columns too.
    """
    o, c, k, _ = weight.shape
    matrix, sizes = _matrix(k, weight.dtype, weight.device, edges)
    if _channels_last(weight):
        sums = (matrix.t() @ weight.permute(0, 2, 3, 1).reshape(o, k * k, c)).transpose(1, 2)
    else:
        sums = (weight.reshape(o * c, k * k) @ matrix).view(o, c, -1)
    parts = (part.to(dtype) for part in _parts(sums, sizes, k, phases_first))
    kernels = [_flat(part, memory_format) for part in parts]
    return Kernels(kernels[0], *(kernels[1:] if edges else (None, None)))


def summed_backward(dkernels: Kernels, weight: Tensor, *, phases_first: bool) -> Tensor:
    """Return the gradient of weight from the gradients of its kernels, in the layout of weight."""
    o, c, k, _ = weight.shape
    matrix, sizes = _matrix(k, weight.dtype, weight.device, dkernels.rows is not None)
    taps = matrix.shape[1]
    channels_last = _channels_last(weight)
    dsums = weight.new_empty((o, taps, c) if channels_last else (o, c, taps))
    gradients = [gradient for gradient in dkernels if gradient is not None]
    views = _parts(dsums.transpose(1, 2) if channels_last else dsums, sizes, k, phases_first)
    for part, gradient in zip(views, gradients, strict=True):
        part.copy_(gradient.unflatten(0, part.shape[: part.dim() - 3]))
    if channels_last:
        return (matrix @ dsums).view(o, k, k, c).permute(0, 3, 1, 2)
    return (dsums.view(o * c, taps) @ matrix.t()).view(o, c, k, k)


def _channels_last(weight: Tensor) -> bool:
    return dense_format(weight) == torch.channels_last


def _flat(part: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Flatten (..., C, taps, taps) to one kernel (O, C, taps, taps) in the layout `memory_format`."""
    last = part.dim() - 4
    if memory_format == torch.channels_last:
        return part.movedim(-3, -1).flatten(0, last).permute(0, 3, 1, 2)
    return part.flatten(0, last)


def _parts(sums: Tensor, sizes: list[int], k: int, phases_first: bool) -> list[Tensor]:
    """Return the views of sums (O, C, all taps) that are the kernels, with one dimension per part of their channels."""
    r, d, u = border_width(k), edge_neighbors(k), (k + 1) // 2
    phases, *others = sums.split(sizes, dim=2)
    order = (2, 3, 0, 1, 4, 5) if phases_first else (0, 2, 3, 1, 4, 5)
    views = [phases.unflatten(2, (2, 2, u, u)).permute(order)]
    if others:
        views.append(others[0].unflatten(2, (2, r, d, k)).permute(2, 0, 3, 1, 4, 5))
        views.append(others[1].unflatten(2, (2, 2, r, d, u)).permute(2, 0, 3, 4, 1, 5, 6))
    return views


@functools.cache
def _matrix(k: int, dtype: torch.dtype, device: torch.device, edges: bool) -> tuple[Tensor, list[int]]:
    """Return the linear map from the k · k taps to the taps of all kernels, and their number per kind of kernel."""
    with torch.inference_mode(False):
        like = torch.empty(0, dtype=dtype, device=device)
        matrices = [_phase_matrix(k, like), *((_row_matrix(k, like), _column_matrix(k, like)) if edges else ())]
        return torch.cat(matrices, dim=1), [matrix.shape[1] for matrix in matrices]


def _phase_taps(k: int, like: Tensor) -> Tensor:
    """Return (2, taps, k) with a one at [a, u, t] if tap t of the kernel is part of tap u of phase a."""
    a, u, t = _grid(like, 2, (k + 1) // 2, k)
    pixel = torch.div(a + t - k // 2, 2, rounding_mode="floor")
    return (u == pixel + low_resolution_pad(k) - (a if shifted(k) else 0)).to(like.dtype)


def _edge_taps(k: int, like: Tensor) -> Tensor:
    """Return (2, border_width, edge_neighbors, k) with ones for the taps that read another pixel beyond an edge.

    At position i < border_width, tap t reads position t + i - p. If this is beyond the first edge, reflect padding
    reads position p - i - t instead, in pixel s + 1 for which the matrix has a one at [0, i, s, t]. Replicate padding
    reads pixel 0. The last edge is the same with i, s and t counted from there.
    """
    i, s, t = _grid(like, border_width(k), edge_neighbors(k), k)
    first = (s + 1 == torch.div(k // 2 - i - t, 2, rounding_mode="floor")).to(like.dtype)
    return torch.stack([first, first.flip(0, 1, 2)])


def _phase_matrix(k: int, like: Tensor) -> Tensor:
    """Return the map to the kernels of the phases, (k · k, 2 · 2 · taps · taps)."""
    taps = _phase_taps(k, like)
    return torch.einsum("aut,bvs->tsabuv", taps, taps).reshape(k * k, -1)


def _row_matrix(k: int, like: Tensor) -> Tensor:
    """Return the map to the kernels for rows, (k · k, 2 · border_width · edge_neighbors · k)."""
    identity = torch.eye(k, dtype=like.dtype, device=like.device)
    return torch.einsum("eipt,sv->tseipv", _edge_taps(k, like), identity).reshape(k * k, -1)


def _column_matrix(k: int, like: Tensor) -> Tensor:
    """Return the map to the kernels for columns, (k · k, 2 · 2 · border_width · edge_neighbors · taps)."""
    return torch.einsum("aut,eips->tseaipu", _phase_taps(k, like), _edge_taps(k, like)).reshape(k * k, -1)


def _grid(like: Tensor, *sizes: int) -> list[Tensor]:
    axes = [torch.arange(size, device=like.device) for size in sizes]
    return list(torch.meshgrid(*axes, indexing="ij"))
