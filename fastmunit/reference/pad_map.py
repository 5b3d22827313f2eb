"""Padding of a map in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

_TORCH_MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}


def pad_map(x: Tensor, pad: int, pad_mode: str) -> Tensor:
    """Pad a map (N, C, H, W) by `pad` pixels on each side. `pad_mode` is "reflect", "replicate" or "zero"."""
    if x.numel() > 0:
        return F.pad(x, (pad,) * 4, mode=_TORCH_MODES[pad_mode])
    n, c, h, w = x.shape
    return x.reshape(n, c, h + 2 * pad, w + 2 * pad)  # torch does not pad a map without channels
