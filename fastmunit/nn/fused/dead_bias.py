"""Convolution biases that a norm cancels: left out of the convolution, kept in the graph with a gradient of zero.

Instance norm and AdaIN subtract each channel's mean, and with it the bias of the convolution before. Its exact gradient
is zero. The networks leave it out at run time and give it that zero: the parameter stays in checkpoints and optimizers.
MUNIT's layer norm subtracts one mean of all channels, so it cancels no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _ZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *biases: Tensor) -> Tensor:
        ctx.sizes = [len(bias) for bias in biases]
        ctx.options = {"dtype": biases[0].dtype, "device": biases[0].device}
        return x.detach()  # not x or a view of it: those could not be written in place by what follows

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, ...]:
        return dx, *torch.zeros(sum(ctx.sizes), **ctx.options).split(ctx.sizes)  # one op for all of them


def with_zero_gradients(x: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """Return x, which none of `biases` has gone into; backward through it gives each of them a gradient of zeros.

    A bias that was left out then has what it has in the plain network but for rounding. Without a gradient an optimizer
    would skip it: its state would never come to be, and its weight decay would not act.

    Args:
        x: the result of the layers that the biases belong to.
        biases: (C,) each, of one dtype and device; those that are not trained are passed over.
    """
    trained = [bias for bias in biases if bias.requires_grad]
    return _ZeroGradients.apply(x, *trained) if trained and torch.is_grad_enabled() else x
