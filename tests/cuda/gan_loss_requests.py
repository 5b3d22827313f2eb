"""Run the emulated CUDA launchers of gan_loss on tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.cuda.emulated import Reply, emulate, name_of
from tests.ops import gan_loss_cases

# MUNIT's scales, a map whose halves meet within a segment, and sizes that are no multiple of a segment.
SHAPES = [(2, 1, 16, 16), (2, 1, 8, 7), (4, 1, 30, 27), (2, 1, 1, 1), (2, 3, 31, 33)]
WEIGHTS = [1.0, 0.5, -2.0, 0.0, 3.0]
_FORMULAS = {"lsgan": 0, "nsgan": 1, "hinge": 2}
_LINEAR = 3


def _maps(outputs: Sequence[Tensor], targets: Sequence[str], weights: Sequence[float], gan_type: str):
    values: dict[str, int | float] = {"maps": len(outputs)}
    double = any(x.dtype == torch.float64 for x in outputs)
    texts = {"dtype": "float64" if double else "float32"}
    for k, (x, target, weight) in enumerate(zip(outputs, targets, weights, strict=True)):
        linear = gan_type == "hinge" and target == "generator"
        half = x.numel() // 2
        values |= {
            f"count{k}": x.numel(),
            f"weight{k}": weight,
            f"formula{k}": _LINEAR if linear else _FORMULAS[gan_type],
            f"first_real{k}": {"fake": x.numel(), "fake_real": half}.get(target, 0),
            f"averaged{k}": half if target == "fake_real" else x.numel(),
        }
        texts[f"dtype{k}"] = name_of(x.dtype)
    return values, texts


def forward(
    outputs: Sequence[Tensor], targets: Sequence[str], weights: Sequence[float], gan_type: str, **options
) -> tuple[Tensor, Tensor, Reply]:
    """Return values, total and the reply. Outputs are dense."""
    values, texts = _maps(outputs, targets, weights, gan_type)
    dtype = getattr(torch, texts["dtype"])
    results = {"values": torch.empty(len(outputs), dtype=dtype), "total": torch.empty((), dtype=dtype)}
    reply = emulate("gan_loss", values, texts, {f"x{k}": x for k, x in enumerate(outputs)}, results, **options)
    return results["values"], results["total"], reply


def backward(
    dvalues: Tensor,
    dtotal: Tensor,
    outputs: Sequence[Tensor],
    targets: Sequence[str],
    weights: Sequence[float],
    gan_type: str,
    wants: Sequence[bool] | None = None,
    **options,
) -> tuple[list[Tensor], Reply]:
    """Return the gradients of the outputs for which `wants` is true (default: all), and the reply."""
    values, texts = _maps(outputs, targets, weights, gan_type)
    wants = wants or [True] * len(outputs)
    gradients = {f"dx{k}": torch.empty_like(x) for k, (x, want) in enumerate(zip(outputs, wants, strict=True)) if want}
    arrays = {f"x{k}": x for k, x in enumerate(outputs)} | {"dvalues": dvalues, "dtotal": dtotal}
    reply = emulate("gan_loss", values, {**texts, "pass": "backward"}, arrays, gradients, **options)
    return list(gradients.values()), reply


def results(outputs, targets, weights, gan_type, dvalues, wants=None, **options):
    """Return what `gan_loss_cases.run` returns."""
    values, total, _ = forward(outputs, targets, weights, gan_type, **options)
    slopes = dvalues.to(values.dtype), torch.tensor(0.75, dtype=values.dtype)
    gradients, _ = backward(*slopes, outputs, targets, weights, gan_type, wants, **options)
    return [values, total, *gradients]


def check(outputs, targets, weights, gan_type, wants=None, **options):
    """Compare forward and backward with float64."""
    dvalues = torch.linspace(-1, 2, len(outputs), dtype=torch.float64)
    ours = results(outputs, targets, weights, gan_type, dvalues, wants, **options)
    gan_loss_cases.check(ours, outputs, targets, weights, gan_type, dvalues, wants)
