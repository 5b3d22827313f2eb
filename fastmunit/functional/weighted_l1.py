"""The public function `weighted_l1`."""

from collections.abc import Sequence

from torch import Tensor

from fastmunit import reference
from fastmunit.functional.checks import check_dtype
from fastmunit.functional.implementation import Implementation, choose
from fastmunit.ops import weighted_l1 as op


def weighted_l1(
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Compute all L1 terms of a step: the mean absolute difference of each pair, and their weighted sum.

    values[k] = mean |inputs[k] - targets[k]| and total = Σ weights[k] · values[k]: the reconstruction losses of MUNIT
    (Huang et al., 2018, https://arxiv.org/abs/1804.04732, equations 1 to 3 and 5). Gradients are propagated to inputs
    and targets; the gradient of a difference of 0 is 0. The value of an empty pair is NaN.

    The kernel reads each tensor once and stores the sign of each difference in a byte, which is all that backward
    reads. It returns the same bits with any number of threads and can be differentiated once; the reference can be
    differentiated any number of times.

    Args:
        inputs: 1 to 16 tensors of any shapes, in float32, bfloat16, float16 or float64.
        targets: As many tensors, each with the shape of its input. Dtypes and layouts may differ.
        weights: As many numbers.
        implementation: "auto", "native", "triton" or "reference", see `fastmunit.functional`.

    Returns:
        values (K,) and total (), in float32, or in float64 if any input or target is float64.

    Raises:
        ValueError: If there are no pairs or too many, if the lists differ in length, or if the shapes or devices of a
            pair differ.
        TypeError: If inputs or targets is a tensor instead of a sequence, or if a tensor has another dtype.
        ImplementationError: If the named implementation cannot run here.

    Example:
        >>> values, total = fastmunit.functional.weighted_l1([torch.ones(2)], [torch.zeros(2)], [10])
        >>> values.tolist(), total.item()
        ([1.0], 10.0)
    """
    _check(inputs, targets, weights)
    chosen = choose("weighted_l1", implementation, inputs[0], *inputs, *targets)
    weights = [float(weight) for weight in weights]
    if chosen == "reference":
        return reference.weighted_l1(inputs, targets, weights)
    return op.weighted_l1(inputs, targets, weights, chosen)


def _check(inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float]) -> None:
    if isinstance(inputs, Tensor) or isinstance(targets, Tensor):
        raise TypeError("weighted_l1: expected sequences of tensors for inputs and targets, got a tensor")
    pairs = len(inputs)
    if len(targets) != pairs or len(weights) != pairs:
        raise ValueError(
            "weighted_l1: expected inputs, targets and weights of the same length, "
            f"got {pairs}, {len(targets)} and {len(weights)}"
        )
    if not 1 <= pairs <= op.MAX_PAIRS:
        raise ValueError(f"weighted_l1: expected 1 to {op.MAX_PAIRS} pairs, got {pairs}")
    device = inputs[0].device
    for k, (input, target) in enumerate(zip(inputs, targets, strict=True)):
        if input.shape != target.shape:
            raise ValueError(
                f"weighted_l1: expected inputs[{k}] and targets[{k}] of the same shape, "
                f"got {tuple(input.shape)} and {tuple(target.shape)}"
            )
        for name, x in ((f"inputs[{k}]", input), (f"targets[{k}]", target)):
            check_dtype("weighted_l1", name, x)
            if x.device != device:
                raise ValueError(
                    f"weighted_l1: {name} is on {x.device} and inputs[0] on {device}: move them to the same device"
                )
