"""Errors of torch about memory and dead processes, turned into errors that name a fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fastmunit.data.workers import explain_failure
from fastmunit.errors import TrainingError
from fastmunit.memory import first_line, is_out_of_memory

_LESS_MEMORY = (
    "Lower batch_size, or crop_image_height and crop_image_width (and new_size); or keep them and set "
    "checkpointing=true (the same step, slower) or, if batch_size is 2 or more, micro_batches=2 or more (the same step "
    "in parts), each with --set KEY=VALUE."
)


@contextmanager
def explained(device: torch.device, note: Callable[[], str]) -> Iterator[None]:
    """Turn torch's errors that a user can fix into errors of fastmunit, inside the context.

    Args:
        device: Device of the training.
        note: Function that returns a sentence about the checkpoint that is kept.

    Raises:
        TrainingError: If memory runs out.
        DataError: If a process that loads images dies. torch raises that error at any place in the main thread.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise TrainingError(
                f"there is too little memory on device {device} ({first_line(error)}). {note()} {_LESS_MEMORY}"
            ) from error
        died = explain_failure(error)
        if died is None:
            raise
        raise type(died)(f"{died} {note()}") from error
