"""The pool of earlier translations from which CycleGAN's discriminators learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ImagePool:
    """A pool that exchanges new images for earlier ones.

    Until the pool is full it stores and returns every image. Then it returns an image itself or, with probability 1/2,
    an earlier one, which the image replaces in the pool. Random numbers come from torch's global CPU generator.
    Source: Shrivastava et al. 2017, section 2.3; Zhu et al. 2017 (CycleGAN), section 4.

    Args:
        size: Capacity in images. With 0, all images are returned unchanged.

    Attributes:
        images: Images in the pool, (C, H, W) each.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """Exchange images (N, C, H, W) for as many images, each new or from the pool, without graph."""
        if self.size == 0:
            return images.detach()
        exchanged = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
                exchanged.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                exchanged.append(self.images[place].to(image))
                self.images[place] = image.clone()
            else:
                exchanged.append(image)
        return torch.stack(exchanged)

    def state(self) -> list[Tensor]:
        """Return the images in the pool, on the CPU."""
        return [image.cpu() for image in self.images]

    def load(self, images: Sequence[Tensor]) -> None:
        """Restore `state`. A smaller pool keeps the first images."""
        self.images = list(images[: self.size])
