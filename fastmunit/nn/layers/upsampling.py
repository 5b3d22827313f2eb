"""Upsampling blocks of the CycleGAN and BicycleGAN generators: twice the size, norm, activation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.functional.recompute import replace_saved
from fastmunit.nn.fused.dead_bias import with_zero_gradients
from fastmunit.nn.fused.norm_act_pad import Pad, PaddedMap, normalise, pad_map
from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, is_plain, make_activation
from fastmunit.nn.layers.norm import InstanceNorm2d


class TransposedConv2dBlock(nn.Module):
    """Transposed convolution of stride 2 with bias, norm, activation: (N, in, H, W) to (N, out, 2 H, 2 W).

    Args:
        input_dim: channels of the input.
        output_dim: channels of the output.
        kernel_size: 3 or 4.
        norm: "in" or "none".
        activation: as `make_activation` takes it.
    """

    def __init__(
        self, input_dim: int, output_dim: int, kernel_size: int, norm: str = "in", activation: str = "relu"
    ) -> None:
        super().__init__()
        if norm not in ("in", "none"):
            raise ValueError(f"unknown norm {norm!r}: use in or none.")
        self.pad = Pad()
        self.norm = InstanceNorm2d(output_dim) if norm == "in" else None
        self.activation = make_activation(activation)
        self.conv = nn.ConvTranspose2d(
            input_dim, output_dim, kernel_size, stride=2, padding=1, output_padding=kernel_size % 2
        )

    def forward(self, x: Tensor) -> Tensor:
        return with_zero_gradients(self.run(PaddedMap(x, x), None).interior, self.cancelled_biases(x))

    def run(self, x: PaddedMap, adain: AdaINParameters | None, pad: Pad | None = None) -> PaddedMap:
        """Run on a map without pad, and write the result with the pad of the next block."""
        conv = self.conv
        with replace_saved(x.padded, with_=x.recipe):
            if self.cancelled_biases(x.padded):
                y = F.conv_transpose2d(x.padded, conv.weight, None, 2, 1, conv.output_padding)
            else:
                y = conv(x.padded)
        return normalise(y, self.norm, self.activation, pad=pad)

    def cancelled_biases(self, x: Tensor) -> list[Tensor]:
        """The convolution's bias where `run` on x leaves it out, as the norm would cancel it."""
        if self.norm is None or self.conv.bias is None or not is_plain(self.conv, nn.ConvTranspose2d):
            return []
        return [] if functional.implementation_of("fused_norm", x) == "reference" else [self.conv.bias]


class BilinearConv2dBlock(Conv2dBlock):
    """Bilinear upsampling by 2, reflection pad of 1, 3x3 convolution, norm, activation."""

    def __init__(self, input_dim: int, output_dim: int, norm: str = "in", activation: str = "relu") -> None:
        super().__init__(input_dim, output_dim, 3, 1, 1, norm=norm, activation=activation, pad_type="reflect")
        self._pad_inside, self.pad = self.pad, Pad()

    def run(
        self, x: PaddedMap, adain: AdaINParameters | None, pad: Pad | None = None, residual: Tensor | None = None
    ) -> PaddedMap:
        """Run on a map without pad, and write the result with the pad of the next block."""
        upsampled = F.interpolate(x.padded, scale_factor=2, mode="bilinear", align_corners=False)
        return super().run(pad_map(upsampled, self._pad_inside), adain, pad, residual)
