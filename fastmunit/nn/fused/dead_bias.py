"""Zero gradients for convolution biases that a norm cancels.

Instance norm and AdaIN subtract the mean of each channel, and with it the bias of the preceding convolution. The exact
gradient of that bias is zero. The networks leave the bias out at run time and give it this gradient; the parameter
stays in checkpoints and optimizers. MUNIT's layer norm subtracts one mean of all channels, so it cancels no bias.
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
        return x.detach()  # callers could not modify x itself, or a view of it, in place

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, ...]:
        return dx, *torch.zeros(sum(ctx.sizes), **ctx.options).split(ctx.sizes)  # one op for all biases


def with_zero_gradients(x: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """Return x, and give each of `biases` a gradient of zeros in backward.

    A skipped bias thus gets the gradient that it has in the plain network, except for rounding. Without a gradient, an
    optimizer would skip the parameter: it would never create its state or apply weight decay.

    Args:
        x: Result of the layers that the biases belong to, computed without them.
        biases: (C,) each, all in one dtype and on one device. Those that need no gradient are ignored.
    """
    trained = [bias for bias in biases if bias.requires_grad]
    return _ZeroGradients.apply(x, *trained) if trained and torch.is_grad_enabled() else x
