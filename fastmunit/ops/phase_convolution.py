"""Convolution of an upsampled map, and its gradient, as four phase convolutions on the low-resolution map.

The phases of a pixel are its 2 x 2 positions in the upsampled map, so the results of the four convolutions are the four
positions of each pixel. Zero and replicate padding of the low-resolution map are exact. Reflect padding differs from
replicate padding at the outermost positions only. The difference is a convolution of thin strips, which is added there.

The convolutions are torch's.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.ops.layout import dense, dense_format
from fastmunit.ops.phase_kernels import (
    Kernels,
    border_width,
    edge_neighbors,
    low_resolution_pad,
    shifted,
    summed,
    summed_backward,
)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str, unshuffled: bool) -> Tensor:
    """Convolve x (N, C, H, W), upsampled by 2 and padded by k // 2, with weight (O, C, k, k).

    Args:
        x: Low-resolution map.
        weight: Kernel for the upsampled map, with odd k ≥ 3.
        bias: None or (O,).
        pad_mode: "reflect", "replicate" or "zero".
        unshuffled: Return (N, 4 O, H, W), with channels (O, 2, 2), instead of (N, O, 2 H, 2 W).
    """
    x = dense(x)
    k = weight.shape[-1]
    # Phases come first if they are shuffled: the O values of a position are then neighbors in channels_last.
    kernels = _kernels(x, weight, pad_mode, phases_first=not unshuffled)
    padded = _pad(x, k, pad_mode)
    if bias is not None:
        bias = (bias[:, None].expand(-1, 4) if unshuffled else bias.expand(4, -1)).reshape(-1)
    y = F.conv2d(padded, kernels.phases, bias)
    if shifted(k):
        y = _cut(y, not unshuffled)
    if kernels.rows is not None and kernels.columns is not None:
        strips = _strips_of(y, border_width(k), not unshuffled)
        _add_to_rows(strips.rows, F.conv2d(_row_differences(x, k), kernels.rows, groups=2))
        _add_to_columns(strips.columns, F.conv2d(_column_differences(padded, k), kernels.columns, groups=2), k)
    return y if unshuffled else _shuffle(y)


def convolve_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    pad_mode: str,
    unshuffled: bool,
    wants: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias, or None for those that `wants` leaves out, from the gradient dy."""
    x = dense(x)
    k = weight.shape[-1]
    kernels = _kernels(x, weight, pad_mode, phases_first=not unshuffled)
    padded = _pad(x, k, pad_mode)
    dy = dy.contiguous(memory_format=dense_format(x)) if unshuffled else _unshuffle(dy, dense_format(x))
    dphases = _cut_backward(dy, not unshuffled) if shifted(k) else dy
    dpadded, dkernels, dbias = _conv2d_backward(dphases, padded, kernels.phases, 1, wants)
    drow_kernels, dcolumn_kernels = None, None
    dx = None if dpadded is None else _pad_backward(dpadded, k, pad_mode, dense_format(x))
    if kernels.rows is not None and kernels.columns is not None:
        strips = _strips_of(dy, border_width(k), not unshuffled)
        inputs = (wants[0], wants[1], False)
        drows, drow_kernels, _ = _conv2d_backward(
            _rows_of(strips.rows), _row_differences(x, k), kernels.rows, 2, inputs
        )
        dcolumns, dcolumn_kernels, _ = _conv2d_backward(
            _columns_of(strips.columns, k), _column_differences(padded, k), kernels.columns, 2, inputs
        )
        if dx is not None and drows is not None and dcolumns is not None:
            _add_row_differences_backward(dx, drows, k)
            _add_column_differences_backward(dx, dcolumns, k)
    dweight = None
    if dkernels is not None:
        dweight = summed_backward(Kernels(dkernels, drow_kernels, dcolumn_kernels), weight, phases_first=not unshuffled)
    if dbias is not None:
        dbias = dbias.view(-1, 4).sum(1) if unshuffled else dbias.view(4, -1).sum(0)
    return dx, dweight, dbias


def _kernels(x: Tensor, weight: Tensor, pad_mode: str, phases_first: bool) -> Kernels:
    edges = pad_mode == "reflect" and border_width(weight.shape[-1]) > 0
    return summed(weight, x.dtype, dense_format(x), phases_first=phases_first, edges=edges)


def _conv2d_backward(
    dy: Tensor, x: Tensor, weight: Tensor, groups: int, wants: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    dx, dweight, dbias = torch.ops.aten.convolution_backward(
        dy, x, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], groups, wants
    )
    return dx, dweight, dbias


# --- Padding ----------------------------------------------------------------------------------------------------------


def _pad(x: Tensor, k: int, pad_mode: str) -> Tensor:
    return F.pad(x, (low_resolution_pad(k),) * 4, mode="constant" if pad_mode == "zero" else "replicate")


def _pad_backward(dpadded: Tensor, k: int, pad_mode: str, memory_format: torch.memory_format) -> Tensor:
    pad = low_resolution_pad(k)
    dx = dpadded[:, :, pad:-pad, pad:-pad].clone(memory_format=memory_format)
    if pad_mode == "zero":
        return dx
    for edge, beyond in ((slice(0, 1), slice(0, pad)), (slice(-1, None), slice(-pad, None))):
        # The corners belong to both axes. They are added with the rows.
        dx[:, :, edge] += _fold_columns(dpadded[:, :, beyond].sum(2, keepdim=True), pad)
        dx[..., edge] += dpadded[:, :, pad:-pad, beyond].sum(3, keepdim=True)
    return dx


def _fold_columns(dpadded: Tensor, pad: int) -> Tensor:
    """Return the gradient of a map whose columns were padded by replication."""
    dx = dpadded[..., pad:-pad].clone()
    dx[..., :1] += dpadded[..., :pad].sum(3, keepdim=True)
    dx[..., -1:] += dpadded[..., -pad:].sum(3, keepdim=True)
    return dx


# --- Differences between reflect and replicate padding ----------------------------------------------------------------


def _row_differences(x: Tensor, k: int) -> Tensor:
    """Return the differences of the first and the last rows, upsampled and padded along the columns.

    The shape is (N, 2 C, neighbors, 2 W + 2 (k // 2)).
    """
    differences = _edge_differences(x, edge_neighbors(k)).repeat_interleave(2, dim=3)
    return F.pad(differences, (k // 2, k // 2, 0, 0), mode="reflect")


def _add_row_differences_backward(dx: Tensor, ddifferences: Tensor, k: int) -> None:
    n, c, d, w = *ddifferences.shape[:3], dx.shape[3]
    like = ddifferences.new_empty(n, c, d, 2 * w)
    upsampled = torch.ops.aten.reflection_pad2d_backward(ddifferences, like, [k // 2, k // 2, 0, 0])
    _add_edge_differences_backward(dx, upsampled.reshape(n, c, d, w, 2).sum(4), d)


def _column_differences(padded: Tensor, k: int) -> Tensor:
    """Return the differences of the first and the last columns of the padded map, as rows.

    The shape is (N, 2 C, neighbors, H + 2 low_resolution_pad).
    """
    pad = low_resolution_pad(k)
    return _edge_differences(padded[..., pad:-pad].transpose(2, 3), edge_neighbors(k))


def _add_column_differences_backward(dx: Tensor, ddifferences: Tensor, k: int) -> None:
    _add_edge_differences_backward(
        dx.transpose(2, 3), _fold_columns(ddifferences, low_resolution_pad(k)), edge_neighbors(k)
    )


def _edge_differences(x: Tensor, neighbors: int) -> Tensor:
    """Return the rows next to the first row minus that row, and the same for the last row, (N, 2 C, neighbors, W)."""
    height = x.shape[2]
    first = x[:, :, 1 : 1 + neighbors] - x[:, :, :1]
    last = x[:, :, height - 1 - neighbors : height - 1] - x[:, :, height - 1 :]
    return torch.cat([first, last], dim=1)


def _add_edge_differences_backward(dx: Tensor, ddifferences: Tensor, neighbors: int) -> None:
    height = dx.shape[2]
    first, last = ddifferences.chunk(2, dim=1)
    dx[:, :, 1 : 1 + neighbors] += first
    dx[:, :, :1] -= first.sum(2, keepdim=True)
    dx[:, :, height - 1 - neighbors : height - 1] += last
    dx[:, :, height - 1 :] -= last.sum(2, keepdim=True)


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


class _Strips(NamedTuple):
    """Views of the outermost positions of the phases, of the first and of the last edge.

    Rows are (N, O, 2, W) each, columns (N, O, 2, H) each.
    """

    rows: list[list[Tensor]]
    columns: list[list[Tensor]]


def _strips_of(y: Tensor, width: int, phases_first: bool) -> _Strips:
    positions = _positions(y, phases_first)
    h, w = positions.shape[4:]
    first = [(i % 2, i // 2) for i in range(width)]
    last = [(i % 2, -((i + 1) // 2)) for i in range(width, 0, -1)]
    rows = [[positions[:, :, a, :, i % h] for a, i in edge] for edge in (first, last)]
    columns = [[positions[:, :, :, b, :, j % w] for b, j in edge] for edge in (first, last)]
    return _Strips(rows, columns)


def _add_to_rows(rows: list[list[Tensor]], y: Tensor) -> None:
    """Add y (N, 2 · O · border_width, 1, 2 W) to the rows."""
    y = y.squeeze(2).unflatten(2, (-1, 2)).unflatten(1, (2, -1, len(rows[0])))
    for edge, strips in enumerate(rows):
        for i, strip in enumerate(strips):
            strip += y[:, edge, :, i].transpose(2, 3)


def _rows_of(rows: list[list[Tensor]]) -> Tensor:
    """Return the gradient of y in `_add_to_rows`."""
    dy = torch.stack([torch.stack(strips, dim=2) for strips in rows], dim=1)
    return dy.transpose(4, 5).flatten(4).flatten(1, 3).unsqueeze(2)


def _add_to_columns(columns: list[list[Tensor]], y: Tensor, k: int) -> None:
    """Add y (N, 2 · O · 2 · border_width, 1, H) to the columns. It is one longer if the phases are shifted."""
    y = y.squeeze(2).unflatten(1, (2, -1, 2, len(columns[0])))
    for edge, strips in enumerate(columns):
        for j, strip in enumerate(strips):
            if shifted(k):
                strip[:, :, 0] += y[:, edge, :, 0, j, :-1]
                strip[:, :, 1] += y[:, edge, :, 1, j, 1:]
            else:
                strip += y[:, edge, :, :, j]


def _columns_of(columns: list[list[Tensor]], k: int) -> Tensor:
    """Return the gradient of y in `_add_to_columns`."""
    dy = torch.stack([torch.stack(strips, dim=3) for strips in columns], dim=1)
    if shifted(k):
        dy = torch.stack([F.pad(dy[:, :, :, 0], (0, 1)), F.pad(dy[:, :, :, 1], (1, 0))], dim=3)
    return dy.flatten(1, 4).unsqueeze(2)


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
