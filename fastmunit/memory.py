"""Whether an error says that memory has run out: torch has no single class for it."""

from __future__ import annotations

import torch

from fastmunit.errors import FastmunitError

_TEXTS = (
    "can't allocate memory",  # the allocator of the CPU
    "not enough memory: you tried to allocate",  # the same on Windows
    "out of memory",  # CUDA outside of its allocator, MPS
    "Cannot allocate memory",  # what the system says
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory has run out, of the CPU or of an accelerator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    known = isinstance(error, RuntimeError) and not isinstance(error, FastmunitError)
    return known and any(text in str(error) for text in _TEXTS)


def first_line(error: BaseException) -> str:
    """Return what an error says in one line, without the frames of C++ that torch adds."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
