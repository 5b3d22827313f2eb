"""Tables of the pixels that a convolution of an upsampled map reads near the edges, and views of where results go.

The kernels for the borders (`phase_taps`) read, along an edge, k positions of the upsampled map, and across it the
differences between `edge_neighbors(k)` pixels and the outermost one. The window of one position is one row of a matrix
product, so a table lists the two pixels of each difference in all windows. The table also says what is read beyond the
ends of an edge: along the top and the bottom the map is reflected, and along the left and the right it is replicated,
because the top and the bottom already contain what differs in the corners.

The gradient of a pixel is the sum over all places in windows that read it, which another table lists. Sums in the order
of a table have the same bits each time, unlike those of atomic additions.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.ops.phase_taps import border_width, edge_neighbors, low_resolution_pad

Part = tuple[Tensor, tuple[int | slice, ...]]
"""A view of a map, and the index of its values in a tensor that has the values of several edges."""


class Group(NamedTuple):
    """Edges of equal length, whose windows are computed together.

    Attributes:
        rows: Contains top and bottom.
        columns: Contains left and right.
    """

    rows: bool
    columns: bool

    @property
    def edges(self) -> slice:
        """The edges among all four."""
        return slice(0 if self.rows else 2, 4 if self.columns else 2)


class Sums(NamedTuple):
    """Sums of rows of a matrix.

    Attributes:
        rows: Indices of the rows of all sums.
        starts: Index in `rows` of the first row of each sum.
        signs: 1 or -1 for each of `rows`.
    """

    rows: Tensor
    starts: Tensor
    signs: Tensor


def groups_of(h: int, w: int) -> tuple[Group, ...]:
    """Return the edges of a map in as few groups as possible."""
    return (Group(True, True),) if h == w else (Group(True, False), Group(False, True))


def differences(k: int, n: int, h: int, w: int, group: Group, dtype: torch.dtype, device: torch.device) -> Sums:
    """Return the values of all windows, (edges, N, 2 L, edge_neighbors, k) with L the length of the edges.

    They are sums of rows of the padded map (N, H + 2 pad, W + 2 pad), pad = `low_resolution_pad(k)`.
    """
    return _kept_for_graphs(_differences(k, n, h, w, group, dtype, device))


def difference_gradients(
    k: int, n: int, h: int, w: int, group: Group, dtype: torch.dtype, device: torch.device
) -> Sums:
    """Return the gradients of the pixels near the edges, (edges, N, L, edge_neighbors + 1).

    They are sums of rows of the gradients of all windows. Across an edge, pixels have the order of their coordinates.
    """
    return _kept_for_graphs(_difference_gradients(k, n, h, w, group, dtype, device))


# A captured CUDA graph reads its tables at every replay, long after they may have left a cache of limited size.
_of_graphs: dict[int, Sums] = {}


def _kept_for_graphs(sums: Sums) -> Sums:
    # Fake CUDA tensors exist without CUDA.
    if sums.rows.is_cuda and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        _of_graphs[id(sums)] = sums
    return sums


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _differences(k: int, n: int, h: int, w: int, group: Group, dtype: torch.dtype, device: torch.device) -> Sums:
    pad, count = low_resolution_pad(k), edge_neighbors(k)
    width = w + 2 * pad
    sample = torch.arange(n).view(1, n, 1, 1, 1) * (h + 2 * pad) * width
    tables = []
    if group.rows:
        along, across = _along(k, w, reflects=True), _across(k, h)
        tables.append((across.view(2, 1, 1, -1, 1) + pad) * width + along.view(1, 1, 2 * w, 1, k) + pad + sample)
    if group.columns:
        along, across = _along(k, h, reflects=False), _across(k, w)
        tables.append((along.view(1, 1, 2 * h, 1, k) + pad) * width + across.view(2, 1, 1, -1, 1) + pad + sample)
    pixels = torch.cat(tables)
    neighbors, outermost = pixels[:, :, :, 1:], pixels[:, :, :, :1].expand(-1, -1, -1, count, -1)
    rows = torch.stack([neighbors, outermost], dim=-1).flatten()
    signs = torch.tensor([1, -1]).repeat(len(rows) // 2)
    return _on(device, dtype, rows, torch.arange(0, len(rows), 2), signs)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _difference_gradients(
    k: int, n: int, h: int, w: int, group: Group, dtype: torch.dtype, device: torch.device
) -> Sums:
    count = edge_neighbors(k)
    order = torch.arange(count + 1)
    across = torch.stack([order, order.flip(0)]).view(2, 1, 1, count + 1, 1)
    pixels: list[Tensor] = []
    for length, reflects, wanted in ((w, True, group.rows), (h, False, group.columns)):
        if wanted:
            edge = torch.arange(2 * len(pixels), 2 * len(pixels) + 2).view(2, 1, 1, 1, 1)
            sample = torch.arange(n).view(1, n, 1, 1, 1)
            along = _along(k, length, reflects).view(1, 1, 2 * length, 1, k)
            pixels.append(((edge * n + sample) * length + along) * (count + 1) + across)
    both = torch.cat(pixels)
    # A difference adds to its neighbor, and subtracts from the outermost pixel.
    read = torch.stack([both[:, :, :, 1:], both[:, :, :, :1].expand(-1, -1, -1, count, -1)], dim=-1).flatten()
    ordered, places = read.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(both.numel() // (2 * k)))  # one for each pixel
    return _on(device, dtype, places // 2, starts, 1 - 2 * (places % 2))


def _on(device: torch.device, dtype: torch.dtype, rows: Tensor, starts: Tensor, signs: Tensor) -> Sums:
    return Sums(rows.to(device), starts.to(device), signs.to(device, dtype))


def _along(k: int, length: int, reflects: bool) -> Tensor:
    """Return the pixel that tap v reads at position j along an edge of `length` pixels, (2 · length, k)."""
    last = 2 * length - 1
    position = torch.arange(2 * length).view(-1, 1) + torch.arange(k) - k // 2
    inside = last - (last - position.abs()).abs() if reflects else position.clamp(0, last)
    return inside // 2


def _across(k: int, length: int) -> Tensor:
    """Return the outermost pixel and its neighbors at the first and at the last edge, (2, edge_neighbors + 1)."""
    order = torch.arange(edge_neighbors(k) + 1)
    return torch.stack([order, length - 1 - order])


# --- Views of maps ----------------------------------------------------------------------------------------------------


def strips_of(positions: Tensor, k: int, group: Group) -> list[Part]:
    """Return the outermost positions of an upsampled map at each edge.

    Args:
        positions: (N, O, 2, 2, H, W), with position (2 i + a, 2 j + b) of the upsampled map at [n, o, a, b, i, j].
        k: Kernel size.
        group: Edges.

    Returns:
        Views that have the order of their part of (edges, N, L, 2, border_width, O).
    """
    parts = _strips_of(positions, k, 0) if group.rows else []
    if group.columns:
        parts += _strips_of(positions.permute(0, 1, 3, 2, 5, 4), k, 2 if group.rows else 0)
    return parts


def _strips_of(positions: Tensor, k: int, edge: int) -> list[Part]:
    """Return the parts for the first and the last rows, which are the edges `edge` and `edge` + 1."""
    width, h = border_width(k), positions.shape[4]
    if width == 1:
        # The first row is of phase 0 and the last one of phase 1, so that both are a diagonal.
        both = positions[:, :, :, :, :: h - 1].diagonal(0, 2, 4)
        return [(both.permute(4, 0, 3, 2, 1), (slice(edge, edge + 2), slice(None), slice(None), slice(None), 0))]
    parts: list[Part] = []
    for last in (0, 1):
        for i in range(width):
            row = i + last * (2 * h - width)
            strip = positions[:, :, row % 2, :, row // 2].permute(0, 3, 2, 1)
            parts.append((strip, (edge + last, slice(None), slice(None), slice(None), i)))
    return parts


def pixels_of(x: Tensor, k: int, group: Group) -> list[Part]:
    """Return the pixels of a map (N, C, H, W) that windows read, as parts of (edges, N, L, edge_neighbors + 1, C)."""
    parts = _pixels_of(x, k, 0) if group.rows else []
    if group.columns:
        parts += _pixels_of(x.transpose(2, 3), k, 2 if group.rows else 0)
    return parts


def _pixels_of(x: Tensor, k: int, edge: int) -> list[Part]:
    count, h = edge_neighbors(k) + 1, x.shape[2]
    if h >= 2 * count:
        return [(x.unfold(2, count, h - count).permute(2, 0, 3, 4, 1), (slice(edge, edge + 2),))]
    # The pixels of both edges overlap.
    first, last = x[:, :, :count], x[:, :, h - count :]
    return [(first.permute(0, 3, 2, 1), (edge,)), (last.permute(0, 3, 2, 1), (edge + 1,))]
