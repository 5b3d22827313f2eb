"""PatchGAN discriminators on several scales: MUNIT's, and the one of pix2pix, CycleGAN and BicycleGAN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fastmunit.config import DiscriminatorConfig
from fastmunit.functional.streams import in_parallel
from fastmunit.nn.fused.chain import Chain, opened_weights
from fastmunit.nn.fused.steps import Mode, mode_of
from fastmunit.nn.fused.weight_forms import as_product
from fastmunit.nn.layers.blocks import Conv2dBlock, chain_of

# Maximum number of channels of a PatchDiscriminator, in multiples of those of its first layer.
_MAX_WIDTH = 8


class MultiScale(nn.Module):
    """Base class of discriminators on an image pyramid: each network sees the image halved by average pooling.

    images: (N, C, H, W) to a list of maps (N, 1, h, w), finest scale first.

    Attributes:
        gan_type: Name of the loss that the outputs are trained with: lsgan, nsgan or hinge.
    """

    def __init__(self, config: DiscriminatorConfig, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.gan_type = config.gan_type
        self._norm = config.norm
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.cnns = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> list[Tensor]:
        chains = [chain_of(cast(nn.ModuleList, blocks)) for blocks in self.cnns]
        mode = mode_of(images)
        finest, smaller = partial(chains[0].run, mode=mode), partial(self._run_smaller, chains[1:], mode)
        with opened_weights(chains, mode):
            if len(chains) == 1:
                return [finest(images)]
            first, others = in_parallel(finest, (images,), smaller, (images,))
        return [first, *others]

    def _run_smaller(self, chains: Sequence[Chain], mode: Mode, images: Tensor) -> list[Tensor]:
        outputs = []
        for chain in chains:
            images = self.downsample(images)
            outputs.append(chain.run(images, mode))
        return outputs

    def forward_pair(self, fake: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs for fake and for real images; see `forward_together`."""
        together = self.forward_together(fake, real)
        if together is None:
            return self(fake), self(real)
        outputs = [output.chunk(2) for output in together]
        return [fake for fake, _ in outputs], [real for _, real in outputs]

    def forward_together(self, fake: Tensor, real: Tensor) -> list[Tensor] | None:
        """Return the outputs for fake images followed by those for real images, computed in one batch.

        Return None if one batch would change them: the statistics of batch norm, the number of power iterations of
        spectral norm, and the rounding on the reference path. It is None for batches of different shapes, too.
        """
        together = self._norm in ("none", "in", "ln") and fake.shape == real.shape
        if mode_of(fake).exact or not together:
            return None
        if real.dtype != fake.dtype:
            real = as_product(real).to(fake.dtype)
        outputs: list[Tensor] = self(torch.cat([fake, real]))
        return outputs


class MsImageDis(MultiScale):
    """MUNIT's discriminator: `num_scales` PatchGANs of equal width.

    images: (N, C, H, W) to a list of maps (N, 1, h, w), finest scale first, with h = H / 2^(n_layer + scale). The
    networks share no weights. Source: MUNIT paper, appendix B.2; Wang et al. 2018.

    Args:
        input_dim: Channels of the images.
        config: The `dis` section.
    """

    def __init__(self, input_dim: int, config: DiscriminatorConfig) -> None:
        super().__init__(config, [_munit_network(input_dim, config) for _ in range(config.num_scales)])

    @staticmethod
    def min_size(config: DiscriminatorConfig, batch_size: int) -> int:
        """Return the minimum height and width of images, in pixels.

        A 4x4 stride-2 convolution with padding 1 needs a map of at least 2 pixels and halves it, rounding down. A chain
        of n_layer of them needs m 2^n_layer pixels, where m is the minimum size of the last map: 1, or 2 if that map is
        normalized over its pixels only (norm "in", or "bn" with batch_size 1), which is undefined for a single pixel.
        The 3x3 stride-2 average pool between scales halves, rounding up, so the first of num_scales scales needs
        2^(num_scales - 1) (m 2^n_layer - 1) + 1 pixels.
        """
        only_over_pixels = config.norm == "in" or (config.norm == "bn" and batch_size == 1)
        # The first convolution has no norm.
        last_map = 2 if only_over_pixels and config.n_layer > 1 else 1
        return 2 ** (config.num_scales - 1) * (last_map * 2**config.n_layer - 1) + 1


class PatchDiscriminator(MultiScale):
    """The discriminator of CycleGAN and BicycleGAN: `num_scales` PatchGANs, each half as wide as the one before.

    A network has n_layer 4x4 convolutions with stride 2 and one with stride 1, the first without norm, and a 4x4
    convolution to one channel. Each output value classifies a patch, 70x70 pixels for n_layer 3. images: (N, C, H, W)
    to a list of maps (N, 1, h, w), finest scale first; 256x256 pixels give 30x30 and 14x14. Source: Isola et al. 2017,
    appendix 6.1.2; Zhu et al. 2017 (BicycleGAN), section 4.

    Args:
        input_dim: Channels of the images.
        config: The `dis` section. `dim` is the number of channels of the first layer at the finest scale, and is
            halved at every other scale.
    """

    def __init__(self, input_dim: int, config: DiscriminatorConfig) -> None:
        widths = [max(1, config.dim >> scale) for scale in range(config.num_scales)]
        super().__init__(config, [_patch_network(input_dim, dim, config) for dim in widths])

    @staticmethod
    def min_size(config: DiscriminatorConfig) -> int:
        """Return the minimum height and width of images, in pixels.

        A 4x4 convolution with a padding of 1 halves a map at stride 2, rounding down. At stride 1 it removes one pixel;
        there are two of these, and the first needs 3 pixels. The average pooling between scales halves, rounding up.
        """
        size = 3 << config.n_layer
        for _ in range(config.num_scales - 1):
            size = 2 * size - 1
        return size


def _munit_network(input_dim: int, config: DiscriminatorConfig) -> nn.Sequential:
    dim = config.dim
    activ, pad_mode = config.activ, config.pad_type
    layers: list[nn.Module] = [Conv2dBlock(input_dim, dim, 4, 2, 1, norm="none", activation=activ, pad_mode=pad_mode)]
    for _ in range(config.n_layer - 1):
        layers.append(Conv2dBlock(dim, 2 * dim, 4, 2, 1, norm=config.norm, activation=activ, pad_mode=pad_mode))
        dim *= 2
    layers.append(nn.Conv2d(dim, 1, 1, 1, 0))
    return nn.Sequential(*layers)


def _patch_network(input_dim: int, dim: int, config: DiscriminatorConfig) -> nn.ModuleList:
    activ, pad_mode = config.activ, config.pad_type
    layers = [Conv2dBlock(input_dim, dim, 4, 2, 1, norm="none", activation=activ, pad_mode=pad_mode)]
    width = dim
    for layer in range(1, config.n_layer + 1):
        wider = dim * min(2**layer, _MAX_WIDTH)
        stride = 1 if layer == config.n_layer else 2
        layers.append(Conv2dBlock(width, wider, 4, stride, 1, norm=config.norm, activation=activ, pad_mode=pad_mode))
        width = wider
    layers.append(Conv2dBlock(width, 1, 4, 1, 1, norm="none", activation="none", pad_mode=pad_mode))
    return nn.ModuleList(layers)
