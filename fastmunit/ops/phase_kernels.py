"""The kernels by which an upsampled map is convolved without being upsampled: sums of the taps of the given one.

Along one axis, nearest upsampling shows pixel i // 2 of the low-resolution map at position i. A k-tap kernel,
p = k // 2, reads at position i = 2 m + a (phase a, 0 or 1) the low-resolution pixels m + floor((a + t - p) / 2),
t = 0 ... k - 1: at most (k + 1) / 2 different ones, so taps that read the same pixel are summed.

- k = 5, 9, 13, ...: both phases read m - reach ... m + reach.
- k = 3, 7, 11, ...: phase 0 reads m - reach ... m + reach - 1, phase 1 reads one further. The kernels of both phases
  are written for the pixels of phase 0, so that phase 1 is found one further in the result.

Reflect padding of the upsampled map is replicate padding of the low-resolution one, except for windows that reach two
or more positions beyond the edge: those of the outermost `ring` positions. What these lack depends on how the `depth`
pixels beside the outermost one differ from it.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.ops.layout import dense_format


def reach(k: int) -> int:
    """How many pixels the low-resolution map is padded on each side."""
    return (k + 1) // 4


def ring(k: int) -> int:
    """How many positions of the upsampled map at each edge differ between reflect and replicate padding."""
    return k // 2 - 1


def depth(k: int) -> int:
    """How many pixels beside the outermost one these positions depend on."""
    return k // 4


def shifted(k: int) -> bool:
    """Whether phase 1 lies one pixel further than phase 0 in the result."""
    return k % 4 == 3


class Kernels(NamedTuple):
    """The kernels of a weight (O, C, k, k), or their gradients; taps = (k + 1) / 2.

    Attributes:
        phases: For the padded low-resolution map, (4 O, C, taps, taps).
        rows: For differences of the first and of the last rows, upsampled along the columns,
            (2 · O · ring, C, depth, k); None where they are not needed.
        columns: For differences of the first and of the last columns, as rows, (2 · O · 2 · ring, C, depth, taps);
            None where they are not needed.
    """

    phases: Tensor
    rows: Tensor | None
    columns: Tensor | None


def summed(
    weight: Tensor, dtype: torch.dtype, memory_format: torch.memory_format, *, phases_first: bool, edges: bool
) -> Kernels:
    """The kernels of weight (O, C, k, k).

    Args:
        weight: The kernel on the upsampled map; sums are taken in its dtype.
        dtype: Of the results.
        memory_format: Of the results.
        phases_first: Whether output channels of the phases are (2, 2, O) instead of (O, 2, 2).
        edges: Whether rows and columns are needed.
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
    """The gradient of weight, given those of its kernels; in the layout of weight."""
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
    """(..., C, taps, taps) as one kernel (O, C, taps, taps), which lies in memory as `memory_format` says."""
    last = part.dim() - 4
    if memory_format == torch.channels_last:
        return part.movedim(-3, -1).flatten(0, last).permute(0, 3, 1, 2)
    return part.flatten(0, last)


def _parts(sums: Tensor, sizes: list[int], k: int, phases_first: bool) -> list[Tensor]:
    """The views of sums (O, C, all taps) that are the kernels, with the parts of their output channels apart."""
    r, d, u = ring(k), depth(k), (k + 1) // 2
    phases, *others = sums.split(sizes, dim=2)
    order = (2, 3, 0, 1, 4, 5) if phases_first else (0, 2, 3, 1, 4, 5)
    views = [phases.unflatten(2, (2, 2, u, u)).permute(order)]
    if others:
        views.append(others[0].unflatten(2, (2, r, d, k)).permute(2, 0, 3, 1, 4, 5))
        views.append(others[1].unflatten(2, (2, 2, r, d, u)).permute(2, 0, 3, 4, 1, 5, 6))
    return views


@functools.cache
def _matrix(k: int, dtype: torch.dtype, device: torch.device, edges: bool) -> tuple[Tensor, list[int]]:
    """The linear map from the k · k taps to those of all kernels, and how many each kind of kernel has."""
    with torch.inference_mode(False):
        like = torch.empty(0, dtype=dtype, device=device)
        matrices = [_phase_matrix(k, like), *((_row_matrix(k, like), _column_matrix(k, like)) if edges else ())]
        return torch.cat(matrices, dim=1), [matrix.shape[1] for matrix in matrices]


def _phase_taps(k: int, like: Tensor) -> Tensor:
    """(2, taps, k) of zeros and ones: which taps t of the kernel are summed to tap u of phase a."""
    a, u, t = _grid(like, 2, (k + 1) // 2, k)
    pixel = torch.div(a + t - k // 2, 2, rounding_mode="floor")
    return (u == pixel + reach(k) - (a if shifted(k) else 0)).to(like.dtype)


def _edge_taps(k: int, like: Tensor) -> Tensor:
    """(2, ring, depth, k) of zeros and ones: which taps t read, beyond the first and the last edge, another pixel.

    At position i < ring, tap t reads position t + i - p. Where that is beyond the first edge, it is position p - i - t
    reflected, in pixel s + 1 where the matrix is one at [0, i, s, t], and in pixel 0 replicated. At the last edge it is
    the same with i, s and t counted from there.
    """
    i, s, t = _grid(like, ring(k), depth(k), k)
    first = (s + 1 == torch.div(k // 2 - i - t, 2, rounding_mode="floor")).to(like.dtype)
    return torch.stack([first, first.flip(0, 1, 2)])


def _phase_matrix(k: int, like: Tensor) -> Tensor:
    """(k · k, 2 · 2 · taps · taps)."""
    taps = _phase_taps(k, like)
    return torch.einsum("aut,bvs->tsabuv", taps, taps).reshape(k * k, -1)


def _row_matrix(k: int, like: Tensor) -> Tensor:
    """(k · k, 2 · ring · depth · k)."""
    identity = torch.eye(k, dtype=like.dtype, device=like.device)
    return torch.einsum("eipt,sv->tseipv", _edge_taps(k, like), identity).reshape(k * k, -1)


def _column_matrix(k: int, like: Tensor) -> Tensor:
    """(k · k, 2 · 2 · ring · depth · taps)."""
    return torch.einsum("aut,eips->tseaipu", _phase_taps(k, like), _edge_taps(k, like)).reshape(k * k, -1)


def _grid(like: Tensor, *sizes: int) -> list[Tensor]:
    axes = [torch.arange(size, device=like.device) for size in sizes]
    return list(torch.meshgrid(*axes, indexing="ij"))
