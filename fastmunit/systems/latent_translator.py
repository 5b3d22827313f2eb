"""Translating with one generator that takes an image and, where it has noise, a latent vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmunit.nn.layers.dropout import Dropout, masks_from
from fastmunit.nn.networks.latent_encoder import LatentEncoder
from fastmunit.systems.translator import Translator


class LatentTranslator(Translator):
    """One direction of CycleGAN or BicycleGAN; style codes are the generator's latent vectors.

    With dropout at test, each style code also fixes the masks, so that equal codes give equal images; a generator
    that has no other noise takes codes of one value for that alone.

    Args:
        generator: called with images and latent vectors, None where it takes none.
        latent_dim: length of the latent vectors; 0 for none.
        multiple: what the sides of its input must be multiples of.
        least: the least side that it takes.
        channels: of the images to translate, and of those that come out.
        encoder: gives the latent vector of an image of the target domain; None where there is no such network.
    """

    def __init__(
        self,
        generator: nn.Module,
        latent_dim: int,
        multiple: int,
        least: int,
        channels: tuple[int, int],
        encoder: LatentEncoder | None = None,
    ) -> None:
        self._drops = any(isinstance(m, Dropout) and m.rate > 0 and m.at_test for m in generator.modules())
        super().__init__(generator, multiple, least, channels, latent_dim or int(self._drops))
        self._generator, self._latent_dim, self._encoder = generator, latent_dim, encoder
        self.takes_references = encoder is not None

    def encode(self, images: Tensor) -> Tensor:
        """The image itself: the latent vector enters with it."""
        return images

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        """Images (S, C', H, W) of one image (1, C, H, W) with latent vectors (S, style_dim, 1, 1)."""
        if not self._drops:
            return self._translated(content, styles)
        outputs = []
        for style in styles.split(1):
            with masks_from(torch.Generator(self.device).manual_seed(_seed(style))):
                outputs.append(self._translated(content, style))
        return torch.cat(outputs)

    def encode_style(self, images: Tensor) -> Tensor:
        """Mean latent vectors (N, style_dim, 1, 1) of images (N, C', H, W) of the target domain."""
        if self._encoder is None:
            return super().encode_style(images)
        return self._encoder(images)[0][..., None, None]

    def _translated(self, content: Tensor, styles: Tensor) -> Tensor:
        images = content.expand(len(styles), -1, -1, -1)
        return self._generator(images, styles.flatten(1) if self._latent_dim else None)


def _seed(style: Tensor) -> int:
    """A seed that depends on the bits of a style code."""
    seed = 0
    for value in style.float().flatten().view(torch.int32).tolist():
        seed = (seed * 1_000_003 + value) % 2**63
    return seed
