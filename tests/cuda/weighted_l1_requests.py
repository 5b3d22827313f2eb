"""Runs the emulated CUDA launchers of weighted_l1 on tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.cuda.emulated import Reply, emulate, name_of


def _terms(inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float]) -> tuple[dict, dict]:
    double = any(x.dtype == torch.float64 for x in (*inputs, *targets))
    values: dict[str, int | float] = {"terms": len(inputs)}
    texts = {"dtype": "float64" if double else "float32"}
    for k, (input, target, weight) in enumerate(zip(inputs, targets, weights, strict=True)):
        values |= {f"count{k}": input.numel(), f"weight{k}": weight}
        texts |= {f"input_dtype{k}": name_of(input.dtype), f"target_dtype{k}": name_of(target.dtype)}
    return values, texts


def forward(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float], *, keep_signs: bool = True, **options
) -> tuple[Tensor, Tensor, Tensor, Reply]:
    """Values, total and signs. A pair's tensors must have the same strides."""
    values, texts = _terms(inputs, targets, weights)
    dtype = getattr(torch, texts["dtype"])
    arrays = {f"input{k}": x for k, x in enumerate(inputs)} | {f"target{k}": x for k, x in enumerate(targets)}
    outputs = {"values": torch.empty(len(inputs), dtype=dtype), "total": torch.empty((), dtype=dtype)}
    if keep_signs:
        outputs["signs"] = torch.empty(sum(x.numel() for x in inputs), dtype=torch.int8)
    reply = emulate("weighted_l1", values, texts, arrays, outputs, **options)
    return outputs["values"], outputs["total"], outputs.get("signs", torch.empty(0, dtype=torch.int8)), reply


def backward(
    dvalues: Tensor,
    dtotal: Tensor,
    signs: Tensor,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    wanted: Sequence[bool] | None = None,
    **options,
) -> tuple[list[Tensor], Reply]:
    """The gradients of those inputs, then targets, that are wanted."""
    values, texts = _terms(inputs, targets, weights)
    names = [f"dinput{k}" for k in range(len(inputs))] + [f"dtarget{k}" for k in range(len(inputs))]
    wanted = wanted or [True] * len(names)
    outputs = {
        name: torch.empty_like(x) for name, x, want in zip(names, (*inputs, *targets), wanted, strict=True) if want
    }
    arrays = {"dvalues": dvalues, "dtotal": dtotal, "signs": signs}
    reply = emulate("weighted_l1", values, {**texts, "pass": "backward"}, arrays, outputs, **options)
    return list(outputs.values()), reply
