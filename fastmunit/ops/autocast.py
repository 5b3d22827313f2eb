"""The dtype of the active autocast, in a form that torch.compile can trace with torch 2.10 and later."""

from __future__ import annotations

import torch

# torch.compile of torch 2.10 and 2.11 cannot trace is_autocast_available.
_DEVICE_TYPES = frozenset(
    name for name in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla") if torch.amp.is_autocast_available(name)
)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype of products on `device_type` under the active autocast, or None if it is off."""
    if device_type in _DEVICE_TYPES and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None
