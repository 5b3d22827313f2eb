"""The history of translated images that CycleGAN's discriminators are shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ImagePool:
    """Hands back each image or, once it is full, with probability 1/2 an earlier one, whose place the image takes.

    Draws come from torch's global CPU generator. Source: Shrivastava et al. 2017, section 2.3; Zhu et al. 2017
    (CycleGAN), section 4.

    Args:
        size: images kept; 0 hands back all images as they are.

    Attributes:
        images: those kept, (C, H, W) each.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to as many images, each new or from the pool; without graph."""
        if self.size == 0:
            return images.detach()
        handed = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
                handed.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                handed.append(self.images[place].to(image))
                self.images[place] = image.clone()
            else:
                handed.append(image)
        return torch.stack(handed)

    def state(self) -> list[Tensor]:
        """The images kept, on the CPU."""
        return [image.cpu() for image in self.images]

    def load(self, images: Sequence[Tensor]) -> None:
        """Put back what `state` gave; a smaller pool keeps the first ones."""
        self.images = list(images[: self.size])
