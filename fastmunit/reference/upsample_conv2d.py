"""Nearest upsampling, padding and convolution in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

from fastmunit.reference.pad_map import pad_map


def upsample_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, pad_mode: str = "reflect", unshuffled: bool = False
) -> Tensor:
    """Upsample by 2 (nearest), pad by k // 2 and apply a k x k convolution, op for op as the public MUNIT code does.

    Args:
        x: (N, C, H, W) in float16, bfloat16, float32 or float64.
        weight: (O, C, k, k) with odd k.
        bias: None or (O,).
        pad_mode: "reflect", "replicate" or "zero".
        unshuffled: Return the result pixel-unshuffled.

    Returns:
        (N, O, 2 H, 2 W) in the dtype of x, or (N, 4 O, H, W) if `unshuffled`.
    """
    upsampled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    y = F.conv2d(pad_map(upsampled, weight.shape[-1] // 2, pad_mode), weight, bias)
    if not unshuffled:
        return y
    if len(x) == 0:  # torch's pixel_unshuffle would shuffle it instead
        return y.reshape(0, 4 * len(weight), *x.shape[2:])
    return F.pixel_unshuffle(y, 2)
