"""What autocast asks of an op, in a form that torch.compile traces in every torch from 2.10 on."""

from __future__ import annotations

import torch

# torch.compile of torch 2.10 and 2.11 cannot trace is_autocast_available.
_DEVICE_TYPES = frozenset(
    name for name in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla") if torch.amp.is_autocast_available(name)
)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype that products on `device_type` compute in under the present autocast; None where it is off."""
    if device_type in _DEVICE_TYPES and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None
