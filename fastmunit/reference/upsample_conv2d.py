"""Nearest upsampling, padding and convolution in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

_PAD_MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}


def upsample_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, pad_mode: str = "reflect", unshuffled: bool = False
) -> Tensor:
    """Nearest upsampling by 2, padding by k // 2 and a k x k convolution, op for op as the public MUNIT code has it.

    Args:
        x: (N, C, H, W), float16, bfloat16, float32 or float64.
        weight: (O, C, k, k), k odd.
        bias: (O,) or absent.
        pad_mode: "reflect", "replicate" or "zero".
        unshuffled: Whether to pixel-unshuffle the result.

    Returns:
        (N, O, 2 H, 2 W) in the dtype of x, or (N, 4 O, H, W) where unshuffled.
    """
    upsampled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    padded = F.pad(upsampled, (weight.shape[-1] // 2,) * 4, mode=_PAD_MODES[pad_mode])
    y = F.conv2d(padded, weight, bias)
    if not unshuffled:
        return y
    if len(x) == 0:  # torch would shuffle it instead
        return y.reshape(0, 4 * len(weight), *x.shape[2:])
    return F.pixel_unshuffle(y, 2)
