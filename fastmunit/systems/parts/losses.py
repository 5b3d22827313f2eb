"""Losses shared by the systems. All are computed in float32, or in float64 for float64 inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Return x in float32, or unchanged if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def discriminator_loss(fake: Sequence[Tensor], real: Sequence[Tensor], gan_type: str) -> Tensor:
    """Compute a discriminator's loss from its outputs (one map per scale), summed over scales, without a factor 1/2.

    lsgan: mean(fake²) + mean((real - 1)²) (Mao et al. 2017); nsgan: BCE(σ(fake), 0) + BCE(σ(real), 1), from logits;
    hinge: mean max(0, 1 + fake) + mean max(0, 1 - real) (Miyato et al. 2018, equation 16).
    """
    terms = [_map_loss(f, False, gan_type) + _map_loss(r, True, gan_type) for f, r in zip(fake, real, strict=True)]
    return torch.stack(terms).sum()


def generator_loss(fake: Sequence[Tensor], gan_type: str) -> Tensor:
    """Compute a generator's adversarial loss, summed over scales.

    lsgan: mean((fake - 1)²); nsgan: BCE(σ(fake), 1); hinge: -mean(fake) (Miyato et al. 2018, equation 17).
    """
    if gan_type == "hinge":
        return torch.stack([-widen(f).mean() for f in fake]).sum()
    return torch.stack([_map_loss(f, True, gan_type) for f in fake]).sum()


def _map_loss(output: Tensor, real: bool, gan_type: str) -> Tensor:
    """Compute the loss of one output map whose target is "real" or "fake"."""
    output, label = widen(output), float(real)
    match gan_type:
        case "lsgan":
            return ((output - label) ** 2).mean()
        case "nsgan":
            return F.binary_cross_entropy_with_logits(output, torch.full_like(output, label))
        case "hinge":
            return F.relu(1 - output if real else 1 + output).mean()
    raise ValueError(f"expected gan_type lsgan, nsgan or hinge, got {gan_type!r}.")
