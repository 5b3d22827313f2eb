"""Weighted L1 terms in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def weighted_l1(inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Compute mean |input - target| of each pair, and the weighted sum of these means, as the public MUNIT code does.

    Args:
        inputs: K tensors of any shapes, in float16, bfloat16, float32 or float64.
        targets: K tensors, each with the shape of its input. Dtypes may differ.
        weights: K numbers.

    Returns:
        values (K,) and total (), in float32, or in float64 if any input or target is float64.
    """
    double = any(x.dtype == torch.float64 for x in (*inputs, *targets))
    dtype = torch.float64 if double else torch.float32
    values = [
        (_widen(input) - _widen(target)).abs().mean().to(dtype) for input, target in zip(inputs, targets, strict=True)
    ]
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * weight
    return torch.stack(values), total


def _widen(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
