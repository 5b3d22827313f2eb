"""Losses shared by the systems. All are computed in float32, or in float64 for float64 inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.functional.gan_loss import GANTarget, map_loss
from fastmunit.nn.networks.discriminators import MultiScale
from fastmunit.systems.parts.discriminator_view import Images, joined, record_real, seen_by


class Adversarial(NamedTuple):
    """The loss of a discriminator's outputs: the sum over its scales and their maps. See `functional.gan_loss`.

    One call computes all adversarial losses of a half of an iteration; see `adversarial_sum`.

    Attributes:
        scales: The maps of each scale, finest first, and their targets.
        gan_type: "lsgan", "nsgan" or "hinge".
    """

    scales: Sequence[Sequence[tuple[Tensor, GANTarget]]]
    gan_type: str

    @property
    def maps(self) -> list[Tensor]:
        """The maps of all scales."""
        return [output for scale in self.scales for output, _ in scale]

    @property
    def targets(self) -> list[GANTarget]:
        """The targets of the maps."""
        return [target for scale in self.scales for _, target in scale]

    def in_order(self) -> tuple[Tensor, list[Tensor]]:
        """Compute the loss and that of each scale map by map, in the order of the public code."""
        scales = [sum_of([map_loss(*pair, self.gan_type) for pair in scale]) for scale in self.scales]
        return torch.stack(scales).sum(), scales


def discriminator_adversarial(dis: MultiScale, fake: Images, real: Images) -> Adversarial:
    """Return a discriminator's loss on fake and on real images, without a factor 1/2; see `discriminator_loss`.

    The images are augmented if the active view says so. A conditional discriminator gets them after those that it is
    conditioned on.
    """
    reals = seen_by(dis, real)
    seen_fake, seen_real = joined(seen_by(dis, fake)), joined(reals)
    together = dis.forward_together(seen_fake, seen_real)
    if together is not None:
        record_real(dis, reals, together)
        return Adversarial([[(output, "fake_real")] for output in together], dis.gan_type)
    of_fake, of_real = dis(seen_fake), dis(seen_real)
    record_real(dis, reals, of_real)
    return _compared(of_fake, of_real, dis.gan_type)


def generator_adversarial(dis: MultiScale, fake: Images) -> Adversarial:
    """Return a generator's loss on its images; see `generator_loss` and `discriminator_adversarial`."""
    return Adversarial([[(output, "generator")] for output in dis(joined(seen_by(dis, fake)))], dis.gan_type)


def discriminator_loss(fake: Sequence[Tensor], real: Sequence[Tensor], gan_type: str) -> Tensor:
    """Compute a discriminator's loss from its outputs (one map per scale), summed over scales, without a factor 1/2.

    lsgan: mean(fake²) + mean((real - 1)²) (Mao et al. 2017); nsgan: BCE(σ(fake), 0) + BCE(σ(real), 1), from logits;
    hinge: mean max(0, 1 + fake) + mean max(0, 1 - real) (Miyato et al. 2018, equation 16).
    """
    return _compared(fake, real, gan_type).in_order()[0]


def generator_loss(fake: Sequence[Tensor], gan_type: str) -> Tensor:
    """Compute a generator's adversarial loss, summed over scales.

    lsgan: mean((fake - 1)²); nsgan: BCE(σ(fake), 1); hinge: -mean(fake) (Miyato et al. 2018, equation 17).
    """
    return Adversarial([[(output, "generator")] for output in fake], gan_type).in_order()[0]


def widen(x: Tensor) -> Tensor:
    """Return x in float32, or unchanged if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """Return the sum of one or more tensors, added one after another."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _compared(fake: Sequence[Tensor], real: Sequence[Tensor], gan_type: str) -> Adversarial:
    return Adversarial([[(f, "fake"), (r, "real")] for f, r in zip(fake, real, strict=True)], gan_type)
