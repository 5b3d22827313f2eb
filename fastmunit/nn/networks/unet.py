"""The U-Net generator of pix2pix, BicycleGAN and CycleGAN."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.nn.fused.dead_bias import with_zero_gradients
from fastmunit.nn.fused.norm_act_pad import PaddedMap
from fastmunit.nn.layers.blocks import Conv2dBlock
from fastmunit.nn.layers.dropout import Dropout
from fastmunit.nn.layers.latent import append_latent
from fastmunit.nn.layers.upsampling import BilinearConv2dBlock, TransposedConv2dBlock

Injection = Literal["input", "all"]
Upsampling = Literal["transposed", "bilinear"]

# Channels grow up to this many times those of the first layer.
_WIDEST = 8

FEWEST_DOWNS_WITH_DROPOUT = 6
"""A shallower U-Net has no layer that dropout follows."""


class UNet(nn.Module):
    """Image (N, input_dim, H, W) to image (N, output_dim, H, W) in [-1, 1]; H and W multiples of 2^num_downs.

    num_downs 4x4 stride-2 convolutions, and as many upsampling layers, each of which but the innermost also reads the
    map of its size on the way down. Channels dim, 2 dim, 4 dim, then 8 dim. Leaky ReLU(0.2) on the way down, ReLU on
    the way up, instance norm without parameters after all but the first, the innermost and the last convolution.
    Dropout follows the upsampling layers between the innermost and the first of 8 dim channels. Source: Isola et al.
    2017, appendix 6.1.1; Zhu et al. 2017 (BicycleGAN), section 4.

    Args:
        input_dim: channels of the input image.
        output_dim: channels of the output image.
        dim: channels of the first layer.
        num_downs: stride-2 convolutions, at least 2.
        latent_dim: length of the vector z; 0 for a generator without.
        inject: where z is laid beside the channels: "input" the image alone, "all" the input of every convolution on
            the way down.
        upsample: "transposed" 4x4 stride-2 convolutions, or "bilinear" upsampling and 3x3 convolutions.
        dropout: its rate.
        dropout_at_test: keep dropout on in eval mode.

    Raises:
        ValueError: num_downs is less than 2.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        dim: int = 64,
        num_downs: int = 8,
        latent_dim: int = 0,
        inject: Injection = "input",
        upsample: Upsampling = "transposed",
        dropout: float = 0.0,
        dropout_at_test: bool = False,
    ) -> None:
        super().__init__()
        if num_downs < 2:
            raise ValueError(f"num_downs is {num_downs}; a U-Net has at least 2.")
        self.latent_dim = latent_dim
        self.inject = inject
        widths = [dim * min(2**level, _WIDEST) for level in range(num_downs)]
        last = num_downs - 1
        downs, ups, dropouts = [], [], []
        for level, width in enumerate(widths):
            outer = input_dim if level == 0 else widths[level - 1]
            extra = latent_dim if level == 0 or inject == "all" else 0
            norm, activation = ("none" if level in (0, last) else "in"), ("relu" if level == last else "lrelu")
            downs.append(Conv2dBlock(outer + extra, width, 4, 2, 1, norm, activation, "zero"))
            outer = output_dim if level == 0 else outer
            norm, activation = ("none", "tanh") if level == 0 else ("in", "relu")
            inner = width if level == last else 2 * width
            ups.append(
                TransposedConv2dBlock(inner, outer, 4, norm, activation)
                if upsample == "transposed"
                else BilinearConv2dBlock(inner, outer, norm, activation)
            )
            widest = 0 < level < last and outer == width == _WIDEST * dim
            dropouts.append(Dropout(dropout if widest else 0.0, dropout_at_test))
        self.downs = nn.ModuleList(downs)
        self.ups = nn.ModuleList(ups)
        self.dropouts = nn.ModuleList(dropouts)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Translate x (N, input_dim, H, W) with z (N, latent_dim), None where latent_dim is 0."""
        first = append_latent(x, z, self.latent_dim)
        current = PaddedMap(first, first)
        skips: list[PaddedMap] = []
        for level, block in enumerate(self.downs):
            if level and z is not None and self.inject == "all":
                current = _with_latent(current, z, self.latent_dim)
            current = cast(Conv2dBlock, block).run(current, None)
            skips.append(current)
        skips.pop()
        for up, dropout in zip(reversed(self.ups), reversed(self.dropouts), strict=True):
            current = cast(Dropout, dropout).run(cast(TransposedConv2dBlock, up).run(current, None))
            if skips:
                current = _joined(current, skips.pop())
        blocks = [cast(Conv2dBlock, block) for block in (*self.downs, *self.ups)]
        return with_zero_gradients(current.interior, [bias for b in blocks for bias in b.cancelled_biases(x)])


def _with_latent(x: PaddedMap, z: Tensor, latent_dim: int) -> PaddedMap:
    """The input of a convolution on the way down: x and z, both behind a leaky ReLU, which x is already."""
    z = F.leaky_relu(z, 0.2)
    joined = append_latent(x.interior, z, latent_dim)
    compute = x.recipe
    if compute is None:
        return PaddedMap(joined, joined)
    kept = z.detach()

    def recipe() -> Tensor:
        return append_latent(compute(), kept, latent_dim)

    return PaddedMap(joined, joined, recipe)


def _joined(x: PaddedMap, skip: PaddedMap) -> PaddedMap:
    """The input of an upsampling layer: x, and a ReLU of the map of its size on the way down."""
    rectified = F.relu(skip.interior)
    joined = torch.cat([x.interior, rectified], dim=1)
    compute = x.recipe
    if compute is None:
        return PaddedMap(joined, joined)
    kept = rectified.detach()  # which the ReLU keeps for its own backward

    def recipe() -> Tensor:
        return torch.cat([compute(), kept], dim=1)

    return PaddedMap(joined, joined, recipe)
