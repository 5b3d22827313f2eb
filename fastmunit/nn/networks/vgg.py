"""VGG-16 up to relu5_3, for the domain-invariant perceptual loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_POOLED_BLOCKS = 3


class Vgg16(nn.Module):
    """Network from images (N, 3, H, W) to relu5_3 features (N, 512, H / 8, W / 8).

    Thirteen 3x3 convolutions conv1_1 … conv5_3, with max pooling after the first three blocks only: there is none
    between conv4 and conv5. Source: Simonyan and Zisserman 2015, with the public MUNIT trainer's change.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for block, (width, count) in enumerate(_BLOCKS, start=1):
            for index in range(1, count + 1):
                self.add_module(f"conv{block}_{index}", nn.Conv2d(channels, width, 3, 1, 1))
                channels = width

    def forward(self, x: Tensor) -> Tensor:
        for block, (_, count) in enumerate(_BLOCKS, start=1):
            for index in range(1, count + 1):
                x = F.relu(self.get_submodule(f"conv{block}_{index}")(x))
            if block <= _POOLED_BLOCKS:
                x = F.max_pool2d(x, 2, 2)
        return x
