"""Instance norm and AdaIN in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.reference.scale_and_shift import scale_and_shift


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Compute (x - mean) / sqrt(var + eps) * weight + bias over H and W of each sample and channel, biased variance.

    This runs one training-mode batch norm over N·C channels, which reproduces the public MUNIT code to the last bit.

    Args:
        x: (N, C, H, W) with more than one pixel, in float16, bfloat16, float32 or float64.
        weight: None, (C,) or (N, C).
        bias: None, (C,) or (N, C).
        eps: Number added to the variance inside the square root.

    Returns:
        (N, C, H, W) in the dtype of x.
    """
    n, c, h, w = x.shape
    if x.numel() == 0:
        return scale_and_shift(x.clone(), weight, bias)
    if torch.compiler.is_exporting():  # as one node, which every runtime fuses
        # onnxruntime adds values one by one, which is exact enough around their mean. Without the first value, the mean
        # of a constant plane is exact, too, and the plane gives 0 as in torch.
        shifted = x - x[:, :, :1, :1]
        return scale_and_shift(F.instance_norm(shifted - shifted.mean((2, 3), keepdim=True), eps=eps), weight, bias)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale, shift = (None if p is None else p.to(wide).expand(n, c).reshape(-1) for p in (weight, bias))
    if scale is None and shift is not None:
        scale = torch.ones_like(shift)  # CUDA's backward of torch 2.11 fails on a bias without a weight
    # Three dimensions, not four: with four, torch 2.14 returns wrong gradients if N is 1 and one of x and the gradient
    # is in NCHW and the other in channels_last.
    flat = x.to(wide).reshape(1, n * c, h * w)
    if scale is not None and _makes_nan_of_infinity(scale):
        y = F.batch_norm(flat, None, None, training=True, momentum=0.1, eps=eps) * scale[:, None]
        y = y if shift is None else y + shift[:, None]
    else:
        y = F.batch_norm(flat, None, None, scale, shift, training=True, momentum=0.1, eps=eps)
    return y.view(n, c, h, w).to(x.dtype)


def _makes_nan_of_infinity(scale: Tensor) -> bool:
    """Return True if batch norm would subtract infinities: on a CPU it computes x · scale - mean · scale."""
    if scale.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if type(scale) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(scale):
        return False  # fake tensors and tensors under vmap have no readable values
    return bool(scale.isinf().any())
