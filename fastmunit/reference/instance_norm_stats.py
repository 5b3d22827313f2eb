"""Instance norm statistics in plain PyTorch."""

import torch
from torch import Tensor


def instance_norm_stats(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Compute the mean and the reciprocal standard deviation of each (sample, channel) plane.

    mean = E[x] and rstd = 1 / sqrt(E[(x - mean)²] + eps) over H and W (biased variance), as in instance norm (Ulyanov
    et al., 2016, https://arxiv.org/abs/1607.08022, equation 5).

    Args:
        x: (N, C, H, W) in float16, bfloat16, float32 or float64.
        eps: Number added to the variance inside the square root.

    Returns:
        mean and rstd, each (N, C), in float32, or in float64 if x is float64.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    if x.numel() == 0:  # torch warns about the variance of an empty tensor
        mean = x.mean((2, 3))
        return mean, torch.rsqrt(mean.square() + eps)
    var, mean = torch.var_mean(x, dim=(2, 3), correction=0)
    return mean, torch.rsqrt(var + eps)
