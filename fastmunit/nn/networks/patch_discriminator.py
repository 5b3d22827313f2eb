"""PatchGAN discriminators of pix2pix, CycleGAN and BicycleGAN."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fastmunit.config import DiscriminatorConfig
from fastmunit.nn.layers.blocks import Conv2dBlock, run_blocks
from fastmunit.nn.networks.discriminators import forward_pair

# Channels grow up to this many times those of the first layer.
_WIDEST = 8


class PatchDiscriminator(nn.Module):
    """`num_scales` PatchGANs, each on the image halved once more by average pooling, and half as wide.

    One has n_layer 4x4 convolutions of stride 2 and one of stride 1, the first without norm, and a 4x4 convolution to
    one channel. Each value of its output judges a patch, 70x70 pixels with n_layer 3. images: (N, C, H, W) to a list
    of maps (N, 1, h, w), finest first; 256x256 pixels give 30x30 and 14x14. `gan_type` names the loss that these
    outputs are trained with. Source: Isola et al. 2017, appendix 6.1.2; Zhu et al. 2017 (BicycleGAN), section 4.

    Args:
        input_dim: channels of the images.
        config: `dim` is the channel count of the first layer of the finest scale, halved for every other one.
    """

    def __init__(self, input_dim: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.gan_type = config.gan_type
        self._norm = config.norm
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.cnns = nn.ModuleList(
            [_patch_discriminator(input_dim, max(1, config.dim >> scale), config) for scale in range(config.num_scales)]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        for scale, blocks in enumerate(self.cnns):
            if scale:
                images = self.downsample(images)
            outputs.append(run_blocks([*cast(nn.ModuleList, blocks)], images).interior)
        return outputs

    def forward_pair(self, fake: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs for fake and real images; see `forward_pair`."""
        return forward_pair(self, self._norm, fake, real)


def min_size(config: DiscriminatorConfig) -> int:
    """The least height and width of the images that a PatchDiscriminator of `config` can take.

    A 4x4 convolution with a pad of 1 halves a map at stride 2, rounding down, and takes a pixel off it at stride 1,
    twice: the first of those needs 3 pixels. The average pool between scales halves, rounding up.
    """
    least = 3 << config.n_layer
    for _ in range(config.num_scales - 1):
        least = 2 * least - 1
    return least


def _patch_discriminator(input_dim: int, dim: int, config: DiscriminatorConfig) -> nn.ModuleList:
    activ, pad_type = config.activ, config.pad_type
    layers = [Conv2dBlock(input_dim, dim, 4, 2, 1, norm="none", activation=activ, pad_type=pad_type)]
    width = dim
    for layer in range(1, config.n_layer + 1):
        wider = dim * min(2**layer, _WIDEST)
        stride = 1 if layer == config.n_layer else 2
        layers.append(Conv2dBlock(width, wider, 4, stride, 1, norm=config.norm, activation=activ, pad_type=pad_type))
        width = wider
    layers.append(Conv2dBlock(width, 1, 4, 1, 1, norm="none", activation="none", pad_type=pad_type))
    return nn.ModuleList(layers)
