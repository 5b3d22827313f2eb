"""Rows of a tile that fit into the caches of a processor."""

from __future__ import annotations

from torch import Tensor

_CPU_BYTES = 1 << 19
_GPU_BYTES = 1 << 26


def chunks_of(tile: Tensor) -> tuple[Tensor, ...]:
    """Split a tile (1, C, h, w) into views of some rows each, so that several operations in a row read the cache."""
    limit = _CPU_BYTES if tile.device.type == "cpu" else _GPU_BYTES
    row = max(1, tile.shape[1] * tile.shape[3] * tile.element_size())
    return tile.split(max(1, limit // row), dim=2)
