"""Losses shared by the systems. Every one is taken in float32 (float64 for float64 inputs)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 when it is float64 already."""
    return x if x.dtype == torch.float64 else x.float()


def discriminator_loss(fake: Sequence[Tensor], real: Sequence[Tensor], gan_type: str) -> Tensor:
    """Loss of a discriminator from its outputs (one map a scale), summed over scales, without a factor 1/2.

    lsgan: mean(fake²) + mean((real - 1)²) (Mao et al. 2017); nsgan: BCE(σ(fake), 0) + BCE(σ(real), 1), from logits.
    """
    terms = [_gan_term(f, 0.0, gan_type) + _gan_term(r, 1.0, gan_type) for f, r in zip(fake, real, strict=True)]
    return torch.stack(terms).sum()


def generator_loss(fake: Sequence[Tensor], gan_type: str) -> Tensor:
    """Adversarial loss of a generator: lsgan mean((fake - 1)²), nsgan BCE(σ(fake), 1), summed over scales."""
    return torch.stack([_gan_term(f, 1.0, gan_type) for f in fake]).sum()


def _gan_term(output: Tensor, label: float, gan_type: str) -> Tensor:
    output = widen(output)
    match gan_type:
        case "lsgan":
            return ((output - label) ** 2).mean()
        case "nsgan":
            return F.binary_cross_entropy_with_logits(output, torch.full_like(output, label))
    raise ValueError(f"unknown gan_type {gan_type!r}: use lsgan or nsgan.")
