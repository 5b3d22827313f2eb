"""Translators whose scores are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmunit.systems.translators import Translator


class Same(Translator):
    """A translator that returns its input."""

    def __init__(self, channels: tuple[int, int] = (3, 3)) -> None:
        super().__init__(nn.PReLU(), multiple=1, min_size=1, channels=channels, style_dim=0)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        return content.expand(len(styles), self.target_channels, -1, -1)


class Tinted(Translator):
    """The content is the image at half its size. The style is a color, which is added."""

    def __init__(self, strength: float = 0.2) -> None:
        super().__init__(nn.PReLU(), multiple=2, min_size=2, channels=(3, 3), style_dim=3)
        self.strength = strength

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 2)

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        return nn.functional.interpolate(content, scale_factor=2) + self.strength * styles

    def networks(self) -> dict[str, nn.Module]:
        return {}

    def encode_style(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 3, 1, 1)
