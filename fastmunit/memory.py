"""Recognition of out-of-memory errors, for which torch has no single class."""

from __future__ import annotations

import torch

from fastmunit.errors import FastmunitError

_TEXTS = (
    "can't allocate memory",  # the CPU allocator
    "not enough memory: you tried to allocate",  # the same on Windows
    "out of memory",  # CUDA outside torch's allocator, MPS
    "Cannot allocate memory",  # the operating system
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if `error` means that the CPU or an accelerator has run out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    known = isinstance(error, RuntimeError) and not isinstance(error, FastmunitError)
    return known and any(text in str(error) for text in _TEXTS)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the C++ frames that torch adds."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
