"""Which implementation of `fused_norm` a measurement favors on a GPU: what "auto" follows before its fixed order.

`TABLE` has an entry for each class of maps that was measured with more than one implementation on one architecture. It
is empty: nobody has timed the native and the Triton kernels beside each other yet. To fill it, on a machine with the
GPU in question,

    python -m bench.on_gpu --out FOLDER --stages "native kernels" "triton kernels"
    python tools/fit_launch_table.py FOLDER/on_gpu.json

and copy the entries that the second command prints, each with the machine, the date, and both times in `source`. The
first entry that a map fits counts. What no entry covers, or names an implementation that cannot run here, is left to
the fixed order of `fastmunit.ops.availability`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.ops.layout import dense_format


class Choice(NamedTuple):
    """An implementation that a measurement favored.

    Attributes:
        capability: Compute capability of the GPU.
        function: "fused_norm".
        layout: "nchw" or "channels_last".
        dtype: "float32", "bfloat16" or "float16".
        statistics: "instance", "layer" or "none".
        min_values: Values of the smallest map that it holds for.
        max_values: Values of the largest one.
        implementation: "native" or "triton".
        source: The machine, the date, and the times.
    """

    capability: tuple[int, int]
    function: str
    layout: str
    dtype: str
    statistics: str
    min_values: int
    max_values: int
    implementation: str
    source: str


TABLE: tuple[Choice, ...] = ()

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_capabilities: dict[int, tuple[int, int]] = {}


def fused_norm_implementation(
    capability: tuple[int, int] | None,
    layout: str,
    dtype: str,
    statistics: str,
    values: int,
    table: Sequence[Choice] | None = None,
) -> str | None:
    """Return the implementation that was measured to be the fastest for such maps, or None where none was.

    Args:
        capability: Compute capability of the GPU; None where it is not known.
        layout: As in `Choice`, like the next two.
        dtype: Of x.
        statistics: Those of the op.
        values: How many values x has.
        table: Entries to look into; `TABLE` where it is None.
    """
    for choice in TABLE if table is None else table:
        wanted = (choice.capability, choice.function, choice.layout, choice.dtype, choice.statistics)
        if wanted == (capability, "fused_norm", layout, dtype, statistics) and (
            choice.min_values <= values <= choice.max_values
        ):
            return choice.implementation
    return None


def measured_choice(x: Tensor, statistics: str) -> str | None:
    """Return `fused_norm_implementation` for a call on x; None for any device but a CUDA device."""
    if not TABLE or x.device.type != "cuda" or x.dtype not in _DTYPES:
        return None
    layout = "channels_last" if dense_format(x) == torch.channels_last else "nchw"
    capability = _capability(-1 if x.device.index is None else x.device.index)
    return fused_norm_implementation(capability, layout, _DTYPES[x.dtype], statistics, x.numel())


def _capability(index: int) -> tuple[int, int] | None:
    """Return the compute capability of a device, -1 for the current one; None where there is no GPU.

    A device is asked once, which needs none of its work to end.
    """
    if index not in _capabilities:
        if not torch.cuda.is_available():
            return None  # of a fake tensor
        if index < 0:
            return _capability(torch.cuda.current_device())
        _capabilities[index] = torch.cuda.get_device_capability(index)
    return _capabilities[index]


# What torch.compiler.assume_constant_result does, which would import torch._dynamo with this package: a graph that is
# traced holds the result.
_capability._dynamo_marked_constant = True  # type: ignore[attr-defined]
