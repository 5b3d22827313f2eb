"""What a convolution of an upsampled map reads near the edges, as tables of indices, and where its results go.

The kernels for the borders (`phase_taps`) read, along an edge, k positions of the upsampled map, and across it
`border_pixels(k)` pixels. The window of one position is one row of a matrix product, so the pixels of all windows are
gathered by one table of indices. The table also says what is read beyond the ends of an edge: along the top and the
bottom the map is reflected, and along the left and the right it is replicated, because the top and the bottom already
contain what differs in the corners.

Adding up the gradients of the pixels needs the inverse table, which lists for each pixel the places in all windows that
read it. Adding in the order of a table gives the same bits each time, unlike atomic additions.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.ops.phase_taps import border_pixels, border_width, low_resolution_pad

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


class Bags(NamedTuple):
    """For each pixel near an edge, the places in the windows that read it.

    Attributes:
        places: Indices of places, in the order of pixels.
        starts: Index in `places` of the first place of each pixel.
    """

    places: Tensor
    starts: Tensor


def groups_of(h: int, w: int) -> tuple[Group, ...]:
    """Return the edges of a map in as few groups as possible."""
    return (Group(True, True),) if h == w else (Group(True, False), Group(False, True))


def window_pixels(k: int, n: int, h: int, w: int, group: Group, device: torch.device) -> Tensor:
    """Return the pixels of all windows, (edges · N · 2 L · border_pixels · k,), with L the length of the edges.

    A pixel is its index in the padded map (N, H + 2 pad, W + 2 pad), pad = `low_resolution_pad(k)`.
    """
    return _kept_for_graphs(_window_pixels(k, n, h, w, group, device))


def bags(k: int, n: int, h: int, w: int, group: Group, device: torch.device) -> Bags:
    """Return the places in the windows that read each pixel, for pixels (edges, N, L, border_pixels).

    Across an edge, pixels have the order of their coordinates.
    """
    found = _bags(k, n, h, w, group, device)
    for tensor in found:
        _kept_for_graphs(tensor)
    return found


# A captured CUDA graph reads its tables at every replay, long after they may have left a cache of limited size.
_of_graphs: dict[int, Tensor] = {}


def _kept_for_graphs(table: Tensor) -> Tensor:
    if table.is_cuda and torch.cuda.is_current_stream_capturing():
        _of_graphs[id(table)] = table
    return table


@functools.lru_cache(maxsize=128)
def _window_pixels(k: int, n: int, h: int, w: int, group: Group, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        pad = low_resolution_pad(k)
        height, width = h + 2 * pad, w + 2 * pad
        tables = []
        sample = torch.arange(n).view(1, n, 1, 1, 1) * (height * width)
        if group.rows:
            along, across = _along(k, w, reflects=True), _across(k, h)
            tables.append((across.view(2, 1, 1, -1, 1) + pad) * width + along.view(1, 1, 2 * w, 1, k) + pad + sample)
        if group.columns:
            along, across = _along(k, h, reflects=False), _across(k, w)
            tables.append((along.view(1, 1, 2 * h, 1, k) + pad) * width + across.view(2, 1, 1, -1, 1) + pad + sample)
        return torch.cat(tables).flatten().to(device)


@functools.lru_cache(maxsize=128)
def _bags(k: int, n: int, h: int, w: int, group: Group, device: torch.device) -> Bags:
    with torch.inference_mode(False):
        count = border_pixels(k)
        pixels: list[Tensor] = []
        for length, reflects, wanted in ((w, True, group.rows), (h, False, group.columns)):
            if wanted:
                edge = torch.arange(2 * len(pixels), 2 * len(pixels) + 2).view(2, 1, 1, 1, 1)
                sample = torch.arange(n).view(1, n, 1, 1, 1)
                along = _along(k, length, reflects).view(1, 1, 2 * length, 1, k)
                order = torch.arange(count)
                across = torch.stack([order, order.flip(0)]).view(2, 1, 1, count, 1)
                pixels.append(((edge * n + sample) * length + along) * count + across)
        read = torch.cat(pixels).flatten()
        sizes = torch.bincount(read)
        places = read.argsort(stable=True)
        return Bags(places.to(device), (sizes.cumsum(0) - sizes).to(device))


def _along(k: int, length: int, reflects: bool) -> Tensor:
    """Return the pixel that tap v reads at position j along an edge of `length` pixels, (2 · length, k)."""
    last = 2 * length - 1
    position = torch.arange(2 * length).view(-1, 1) + torch.arange(k) - k // 2
    inside = last - (last - position.abs()).abs() if reflects else position.clamp(0, last)
    return inside // 2


def _across(k: int, length: int) -> Tensor:
    """Return the outermost pixel and its neighbors at the first and at the last edge, (2, border_pixels)."""
    order = torch.arange(border_pixels(k))
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
    """Return the pixels of a map (N, C, H, W) that windows read, as parts of (edges, N, L, border_pixels, C)."""
    parts = _pixels_of(x, k, 0) if group.rows else []
    if group.columns:
        parts += _pixels_of(x.transpose(2, 3), k, 2 if group.rows else 0)
    return parts


def _pixels_of(x: Tensor, k: int, edge: int) -> list[Part]:
    count, h = border_pixels(k), x.shape[2]
    if h >= 2 * count:
        return [(x.unfold(2, count, h - count).permute(2, 0, 3, 4, 1), (slice(edge, edge + 2),))]
    # The pixels of both edges overlap.
    first, last = x[:, :, :count], x[:, :, h - count :]
    return [(first.permute(0, 3, 2, 1), (edge,)), (last.permute(0, 3, 2, 1), (edge + 1,))]
