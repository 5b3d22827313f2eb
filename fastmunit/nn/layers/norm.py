"""Normalization layers of the MUNIT family."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmunit import functional


class InstanceNorm2d(nn.Module):
    """Instance norm without parameters or running statistics: y = (x - mean) / sqrt(var + eps).

    mean and the biased var are taken over H and W of each sample and channel. x: (N, C, H, W) in any floating-point
    dtype; y has the same shape and dtype. Source: Ulyanov et al. 2016, equation 3.

    Raises:
        ValueError: If a map has a single pixel.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.instance_norm(x, eps=self.eps)[0]

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class AdaptiveInstanceNorm2d(nn.Module):
    """AdaIN: y = (x - mean) / sqrt(var + eps) * weight + bias, with weight and bias per sample and channel.

    x: (N, C, H, W); weight, bias: (N, C). Nothing is added to the weight. Source: Huang and Belongie 2017, equation 8;
    MUNIT paper, equation 7.

    The buffers running_mean and running_var are never read or written. Checkpoints of the public trainer contain them.

    Raises:
        ValueError: If a map has a single pixel.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.adain(x, weight, bias, eps=self.eps)[0]

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class LayerNorm(nn.Module):
    """MUNIT's layer norm: y = (x - mean) / (std + eps) * gamma + beta.

    mean and std are taken over C, H and W of each sample jointly. std is the unbiased standard deviation (n - 1), and
    eps is added to it, not to the variance. x: (N, C, ...); gamma, beta: (C,). gamma is initialized uniformly in
    [0, 1), beta with 0. Source: the public MUNIT implementation. It differs from group norm with one group.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.gamma = nn.Parameter(torch.rand(num_features))
        self.beta = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        maps = x if x.dim() == 4 else x.reshape(*x.shape[:2], -1, 1)
        return functional.layer_norm_munit(maps, self.gamma, self.beta, eps=self.eps)[0].view_as(x)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"
