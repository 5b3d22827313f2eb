"""The residual generator of CycleGAN."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fastmunit.config import Padding
from fastmunit.nn.fused.layers import Layer, ResidualEnd, ResidualStart
from fastmunit.nn.layers.blocks import AdaINParameters, Block, Conv2dBlock, ResBlock, append_latent, chain_of
from fastmunit.nn.layers.dropout import Dropout
from fastmunit.nn.layers.upsampling import TransposedConv2dBlock


class DropoutResBlock(ResBlock):
    """`ResBlock` with instance norm, and dropout between its two convolutions."""

    def __init__(self, dim: int, pad_mode: str, dropout: float, dropout_at_test: bool) -> None:
        super().__init__(dim, norm="in", activation="relu", pad_mode=pad_mode)
        self.dropout = Dropout(dropout, dropout_at_test)

    def layers(self, adain: AdaINParameters | None = None) -> list[Layer]:
        first, second = (cast(Block, block).layers(adain) for block in self.model)
        return [ResidualStart(), *first, *self.dropout.layers(), *second, ResidualEnd()]


class ResNetGenerator(nn.Module):
    """Generator of images (N, output_dim, H, W) in [-1, 1] from images (N, input_dim, H, W).

    A 7x7 convolution, n_downsample 3x3 convolutions with stride 2 that double the channels, n_res residual blocks,
    n_downsample 3x3 transposed convolutions with stride 2 that halve the channels, a 7x7 convolution and tanh. All but
    the last convolution are followed by instance norm without parameters and ReLU. H and W must be multiples of
    2^n_downsample. Source: Zhu et al. 2017 (CycleGAN), section 7.2; Johnson et al. 2016.

    Args:
        input_dim: Channels of the input image.
        output_dim: Channels of the output image.
        dim: Channels of the first layer.
        n_downsample: Number of convolutions with stride 2.
        n_res: Number of residual blocks.
        latent_dim: Length of the noise vector z that is concatenated to the image's channels; 0 for none.
        pad_mode: Fill mode of the padding of 7x7 convolutions and residual blocks. The others pad with zeros.
        dropout: Dropout rate inside the residual blocks.
        dropout_at_test: Keep dropout active in eval mode.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        dim: int = 64,
        n_downsample: int = 2,
        n_res: int = 9,
        latent_dim: int = 0,
        pad_mode: Padding = "reflect",
        dropout: float = 0.0,
        dropout_at_test: bool = False,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        layers: list[nn.Module] = [Conv2dBlock(input_dim + latent_dim, dim, 7, 1, 3, norm="in", pad_mode=pad_mode)]
        for _ in range(n_downsample):
            layers.append(Conv2dBlock(dim, 2 * dim, 3, 2, 1, norm="in", pad_mode="zero"))
            dim *= 2
        layers += [DropoutResBlock(dim, pad_mode, dropout, dropout_at_test) for _ in range(n_res)]
        for _ in range(n_downsample):
            layers.append(TransposedConv2dBlock(dim, dim // 2, 3))
            dim //= 2
        layers.append(Conv2dBlock(dim, output_dim, 7, 1, 3, activation="tanh", pad_mode=pad_mode))
        self.model = nn.ModuleList(layers)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Translate x (N, input_dim, H, W) with z (N, latent_dim), which is None if latent_dim is 0."""
        x = append_latent(x, z, self.latent_dim)
        return chain_of(self.model).run(x)
