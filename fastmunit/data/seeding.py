"""Random streams named by their purpose and numbers, apart from torch's global one."""

from __future__ import annotations

import hashlib

import torch


def named_generator(purpose: str, *numbers: int) -> torch.Generator:
    """A generator that depends on its name alone: not on the process, the platform or earlier draws."""
    digest = hashlib.sha256(repr((purpose, *numbers)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
