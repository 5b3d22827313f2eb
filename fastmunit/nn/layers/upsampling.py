"""Upsampling blocks of the CycleGAN and BicycleGAN generators: upsampling by 2, norm, activation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.nn.fused.layers import Convolution, Layer, Other
from fastmunit.nn.layers.blocks import AdaINParameters, Block, Conv2dBlock, make_activation, norm_and_activation
from fastmunit.nn.layers.norm import InstanceNorm2d


class TransposedConv2dBlock(Block):
    """Transposed convolution with stride 2 and bias, norm, activation: (N, in, H, W) to (N, out, 2 H, 2 W).

    Args:
        input_dim: Channels of the input.
        output_dim: Channels of the output.
        kernel_size: 3 or 4.
        norm: "in" or "none".
        activation: A name that `make_activation` accepts.

    Raises:
        ValueError: If a name is unknown.
    """

    def __init__(
        self, input_dim: int, output_dim: int, kernel_size: int, norm: str = "in", activation: str = "relu"
    ) -> None:
        super().__init__()
        if norm not in ("in", "none"):
            raise ValueError(f"unknown norm {norm!r}: use in or none.")
        self.norm = InstanceNorm2d(output_dim) if norm == "in" else None
        self.activation = make_activation(activation)
        self.conv = nn.ConvTranspose2d(
            input_dim, output_dim, kernel_size, stride=2, padding=1, output_padding=kernel_size % 2
        )

    def layers(self, adain: AdaINParameters | None = None) -> list[Layer]:
        return [Convolution(self.conv), *norm_and_activation(self.norm, self.activation)]


class BilinearConv2dBlock(Conv2dBlock):
    """Bilinear upsampling by 2, reflection padding of 1, 3x3 convolution, norm, activation."""

    def __init__(self, input_dim: int, output_dim: int, norm: str = "in", activation: str = "relu") -> None:
        super().__init__(input_dim, output_dim, 3, 1, 1, norm=norm, activation=activation, pad_mode="reflect")

    def layers(self, adain: AdaINParameters | None = None) -> list[Layer]:
        return [Other(upsample_bilinear), *super().layers(adain)]


def upsample_bilinear(x: Tensor) -> Tensor:
    """Upsample a map (N, C, H, W) by 2 with bilinear interpolation between the centers of pixels."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
