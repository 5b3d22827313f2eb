"""Stage of larger batches: images per second and peak memory of our MUNIT iteration, by precision."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch

from bench.on_gpu import step
from bench.on_gpu.stage import Context, Row, Task, first_line
from fastmunit.memory import is_out_of_memory

BATCHES = (1, 2, 4, 8, 16)


class Arithmetic(NamedTuple):
    """The arithmetic of an iteration.

    Attributes:
        precision: Value of this key of the configuration.
        tf32: True if products of float32 values round them to TF32.
    """

    precision: str
    tf32: bool

    def __str__(self) -> str:
        if self.precision != "float32":
            return self.precision
        return f"float32, TF32 {'on' if self.tf32 else 'off'}"


ARITHMETICS = (Arithmetic("bfloat16", False), Arithmetic("float32", True), Arithmetic("float32", False))


def tasks(context: Context) -> Sequence[Task]:
    """Return a task for each precision, the fastest first, and each batch, the ends of the range first."""
    step.require_steps()
    order = BATCHES[:2] if context.dry_run else (BATCHES[0], BATCHES[-1], *BATCHES[1:-1])
    return [
        Task(f"{arithmetic}, batch {batch}", partial(_rows, context, arithmetic, batch))
        for arithmetic in ARITHMETICS
        for batch in order
    ]


def _rows(context: Context, arithmetic: Arithmetic, batch: int) -> Iterator[Row]:
    """Yield the images per second and the peak memory, or a row that says that the memory is too small."""
    settings: Row = {"precision": arithmetic.precision, "tf32": arithmetic.tf32, "batch": batch}
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arithmetic.tf32
    if not context.dry_run:
        torch.cuda.empty_cache()
    try:
        run = step.our_step(context, graph=True, precision=arithmetic.precision, batch=batch)
        row = step.timed(context, run)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        yield {**settings, "status": "out of memory", "reason": first_line(error)}
        return
    yield {**settings, "images_per_second": batch / row["ms"] * 1e3, **row}
