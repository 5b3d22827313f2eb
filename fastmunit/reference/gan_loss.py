"""Adversarial losses in plain PyTorch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def gan_loss(
    outputs: Sequence[Tensor], targets: Sequence[str], weights: Sequence[float], gan_type: str
) -> tuple[Tensor, Tensor]:
    """Compute the loss of each map of discriminator outputs, and their weighted sum.

    Args:
        outputs: K tensors of any shapes, in float16, bfloat16, float32 or float64. A map with the target "fake_real"
            holds two halves of a batch: its value is the sum of the losses of both.
        targets: K names: "real", "fake", "generator" or "fake_real".
        weights: K numbers.
        gan_type: "lsgan", "nsgan" or "hinge".

    Returns:
        values (K,) and total (), in float32, or in float64 if any output is float64.
    """
    dtype = torch.float64 if any(output.dtype == torch.float64 for output in outputs) else torch.float32
    values = [map_loss(*pair, gan_type).to(dtype) for pair in zip(outputs, targets, strict=True)]
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * weight
    return torch.stack(values), total


def map_loss(output: Tensor, target: str, gan_type: str) -> Tensor:
    """Compute the loss of one map, in float32, or in float64 if it is float64."""
    if target == "fake_real":
        fake, real = output.tensor_split(2)
        return map_loss(fake, "fake", gan_type) + map_loss(real, "real", gan_type)
    output = output if output.dtype == torch.float64 else output.float()
    label = float(target != "fake")
    if gan_type == "lsgan":
        return ((output - label) ** 2).mean()
    if gan_type == "nsgan":
        return F.binary_cross_entropy_with_logits(output, torch.full_like(output, label))
    if target == "generator":
        return -output.mean()
    return F.relu(1 - output if label else 1 + output).mean()
