"""Run the emulated CUDA launchers of weighted_l1 on tensors and compare them with float64."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastmunit import reference
from fastmunit.testing import assert_as_exact_as, make_map
from tests.cuda.emulated import Reply, emulate, name_of

# Images, content codes and style codes as in a step of MUNIT, and sizes that are no multiple of a chunk or segment.
SHAPES = [(1, 3, 64, 64), (2, 3, 31, 33), (1, 64, 16, 16), (3, 5, 7, 9), (1, 8, 1, 1), (2, 1, 65, 64)]


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
    """Return values, total, signs and the reply. The tensors of a pair must have the same strides."""
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
    needed: Sequence[bool] | None = None,
    **options,
) -> tuple[list[Tensor], Reply]:
    """Return the gradients of the inputs, then targets, for which `needed` is true (default: all), and the reply."""
    values, texts = _terms(inputs, targets, weights)
    names = [f"dinput{k}" for k in range(len(inputs))] + [f"dtarget{k}" for k in range(len(inputs))]
    needed = needed or [True] * len(names)
    outputs = {
        name: torch.empty_like(x) for name, x, need in zip(names, (*inputs, *targets), needed, strict=True) if need
    }
    arrays = {"dvalues": dvalues, "dtotal": dtotal, "signs": signs}
    reply = emulate("weighted_l1", values, {**texts, "pass": "backward"}, arrays, outputs, **options)
    return list(outputs.values()), reply


def make_pairs(dtypes, layout="nchw", shapes=SHAPES):
    """Return pairs of the given shapes; the tensors use the dtypes in turn."""
    dtypes = itertools.cycle(dtypes)
    tensors = [make_map(shape, next(dtypes), layout, seed=k) for k, shape in enumerate(shapes * 2)]
    return tensors[: len(shapes)], tensors[len(shapes) :]


def plain(inputs, targets, weights, dvalues, dtotal):
    """Return values, total and all gradients of the reference."""
    tensors = [x.detach().requires_grad_() for x in (*inputs, *targets)]
    values, total = reference.weighted_l1(tensors[: len(inputs)], tensors[len(inputs) :], weights)
    loss = (values * dvalues.to(values.dtype)).sum() + total * dtotal
    return [values.detach(), total.detach(), *torch.autograd.grad(loss, tensors)]


def check(inputs, targets, weights, needed=None, **options):
    """Compare forward and backward with float64."""
    dvalues = make_map((1, len(inputs), 1, 1), seed=99).flatten().double()
    dtotal = torch.tensor(0.75, dtype=torch.float64)
    values, total, signs, _ = forward(inputs, targets, weights, **options)
    slopes = (dvalues.to(values.dtype), dtotal.to(values.dtype))
    gradients, _ = backward(*slopes, signs, inputs, targets, weights, needed, **options)
    low = plain(inputs, targets, weights, dvalues, 0.75)
    exact = plain([x.double() for x in inputs], [x.double() for x in targets], weights, dvalues, 0.75)
    if len({x.dtype for x in (*inputs, *targets)}) > 1:  # float64 results of float32 terms are no more exact
        values, total, *low[:2] = (x.float() for x in (values, total, *low[:2]))
    terms = sum(abs(weight) * float(value) for weight, value in zip(weights, exact[0], strict=True))
    scales = [abs(w * 0.75) + abs(float(dv)) for w, dv in zip(weights, dvalues, strict=True)]
    scales = [scale / max(1, x.numel()) for scale, x in zip(scales * 2, (*inputs, *targets), strict=True)]
    kept = needed or [True] * len(scales)
    low[2:], exact[2:], scales = (list(itertools.compress(x, kept)) for x in (low[2:], exact[2:], scales))
    ours = [values, total, *gradients]
    for k, (result, plainly, exactly, scale) in enumerate(zip(ours, low, exact, [None, terms, *scales], strict=True)):
        assert_as_exact_as(result, plainly, exactly, f"result {k}", scale=scale)
