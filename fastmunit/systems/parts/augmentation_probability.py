"""The probability of adaptive discriminator augmentation (ADA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.systems.parts import resume_checks
from fastmunit.systems.parts.losses import sum_of, widen

INTERVAL = 4
"""Iterations between two moves of a probability."""

THRESHOLDS = {"lsgan": 0.5, "nsgan": 0.0, "hinge": 0.0}
"""The output that is as far from fake as from real, by `gan_type`."""


def overfitting_sign(outputs: Sequence[Tensor], gan_type: str) -> Tensor:
    """Return E[sign(D(real) - threshold)], the mean of the means over the maps of all scales, without graph.

    It is 1 if a discriminator recognizes all real images, and about 0 if it does not tell them from fake ones.
    Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", equation 1, r_t, where
    the threshold is 0. See `THRESHOLDS`.

    Args:
        outputs: Maps (N, 1, h, w) for real images.
        gan_type: "lsgan", "nsgan" or "hinge".
    """
    signs = [(widen(output.detach()) - THRESHOLDS[gan_type]).sign().mean() for output in outputs]
    return sum_of(signs) / len(signs)


class AugmentationProbability(nn.Module):
    """The probabilities p with which discriminators' images are augmented, from 0 at the start to 1 at most.

    Every `INTERVAL` iterations, p moves by the share of `ramp` that the images of these iterations are: up if the mean
    of `overfitting_sign` is above the target, else down. Everything is on the device, so that CUDA graphs follow it.
    Source: Karras et al. 2020, section 3.1, with a ramp of 500,000 images.

    Args:
        count: Number of discriminators.
        target: The target.
        ramp: Images in which p can rise from 0 to 1.

    Attributes:
        p: Probabilities, (count,).
    """

    p: Tensor
    signs: Tensor
    iterations: Tensor

    def __init__(self, count: int, target: float, ramp: int) -> None:
        super().__init__()
        self.target, self.ramp = target, ramp
        self.register_buffer("p", torch.zeros(count), persistent=False)
        self.register_buffer("signs", torch.zeros(count), persistent=False)
        self.register_buffer("iterations", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def adapt(self, signs: Tensor, images: int) -> None:
        """Take the signs (count,) of an iteration with a number of images into account."""
        self.signs.add_(signs.to(self.signs))
        self.iterations.add_(1)
        moves = self.iterations >= INTERVAL
        step = (self.signs / INTERVAL - self.target).sign() * (INTERVAL * images / self.ramp)
        self.p.copy_(torch.where(moves, (self.p + step).clamp(0, 1), self.p))
        for buffer in (self.signs, self.iterations):
            buffer.mul_(~moves)

    def state(self) -> dict[str, Any]:
        """Return what exact resume needs."""
        return {name: buffer.cpu() for name, buffer in self.named_buffers()}

    def load_state(self, state: Any) -> None:
        """Restore `state`.

        Raises:
            CheckpointError: If it is damaged.
        """
        buffers = dict(self.named_buffers())
        saved = {name: resume_checks.values(state, name, buffer.shape) for name, buffer in buffers.items()}
        for name, buffer in buffers.items():
            buffer.copy_(saved[name])
