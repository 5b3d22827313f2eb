"""The public function `gan_loss`."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fastmunit import reference
from fastmunit.functional.checks import check_dtype
from fastmunit.functional.implementation import Implementation, choose
from fastmunit.ops import gan_loss as op
from fastmunit.reference.gan_loss import map_loss as map_loss

GANTarget = Literal["real", "fake", "generator", "fake_real"]
"""Name of the label that the outputs of a discriminator are compared with; see `gan_loss`."""

MAX_MAPS = op.MAX_MAPS
"""Largest number of maps of one call of `gan_loss`."""


def gan_loss(
    outputs: Sequence[Tensor],
    targets: Sequence[GANTarget],
    weights: Sequence[float],
    gan_type: str,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Compute the adversarial losses of a step: that of each map of discriminator outputs, and their weighted sum.

    values[k] = mean f(outputs[k]) and total = Σ weights[k] · values[k], with f by gan_type and targets[k]:

    | gan_type | "real" | "fake" | "generator" | source |
    |---|---|---|---|---|
    | lsgan | (x - 1)² | x² | (x - 1)² | Mao et al. 2017, https://arxiv.org/abs/1611.04076, equation 9 |
    | nsgan | log(1 + e⁻ˣ) | log(1 + eˣ) | log(1 + e⁻ˣ) | Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661 |
    | hinge | max(0, 1 - x) | max(0, 1 + x) | -x | Miyato et al. 2018, https://arxiv.org/abs/1802.05957 |

    There is no factor 1/2. "fake_real" is for a discriminator that has seen both in one batch: the first half of the
    batch is fake and the second real, and the value is the sum of both means.

    Values, and gradients where upstream gradients are finite, are infinite and NaN where those of the reference are.
    The gradient of the hinge at its kink is 0. The value of an empty map is NaN. The kernel returns the same bits with
    any number of threads and can be differentiated once; the reference can be differentiated any number of times.

    Args:
        outputs: 1 to 32 maps of any shapes, in float32, bfloat16, float16 or float64. Layouts may differ.
        targets: As many names.
        weights: As many numbers.
        gan_type: "lsgan", "nsgan" or "hinge".
        implementation: "auto", "native", "triton" or "reference", see `fastmunit.functional`.

    Returns:
        values (K,) and total (), in float32, or in float64 if any map is float64.

    Raises:
        ValueError: If there are no maps or too many, if the lists differ in length, if the devices differ, if gan_type
            or a target is unknown, or if a batch for "fake_real" is odd.
        TypeError: If outputs or targets is not a sequence of maps or names, or if a map has another dtype.
        ImplementationError: If the named implementation cannot run here.

    Example:
        >>> fake, real = torch.tensor([0.5]), torch.tensor([1.0])
        >>> values, total = fastmunit.functional.gan_loss([fake, real], ["fake", "real"], [1, 1], "lsgan")
        >>> values.tolist(), total.item()
        ([0.25, 0.0], 0.25)
    """
    _check(outputs, targets, weights, gan_type)
    chosen = choose("gan_loss", implementation, outputs[0], *outputs[1:])
    weights = [float(weight) for weight in weights]
    if chosen == "reference":
        return reference.gan_loss(outputs, targets, weights, gan_type)
    return op.gan_loss(outputs, targets, weights, gan_type, chosen)


def _check(outputs: Sequence[Tensor], targets: Sequence[str], weights: Sequence[float], gan_type: str) -> None:
    if isinstance(outputs, Tensor):
        raise TypeError("gan_loss: expected a sequence of tensors for outputs, got a tensor")
    if isinstance(targets, str):
        raise TypeError("gan_loss: expected a sequence of names for targets, got a string")
    maps = len(outputs)
    if len(targets) != maps or len(weights) != maps:
        raise ValueError(
            "gan_loss: expected outputs, targets and weights of the same length, "
            f"got {maps}, {len(targets)} and {len(weights)}"
        )
    if not 1 <= maps <= MAX_MAPS:
        raise ValueError(f"gan_loss: expected 1 to {MAX_MAPS} maps, got {maps}")
    if gan_type not in op.GAN_TYPES:
        raise ValueError(f"gan_loss: expected gan_type lsgan, nsgan or hinge, got {gan_type!r}")
    device = outputs[0].device
    for k, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        check_dtype("gan_loss", f"outputs[{k}]", output)
        if target not in op.TARGETS:
            raise ValueError(f"gan_loss: expected targets[{k}] real, fake, generator or fake_real, got {target!r}")
        if target == "fake_real" and (output.dim() == 0 or output.shape[0] % 2):
            raise ValueError(
                f'gan_loss: outputs[{k}] of shape {tuple(output.shape)} has no two halves, but the target "fake_real": '
                "give outputs for fake images, then for as many real ones"
            )
        if output.device != device:
            raise ValueError(
                f"gan_loss: outputs[{k}] is on {output.device} and outputs[0] on {device}: move them to the same device"
            )
