"""Autocast for inference beside a training in another thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def inference_autocast(device_type: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Run under autocast without touching the low-precision copies of weights that autocast keeps.

    torch keeps one set of them for all threads, and drops it whenever a thread leaves its outermost autocast block. A
    training in another thread would then cast its weights anew in the middle of an iteration, and sum gradients in
    another order. Here a level of nesting is added, so that no block inside is the outermost one, and nothing is kept.

    Args:
        device_type: Such as "cpu" or "cuda".
        dtype: What convolutions and matrix products compute in; None leaves autocast as it is around the block.
    """
    kept = torch.is_autocast_cache_enabled()
    torch.autocast_increment_nesting()
    torch.set_autocast_cache_enabled(False)
    try:
        with nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype, cache_enabled=False):
            yield
    finally:
        torch.set_autocast_cache_enabled(kept)
        torch.autocast_decrement_nesting()
