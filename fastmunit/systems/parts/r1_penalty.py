"""The R1 gradient penalty of discriminators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmunit import functional
from fastmunit.functional.streams import at
from fastmunit.nn.fused.iteration_cache import iteration_cache
from fastmunit.nn.networks.discriminators import MultiScale
from fastmunit.systems.parts.losses import sum_of, widen


def r1_penalty(dis: MultiScale, images: Sequence[Tensor]) -> Tensor:
    """Return Σ over scales of E |∇ D(x)|², where D(x) is the mean of the scale's map for the image x.

    The mean of a map is what a generator's gradient passes through, so the penalty does not depend on the number of
    patches. It is computed in float32, or float64 for float64 images, on the reference path, which can be
    differentiated twice; a compiled network is not used. Spectral norm runs another power iteration.
    Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", equation 9.

    Args:
        dis: The discriminator.
        images: What it sees together, (N, C, H, W) each: the real images, x, after those that it is conditioned on.

    Returns:
        A 0-d tensor, with its graph.
    """
    *given, x = (widen(image.detach()) for image in images)
    x.requires_grad_()
    with (
        functional.use_implementation("reference"),
        torch.autocast(x.device.type, enabled=False),
        iteration_cache(None),
        at(None),  # on one stream, because weight gradients on another one cannot be differentiated twice
    ):
        outputs = dis.forward(torch.cat([*given, x], dim=1) if given else x)
        gradients = [
            torch.autograd.grad(widen(output).mean((1, 2, 3)).sum(), x, create_graph=True)[0] for output in outputs
        ]
        return sum_of([gradient.square().sum((1, 2, 3)).mean() for gradient in gradients])
