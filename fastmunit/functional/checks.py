"""Checks of tensors that several public functions share."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_map(function: str, x: Tensor) -> None:
    """Raise ValueError or TypeError unless x is a floating-point map (N, C, H, W) with at least one pixel."""
    if x.dim() != 4:
        raise ValueError(f"{function}: expected x of shape (N, C, H, W), got {tuple(x.shape)}")
    check_dtype(function, "x", x)
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"{function}: expected x with at least one pixel, got shape {tuple(x.shape)}")


def check_dtype(function: str, name: str, tensor: Tensor) -> None:
    """Raise TypeError unless a tensor has one of the four supported dtypes."""
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{function}: expected {name} in float32, bfloat16, float16 or float64, got {tensor.dtype}")
