"""BicycleGAN's encoder of images to a distribution of latent vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.functional.recompute import replace_saved
from fastmunit.nn.fused.dead_bias import with_zero_gradients
from fastmunit.nn.fused.norm_act_pad import normalise
from fastmunit.nn.layers.blocks import Conv2dBlock
from fastmunit.nn.layers.norm import InstanceNorm2d

# Channels grow up to this many times those of the first layer.
_WIDEST = 4


class PooledResBlock(nn.Module):
    """Pre-activated residual block that halves the map: (N, in, H, W) to (N, out, H // 2, W // 2).

    norm, leaky ReLU, 3x3 convolution, norm, leaky ReLU, 3x3 convolution, mean over 2x2 pixels; beside it the mean over
    2x2 pixels and a 1x1 convolution; their sum. Instance norm without parameters. Source: He et al. 2016 (identity
    mappings); Zhu et al. 2017 (BicycleGAN), section 4.
    """

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.norm = InstanceNorm2d(input_dim)
        self.activation = nn.LeakyReLU(0.2, inplace=True)
        self.conv1 = Conv2dBlock(input_dim, input_dim, 3, 1, 1, norm="in", activation="lrelu", pad_type="zero")
        self.conv2 = nn.Conv2d(input_dim, output_dim, 3, 1, 1)
        self.shortcut = nn.Conv2d(input_dim, output_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = normalise(x, self.norm, self.activation)
        hidden = self.conv1.run(hidden, None)
        with replace_saved(hidden.padded, with_=hidden.recipe):
            y = _convolve_and_average(hidden.padded, self.conv2)
        y = with_zero_gradients(y, self.conv1.cancelled_biases(x))
        return y + self.shortcut(F.avg_pool2d(x, 2))


class LatentEncoder(nn.Module):
    """Image (N, input_dim, H, W) to mean and logarithm of the variance of its latent vector, (N, latent_dim) each.

    A 4x4 stride-2 convolution, n_blocks residual blocks that halve the map, with dim, 2 dim, 3 dim, then 4 dim
    channels, leaky ReLU, mean over all pixels, two linear layers. Source: Zhu et al. 2017 (BicycleGAN), section 4.

    Args:
        input_dim: channels of the images.
        latent_dim: length of the latent vector.
        dim: channels of the first layer.
        n_blocks: residual blocks; images need 2^(n_blocks + 1) pixels a side.
    """

    def __init__(self, input_dim: int, latent_dim: int, dim: int = 64, n_blocks: int = 4) -> None:
        super().__init__()
        widths = [dim * min(level + 1, _WIDEST) for level in range(n_blocks + 1)]
        self.first = nn.Conv2d(input_dim, dim, 4, 2, 1)
        self.blocks = nn.ModuleList([PooledResBlock(before, after) for before, after in pairwise(widths)])
        self.mean = nn.Linear(widths[-1], latent_dim)
        self.log_variance = nn.Linear(widths[-1], latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(images)
        for block in self.blocks:
            x = cast(PooledResBlock, block)(x)
        features = F.leaky_relu(x, 0.2).mean(dim=(2, 3))
        return self.mean(features), self.log_variance(features)


def _convolve_and_average(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """avg_pool2d(conv(x), 2). Off the reference path as one 4x4 convolution of stride 2: 16 products instead of 36.

    A mean over 2x2 results of a 3x3 kernel is the result of the kernel's mean over the same four positions.
    """
    if functional.exact_order():
        return F.avg_pool2d(conv(x), 2)
    weight = F.avg_pool2d(F.pad(conv.weight, (1, 1, 1, 1)), 2, stride=1)
    return F.conv2d(x, weight, conv.bias, stride=2, padding=1)
