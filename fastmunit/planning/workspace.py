"""Memory that torch's convolutions take besides their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default


def on_cpu(op: Callable[..., Any], args: Sequence[Any], result: Any) -> int:
    """Return the bytes that oneDNN, torch's library of convolutions on a CPU, allocates during a call.

    oneDNN reads and writes contiguous maps in blocks of channels, so it copies them: forward the larger one of input
    and result; backward the input and the gradient of the result, for the gradient of the weight. In channels_last it
    copies nothing, except that weight gradients in low precision transpose a part of both maps. (Measured call by call
    as the growth of the process, with torch 2.14.)

    Args:
        op: The op.
        args: Its arguments.
        result: Its result.
    """
    if op is _FORWARD:
        maps = (args[0], result)
    elif op is _BACKWARD:
        maps = (args[0], args[1])
    else:
        return 0
    sizes = [_bytes(tensor) for tensor in maps]
    if any(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in maps):
        low_precision = maps[0].element_size() < 4
        return sum(sizes) // 4 if op is _BACKWARD and low_precision else 0
    return max(sizes) if op is _FORWARD else sum(sizes)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
