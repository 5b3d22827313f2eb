"""Autocast for inference during a training in another thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def inference_autocast(device_type: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Run under autocast without changing autocast's cache of low-precision weights.

    torch has one such cache for all threads, and clears it whenever a thread leaves its outermost autocast block. A
    training in another thread would then cast its weights again in the middle of an iteration, and sum gradients in
    another order. This context adds a level of nesting, so that no block inside is the outermost one, and does not use
    the cache.

    Args:
        device_type: Device type, such as "cpu" or "cuda".
        dtype: Dtype of convolutions and matrix products. None leaves autocast as it is outside the block.
    """
    enabled = torch.is_autocast_cache_enabled()
    torch.autocast_increment_nesting()
    torch.set_autocast_cache_enabled(False)
    try:
        with nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype, cache_enabled=False):
            yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
        torch.autocast_decrement_nesting()
