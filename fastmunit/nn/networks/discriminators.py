"""Multi-scale discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.config import DiscriminatorConfig
from fastmunit.nn.layers.blocks import Conv2dBlock, run_blocks


class MsImageDis(nn.Module):
    """`num_scales` PatchGANs, each on the image halved once more by average pooling.

    images: (N, C, H, W) to a list of maps (N, 1, h, w), finest first; h = H / 2^(n_layer + scale). The nets share
    nothing. `gan_type` ("lsgan" | "nsgan" | "hinge") names the loss that these outputs are trained with.
    Source: MUNIT paper, appendix B.2; Wang et al. 2018.
    """

    def __init__(self, input_dim: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.gan_type = config.gan_type
        self._norm = config.norm
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.cnns = nn.ModuleList([_patch_discriminator(input_dim, config) for _ in range(config.num_scales)])

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        for scale, net in enumerate(self.cnns):
            if scale:
                images = self.downsample(images)
            *convolutions, projection = net.children()
            outputs.append(projection(run_blocks(convolutions, images).interior))
        return outputs

    def forward_pair(self, fake: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs for fake and real images; see `forward_pair`."""
        return forward_pair(self, self._norm, fake, real)


def forward_pair(dis: nn.Module, norm: str, fake: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of `dis` for fake and real images, in one batch off the reference path where no norm tells batches apart.

    Batch norm does by its statistics, spectral norm by its power iteration, a step for each call.
    """
    together = norm in ("none", "in", "ln") and fake.shape == real.shape
    if functional.exact_order() or not together:
        return dis(fake), dis(real)
    outputs = [output.chunk(2) for output in dis(torch.cat([fake, real.to(fake.dtype)]))]
    return [fake for fake, _ in outputs], [real for _, real in outputs]


def _patch_discriminator(input_dim: int, config: DiscriminatorConfig) -> nn.Sequential:
    dim = config.dim
    activ, pad_type = config.activ, config.pad_type
    layers: list[nn.Module] = [Conv2dBlock(input_dim, dim, 4, 2, 1, norm="none", activation=activ, pad_type=pad_type)]
    for _ in range(config.n_layer - 1):
        layers.append(Conv2dBlock(dim, 2 * dim, 4, 2, 1, norm=config.norm, activation=activ, pad_type=pad_type))
        dim *= 2
    layers.append(nn.Conv2d(dim, 1, 1, 1, 0))
    return nn.Sequential(*layers)
