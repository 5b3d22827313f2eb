"""Measured choice of the implementation of `fused_norm` on a GPU, which "auto" consults before its fixed order.

`TABLE` has an entry for each class of maps that was measured with more than one implementation on one architecture. It
is empty, because the native and the Triton kernels have not been timed against each other yet. To fill it, run on a
machine with the GPU

    python -m bench.on_gpu --out FOLDER --stages "native kernels" "triton kernels"
    python -m tools.fit_launch_table FOLDER/on_gpu.json

and copy the entries that the second command prints, each with the machine, the date and both times in `source`. The
first matching entry decides. If no entry matches, or if its implementation cannot run, the fixed order of
`fastmunit.ops.availability` decides.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.ops.layout import dense_format


class Choice(NamedTuple):
    """The fastest implementation of a measurement.

    Attributes:
        capability: Compute capability of the GPU.
        function: "fused_norm".
        layout: "nchw" or "channels_last".
        dtype: "float32", "bfloat16" or "float16".
        statistics: "instance", "layer" or "none".
        min_values: Number of values of the smallest map that the entry covers.
        max_values: Number of values of the largest map that the entry covers.
        implementation: "native" or "triton".
        source: Machine, date and times.
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
    """Return the implementation that was measured to be the fastest for such maps, or None without a measurement.

    Args:
        capability: Compute capability of the GPU, or None if it is unknown.
        layout: "nchw" or "channels_last".
        dtype: "float32", "bfloat16" or "float16".
        statistics: "instance", "layer" or "none".
        values: Number of values of x.
        table: Entries to search. The default is `TABLE`.
    """
    for choice in TABLE if table is None else table:
        entry = (choice.capability, choice.function, choice.layout, choice.dtype, choice.statistics)
        if entry == (capability, "fused_norm", layout, dtype, statistics) and (
            choice.min_values <= values <= choice.max_values
        ):
            return choice.implementation
    return None


def measured_choice(x: Tensor, statistics: str) -> str | None:
    """Return `fused_norm_implementation` for a call on x, or None if x is not on a CUDA device."""
    if not TABLE or x.device.type != "cuda" or x.dtype not in _DTYPES:
        return None
    layout = "channels_last" if dense_format(x) == torch.channels_last else "nchw"
    capability = _capability(-1 if x.device.index is None else x.device.index)
    return fused_norm_implementation(capability, layout, _DTYPES[x.dtype], statistics, x.numel())


def _capability(index: int) -> tuple[int, int] | None:
    """Return the compute capability of a device (-1 for the current one), or None if there is no GPU.

    Each device is queried once. The query does not synchronize.
    """
    if index not in _capabilities:
        if not torch.cuda.is_available():
            return None  # x is a fake tensor
        if index < 0:
            return _capability(torch.cuda.current_device())
        _capabilities[index] = torch.cuda.get_device_capability(index)
    return _capabilities[index]


# This makes a traced graph hold the result as a constant. torch.compiler.assume_constant_result does the same, but it
# would import torch._dynamo with this package.
_capability._dynamo_marked_constant = True  # type: ignore[attr-defined]
