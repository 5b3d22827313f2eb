"""BicycleGAN's encoder of images to distributions of latent vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.nn.fused.chain import Chain, opened_weights, plan
from fastmunit.nn.fused.layers import AveragePool, Convolution
from fastmunit.nn.fused.steps import mode_of
from fastmunit.nn.layers.blocks import Conv2dBlock, linear, linear_weights, norm_and_activation
from fastmunit.nn.layers.norm import InstanceNorm2d

# Maximum number of channels, in multiples of those of the first layer.
_MAX_WIDTH = 4


class PooledResBlock(nn.Module):
    """Pre-activation residual block that halves the map: (N, in, H, W) to (N, out, H // 2, W // 2).

    Main path: norm, LeakyReLU, 3x3 convolution, norm, LeakyReLU, 3x3 convolution, 2x2 average pooling. Shortcut: 2x2
    average pooling, 1x1 convolution. The result is their sum. The norms are instance norms without parameters. Source:
    He et al. 2016 (identity mappings); Zhu et al. 2017 (BicycleGAN), section 4.
    """

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.norm = InstanceNorm2d(input_dim)
        self.activation = nn.LeakyReLU(0.2, inplace=True)
        self.conv1 = Conv2dBlock(input_dim, input_dim, 3, 1, 1, norm="in", activation="lrelu", pad_mode="zero")
        self.conv2 = nn.Conv2d(input_dim, output_dim, 3, 1, 1)
        self.shortcut = nn.Conv2d(input_dim, output_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        mode = mode_of(x)
        main, shortcut = self.chains()
        with opened_weights([main, shortcut], mode):
            return main.run(x, mode) + shortcut.run(F.avg_pool2d(x, 2), mode)

    def chains(self) -> tuple[Chain, Chain]:
        """Return the main path and the convolution of the shortcut."""
        layers = [
            *norm_and_activation(self.norm, self.activation),
            *self.conv1.layers(),
            Convolution(self.conv2),
            AveragePool(),
        ]
        return plan(layers), plan([Convolution(self.shortcut)])


class LatentEncoder(nn.Module):
    """Encoder of an image (N, input_dim, H, W) to mean and log variance of its latent vector, (N, latent_dim) each.

    A 4x4 convolution with stride 2, n_blocks residual blocks that halve the map, with dim, 2 dim, 3 dim, then 4 dim
    channels, LeakyReLU, mean over all pixels, two linear layers. Source: Zhu et al. 2017 (BicycleGAN), section 4.

    Args:
        input_dim: Channels of the images.
        latent_dim: Length of the latent vector.
        dim: Channels of the first layer.
        n_blocks: Number of residual blocks. Height and width of the images must be at least 2^(n_blocks + 1).

    Raises:
        ValueError: In forward, if the images are smaller.
    """

    def __init__(self, input_dim: int, latent_dim: int, dim: int = 64, n_blocks: int = 4) -> None:
        super().__init__()
        widths = [dim * min(level + 1, _MAX_WIDTH) for level in range(n_blocks + 1)]
        self.first = nn.Conv2d(input_dim, dim, 4, 2, 1)
        self.blocks = nn.ModuleList([PooledResBlock(before, after) for before, after in pairwise(widths)])
        self.mean = nn.Linear(widths[-1], latent_dim)
        self.log_variance = nn.Linear(widths[-1], latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        minimum = 2 ** (len(self.blocks) + 1)
        if height < minimum or width < minimum:
            raise ValueError(
                f"expected images of at least {minimum} × {minimum} for an encoder of {len(self.blocks)} blocks, got "
                f"{height} × {width}: pad or resize them."
            )
        mode, first = mode_of(images), plan([Convolution(self.first)])
        blocks = [cast(PooledResBlock, block) for block in self.blocks]
        chains = [first, *(chain for block in blocks for chain in block.chains())]
        with opened_weights(chains, mode, [*linear_weights(self.mean), *linear_weights(self.log_variance)]):
            x = first.run(images, mode)
            for block in blocks:
                x = block(x)
            features = F.leaky_relu(x, 0.2).mean(dim=(2, 3))
            return linear(self.mean, features), linear(self.log_variance, features)
