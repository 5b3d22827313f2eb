"""Convolution of an upsampled map, and its gradient, as four phase convolutions on the low-resolution map.

The phases of a pixel are its 2 x 2 positions in the upsampled map, so the results of the four convolutions are the four
positions of each pixel. Zero and replicate padding of the low-resolution map are exact. Reflect padding differs from
replicate padding at the outermost positions only. The difference is a matrix product per edge, which is added there.

The convolutions and the matrix products are torch's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.ops.border_windows import (
    Group,
    Sums,
    difference_gradients,
    differences,
    groups_of,
    pixels_of,
    strips_of,
)
from fastmunit.ops.layout import dense, dense_format
from fastmunit.ops.phase_taps import border_width, edge_neighbors, low_resolution_pad, shifted


def kernel_size(phases: Tensor) -> int:
    """Return k of the weight from which the kernels of the phases were made."""
    return 2 * phases.shape[-1] - 1


def convolve(x: Tensor, phases: Tensor, borders: Tensor | None, bias: Tensor | None, unshuffled: bool) -> Tensor:
    """Convolve a map, upsampled by 2 and padded by k // 2, with the weight that the kernels were made from.

    Args:
        x: Low-resolution map, padded by `low_resolution_pad(k)` pixels on each side, with zeros or by replication.
        phases: Kernels of the phases, in the layout of x.
        borders: Kernels for the borders, for reflect padding. None for other padding.
        bias: None or the bias of the phases.
        unshuffled: Return (N, 4 O, H, W), with channels (O, 2, 2), instead of (N, O, 2 H, 2 W).
    """
    x = dense(x)
    k = kernel_size(phases)
    y = F.conv2d(x, phases, bias)
    if shifted(k):
        y = _cut(y, not unshuffled)
    if borders is not None:
        pixels = _pixel_rows(x)
        n, h, w = y.shape[0], y.shape[2], y.shape[3]
        positions = _positions(y, not unshuffled)
        for group in groups_of(h, w):
            kernels = borders[group.edges]
            windows = _windows(pixels, k, (n, h, w), group, kernels)
            strips = torch.bmm(windows, kernels.transpose(1, 2))
            strips = strips.view(len(kernels), n, -1, 2, border_width(k), phases.shape[0] // 4)
            for view, index in strips_of(positions, k, group):
                view += strips[index]
    return y if unshuffled else _shuffle(y)


def convolve_backward(
    dy: Tensor,
    x: Tensor,
    phases: Tensor,
    borders: Tensor | None,
    unshuffled: bool,
    wants: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, phases, borders and bias from the gradient dy.

    `wants` tells whether to compute that of x, those of both kernels, and that of the bias. The others are None.
    """
    x = dense(x)
    k = kernel_size(phases)
    dy = dy.contiguous(memory_format=dense_format(x)) if unshuffled else _unshuffle(dy, dense_format(x))
    gradients = torch.ops.aten.convolution_backward(
        _cut_backward(dy, not unshuffled) if shifted(k) else dy,
        x, phases, [len(phases)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wants,
    )  # fmt: skip
    # torch may return more than it was asked for.
    dx, dphases, dbias = (gradient if want else None for gradient, want in zip(gradients, wants, strict=True))
    if borders is None or not (wants[0] or wants[1]):
        return dx, dphases, None, dbias
    dborders = torch.empty_like(borders) if wants[1] else None
    n, h, w = dy.shape[0], dy.shape[2], dy.shape[3]
    positions = _positions(dy, not unshuffled)
    pixels = _pixel_rows(x) if wants[1] else x
    for group in groups_of(h, w):
        kernels = borders[group.edges]
        dstrips = _strips(positions, k, group)
        if dborders is not None:
            windows = _windows(pixels, k, (n, h, w), group, kernels)
            torch.bmm(dstrips.transpose(1, 2), windows, out=dborders[group.edges])
        if dx is not None:
            _add_window_gradients(dx, torch.bmm(dstrips, kernels), k, group)
    return dx, dphases, dborders, dbias


# --- Borders ----------------------------------------------------------------------------------------------------------


def _pixel_rows(x: Tensor) -> Tensor:
    """Return x (N, C, H, W) with one row per pixel, (N · H · W, C): a view in channels_last, a copy in NCHW."""
    return x.permute(0, 2, 3, 1).contiguous().view(-1, x.shape[1])


def _windows(pixels: Tensor, k: int, size: tuple[int, int, int], group: Group, kernels: Tensor) -> Tensor:
    """Return what each position along the edges reads, (edges, N · 2 L, edge_neighbors · k · C)."""
    sums = differences(k, *size, group, pixels.dtype, pixels.device)
    return _sums(pixels, sums).view(len(kernels), -1, kernels.shape[2])


def _sums(rows: Tensor, sums: Sums) -> Tensor:
    """Return the sums of rows with signs, in the order of the tables."""
    result: Tensor = torch.ops.aten._embedding_bag_forward_only(
        rows, sums.rows, sums.starts, per_sample_weights=sums.signs
    )[0]
    return result


def _strips(positions: Tensor, k: int, group: Group) -> Tensor:
    """Return the outermost positions of a map, (edges, N · 2 L, border_width · O)."""
    n, o, _, _, h, w = positions.shape
    length = w if group.rows else h
    edges = 4 if group.rows and group.columns else 2
    strips = positions.new_empty((edges, n, length, 2, border_width(k), o))
    for view, index in strips_of(positions, k, group):
        strips[index].copy_(view)
    return strips.view(edges, n * 2 * length, -1)


def _add_window_gradients(dx: Tensor, dwindows: Tensor, k: int, group: Group) -> None:
    """Add the gradients of windows to that of the padded map."""
    n, c, height, width = dx.shape
    pad = low_resolution_pad(k)
    h, w = height - 2 * pad, width - 2 * pad
    sums = difference_gradients(k, n, h, w, group, dx.dtype, dx.device)
    dpixels = _sums(dwindows.view(-1, c), sums).view(len(dwindows), n, -1, edge_neighbors(k) + 1, c)
    for view, index in pixels_of(dx[:, :, pad:-pad, pad:-pad], k, group):
        view += dpixels[index]


# --- Positions of the upsampled map in the phases ---------------------------------------------------------------------


def _positions(y: Tensor, phases_first: bool) -> Tensor:
    """Return the view of (N, 4 O, H, W) with position (2 i + a, 2 j + b) of the upsampled map at [n, o, a, b, i, j]."""
    if phases_first:
        return y.unflatten(1, (2, 2, y.shape[1] // 4)).permute(0, 3, 1, 2, 4, 5)
    return y.unflatten(1, (y.shape[1] // 4, 2, 2))


def _cut(y: Tensor, phases_first: bool) -> Tensor:
    """Cut a result that is one row and one column too large: the last ones of phase 0, the first ones of phase 1."""
    n, c, h, w = y.shape
    cut = torch.empty((n, c, h - 1, w - 1), dtype=y.dtype, device=y.device, memory_format=dense_format(y))
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inside = _positions(y, phases_first)[:, :, a, b, a : h - 1 + a, b : w - 1 + b]
        _positions(cut, phases_first)[:, :, a, b].copy_(inside)
    return cut


def _cut_backward(dcut: Tensor, phases_first: bool) -> Tensor:
    n, c, h, w = dcut.shape
    shape = (n, c, h + 1, w + 1)
    dy = torch.empty(shape, dtype=dcut.dtype, device=dcut.device, memory_format=dense_format(dcut)).zero_()
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inside = _positions(dy, phases_first)[:, :, a, b, a : h + a, b : w + b]
        inside.copy_(_positions(dcut, phases_first)[:, :, a, b])
    return dy


def _shuffle(y: Tensor) -> Tensor:
    """Shuffle (N, 4 O, H, W), phases first, to (N, O, 2 H, 2 W), in one copy in memory order."""
    n, c, h, w = y.shape
    o = c // 4
    if dense_format(y) == torch.channels_last:
        y = y.permute(0, 2, 3, 1).view(n, h, w, 2, 2, o).transpose(2, 3)
        return y.reshape(n, 2 * h, 2 * w, o).permute(0, 3, 1, 2)
    return _positions(y, True).permute(0, 1, 4, 2, 5, 3).reshape(n, o, 2 * h, 2 * w)


def _unshuffle(dy: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Invert `_shuffle`, for any strides."""
    n, o, h, w = dy.shape
    if memory_format == torch.channels_last:
        phases = dy.permute(0, 2, 3, 1).unflatten(2, (w // 2, 2)).unflatten(1, (h // 2, 2)).transpose(2, 3)
        return phases.reshape(n, h // 2, w // 2, 4 * o).permute(0, 3, 1, 2)
    phases = dy.unflatten(3, (w // 2, 2)).unflatten(2, (h // 2, 2))
    return phases.permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * o, h // 2, w // 2)
