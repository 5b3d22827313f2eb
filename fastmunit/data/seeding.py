"""Random generators identified by a purpose and numbers, independent of torch's global generator."""

from __future__ import annotations

import hashlib

import torch


def named_generator(purpose: str, *numbers: int) -> torch.Generator:
    """Return a generator that depends only on the arguments, not on the process, the platform or earlier draws."""
    digest = hashlib.sha256(repr((purpose, *numbers)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
