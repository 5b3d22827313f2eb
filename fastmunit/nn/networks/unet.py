"""The U-Net generator of pix2pix, BicycleGAN and CycleGAN."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.functional.recompute import RecomputableMap
from fastmunit.nn.fused.chain import opened_weights
from fastmunit.nn.fused.steps import State, mode_of
from fastmunit.nn.fused.weight_forms import as_product
from fastmunit.nn.layers.blocks import Conv2dBlock, append_latent, chain_of
from fastmunit.nn.layers.dropout import Dropout
from fastmunit.nn.layers.upsampling import BilinearConv2dBlock, TransposedConv2dBlock

Injection = Literal["input", "all"]
Upsampling = Literal["transposed", "bilinear"]

# Maximum number of channels, in multiples of those of the first layer.
_MAX_WIDTH = 8

MIN_DOWNS_WITH_DROPOUT = 6
"""A U-Net with fewer levels has no layer that is followed by dropout."""


class UNet(nn.Module):
    """Generator of images (N, output_dim, H, W) in [-1, 1] from images (N, input_dim, H, W), with skip connections.

    num_downs 4x4 convolutions with stride 2, and as many upsampling layers. Each upsampling layer except the innermost
    also reads the map of its size on the way down. The channels are dim, 2 dim, 4 dim, then 8 dim. LeakyReLU(0.2) is
    used on the way down, ReLU on the way up. Instance norm without parameters follows all convolutions except the
    first, the innermost and the last. Dropout follows the upsampling layers between the innermost and the first with 8
    dim channels. H and W must be multiples of 2^num_downs. Source: Isola et al. 2017, appendix 6.1.1; Zhu et al. 2017
    (BicycleGAN), section 4.

    Args:
        input_dim: Channels of the input image.
        output_dim: Channels of the output image.
        dim: Channels of the first layer.
        num_downs: Number of convolutions with stride 2, at least 2.
        latent_dim: Length of the latent vector z; 0 for none.
        inject: Concatenate z to the channels of the image only ("input"), or to the input of every convolution on the
            way down ("all").
        upsample: Upsample by "transposed" 4x4 convolutions with stride 2, or by "bilinear" interpolation and 3x3
            convolutions.
        dropout: Dropout rate.
        dropout_at_test: Keep dropout active in eval mode.

    Raises:
        ValueError: If num_downs is less than 2.
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
            raise ValueError(f"expected num_downs to be at least 2, got {num_downs}.")
        self.latent_dim = latent_dim
        self.inject = inject
        widths = [dim * min(2**level, _MAX_WIDTH) for level in range(num_downs)]
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
            widest = 0 < level < last and outer == width == _MAX_WIDTH * dim
            dropouts.append(Dropout(dropout if widest else 0.0, dropout_at_test))
        self.downs = nn.ModuleList(downs)
        self.ups = nn.ModuleList(ups)
        self.dropouts = nn.ModuleList(dropouts)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Translate x (N, input_dim, H, W) with z (N, latent_dim), which is None if latent_dim is 0."""
        first = append_latent(as_product(x), z, self.latent_dim)
        state = State(RecomputableMap(first, first, None), mode_of(first))
        downs = [chain_of([block]) for block in self.downs]
        ups = [chain_of([up, *_active(dropout)]) for up, dropout in zip(self.ups, self.dropouts, strict=True)]
        latents = _rectified(z, len(downs) - 1, first.dtype) if z is not None and self.inject == "all" else None
        skips: list[RecomputableMap] = []
        with opened_weights([*downs, *ups], state.mode):
            for level, down in enumerate(downs):
                if level and latents is not None:
                    state.map = _with_latent(state.map, latents[level - 1], self.latent_dim)
                down.advance(state)
                skips.append(state.map)
            skips.pop()
            for up in reversed(ups):
                up.advance(state)
                if skips:
                    state.map = _joined(state.map, skips.pop())
            return state.result()


def _active(dropout: nn.Module) -> list[nn.Module]:
    """Return a list of the dropout layer if it draws masks, else an empty list, so that ops are fused."""
    return [dropout] if cast(Dropout, dropout).active else []


def _rectified(z: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return LeakyReLU of z `count` times. Their gradients are added in the dtype of z."""
    z = F.leaky_relu(z, 0.2)
    return z.expand(count, *z.shape).to(dtype).unbind()


def _with_latent(x: RecomputableMap, z: Tensor, latent_dim: int) -> RecomputableMap:
    """Return the input of a downsampling convolution: x and z, both after LeakyReLU."""
    joined = append_latent(x.interior, z, latent_dim)
    recompute_x = x.recompute
    if recompute_x is None:
        return RecomputableMap(joined, joined, None)
    saved = z.detach()
    return RecomputableMap(joined, joined, lambda: append_latent(recompute_x(), saved, latent_dim))


def _joined(x: RecomputableMap, skip: RecomputableMap) -> RecomputableMap:
    """Return the input of an upsampling layer: x, and the ReLU of the map of the same size on the way down."""
    rectified = F.relu(skip.interior)
    joined = torch.cat([x.interior, rectified], dim=1)
    recompute_x = x.recompute
    if recompute_x is None:
        return RecomputableMap(joined, joined, None)
    saved = rectified.detach()  # stored for the backward of the ReLU in any case
    return RecomputableMap(joined, joined, lambda: torch.cat([recompute_x(), saved], dim=1))
