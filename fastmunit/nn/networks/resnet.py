"""The residual generator of CycleGAN."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fastmunit.config import Padding
from fastmunit.nn.fused.norm_act_pad import Pad, PaddedMap, pad_map
from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, ResBlock, run_blocks
from fastmunit.nn.layers.dropout import Dropout
from fastmunit.nn.layers.latent import append_latent
from fastmunit.nn.layers.upsampling import TransposedConv2dBlock


class DropoutResBlock(ResBlock):
    """`ResBlock` with instance norm, and dropout between its two convolutions."""

    def __init__(self, dim: int, pad_type: str, dropout: float, dropout_at_test: bool) -> None:
        super().__init__(dim, norm="in", activation="relu", pad_type=pad_type)
        self.dropout = Dropout(dropout, dropout_at_test)

    def run(self, x: PaddedMap, adain: AdaINParameters | None, pad: Pad | None = None) -> PaddedMap:
        """Run on a map that has this block's pad, and write the result with the pad of the next one."""
        if not self.dropout.active:
            return super().run(x, adain, pad)
        first, second = (cast(Conv2dBlock, layer) for layer in self.model)
        hidden = self.dropout(first.run(x, adain).interior)
        return second.run(pad_map(hidden, second.pad), adain, pad, residual=x.interior)


class ResNetGenerator(nn.Module):
    """Image (N, input_dim, H, W) to image (N, output_dim, H, W) in [-1, 1]; H and W multiples of 2^n_downsample.

    A 7x7 convolution, n_downsample 3x3 stride-2 convolutions that double the channels, n_res residual blocks,
    n_downsample 3x3 stride-2 transposed convolutions that halve them, a 7x7 convolution and tanh. Instance norm
    without parameters and ReLU after all but the last. Source: Zhu et al. 2017 (CycleGAN), section 7.2; Johnson et al.
    2016.

    Args:
        input_dim: channels of the input image.
        output_dim: channels of the output image.
        dim: channels of the first layer.
        n_downsample: stride-2 convolutions.
        n_res: residual blocks.
        latent_dim: length of the noise z that is laid beside the image's channels; 0 for a generator without.
        pad_type: of the 7x7 convolutions and the residual blocks; the others see zeros.
        dropout: rate inside the residual blocks.
        dropout_at_test: keep dropout on in eval mode.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        dim: int = 64,
        n_downsample: int = 2,
        n_res: int = 9,
        latent_dim: int = 0,
        pad_type: Padding = "reflect",
        dropout: float = 0.0,
        dropout_at_test: bool = False,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        layers: list[nn.Module] = [Conv2dBlock(input_dim + latent_dim, dim, 7, 1, 3, norm="in", pad_type=pad_type)]
        for _ in range(n_downsample):
            layers.append(Conv2dBlock(dim, 2 * dim, 3, 2, 1, norm="in", pad_type="zero"))
            dim *= 2
        layers += [DropoutResBlock(dim, pad_type, dropout, dropout_at_test) for _ in range(n_res)]
        for _ in range(n_downsample):
            layers.append(TransposedConv2dBlock(dim, dim // 2, 3))
            dim //= 2
        layers.append(Conv2dBlock(dim, output_dim, 7, 1, 3, activation="tanh", pad_type=pad_type))
        self.model = nn.ModuleList(layers)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Translate x (N, input_dim, H, W); z is (N, latent_dim), None where latent_dim is 0."""
        x = append_latent(x, z, self.latent_dim)
        return run_blocks([*self.model], x).interior
