"""Loss terms of one half of an iteration, and their weighted sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from fastmunit import functional
from fastmunit.functional.gan_loss import MAX_MAPS
from fastmunit.systems.parts.losses import Adversarial


class L1(NamedTuple):
    """The mean absolute difference of two tensors. One kernel computes all L1 terms of a sum."""

    value: Tensor
    target: Tensor


class Term(NamedTuple):
    """One row in the table of a loss: the name after loss_gen_ or loss_dis_, the weight and the value."""

    name: str
    weight: float
    value: Tensor | L1 | Adversarial


class Losses(NamedTuple):
    """The loss of one half of an iteration.

    Attributes:
        total: Weighted sum of the terms, with its graph.
        terms: Unweighted terms by name, without graph. Terms that are switched off are absent. Adversarial terms are
            followed by those of their scales, finest first: "adv_a", "adv_a/0", "adv_a/1".
        outputs: Tensors (N, ...) without graph that the other half needs, such as translations.
    """

    total: Tensor
    terms: dict[str, Tensor]
    outputs: tuple[Tensor, ...] = ()


def weighted_sum(terms: Sequence[Term], start: Tensor | None = None) -> Losses:
    """Return start + Σ weight · value.

    The L1 terms are added first, as one sum, then the adversarial terms, as another, then the others in their order. On
    the reference path, the adversarial terms are among the others.
    """
    total, values = start, {}
    differences = {term.name: (*term.value, term.weight) for term in terms if isinstance(term.value, L1)}
    if differences:
        inputs, targets, weights = zip(*differences.values(), strict=True)
        means, weighted = functional.weighted_l1(inputs, targets, weights)
        total = _plus(total, weighted)
        values = dict(zip(differences, means.detach().unbind(), strict=True))
    adversarial = [term for term in terms if isinstance(term.value, Adversarial)]
    together = not functional.exact_order()
    if adversarial and together:
        total, parts, _ = adversarial_sum(adversarial, total)
        values |= parts
    for term in terms:
        if isinstance(term.value, Tensor):
            total = _plus(total, term.weight * term.value)
            values[term.name] = term.value.detach()
        elif isinstance(term.value, Adversarial) and not together:
            total, parts, _ = adversarial_sum([term], total)
            values |= parts
    if total is None:
        raise ValueError("a loss needs at least one term.")
    return Losses(total, values)


def adversarial_sum(terms: Sequence[Term], start: Tensor | None = None, factor: float = 1.0) -> Losses:
    """Return start + Σ weight · factor · value of adversarial terms, whose values one op computes.

    Args:
        terms: One or more terms with an `Adversarial` as their value.
        start: What they are added to.
        factor: A factor of all values, such as the half in CycleGAN's loss of the discriminators.

    Returns:
        The sum and, multiplied by `factor`, the terms and those of their scales.
    """
    total = start
    values: dict[str, Tensor] = {}
    for batch in _in_one_call(terms):
        if functional.exact_order():
            total, parts = _in_order(batch, total, factor)
        else:
            total, parts = _in_one_op(batch, total, factor)
        values |= parts
    assert total is not None
    return Losses(total, values)


def _in_order(
    terms: Sequence[tuple[str, float, Adversarial]], total: Tensor | None, factor: float
) -> tuple[Tensor | None, dict[str, Tensor]]:
    values: dict[str, Tensor] = {}
    for name, weight, loss in terms:
        value, scales = loss.in_order()
        if factor != 1:
            value, scales = factor * value, [factor * scale for scale in scales]
        total = _plus(total, weight * value)
        values[name] = value.detach()
        values |= {f"{name}/{k}": scale.detach() for k, scale in enumerate(scales)}
    return total, values


def _in_one_op(
    terms: Sequence[tuple[str, float, Adversarial]], total: Tensor | None, factor: float
) -> tuple[Tensor, dict[str, Tensor]]:
    maps = [output for *_, loss in terms for output in loss.maps]
    targets = [target for *_, loss in terms for target in loss.targets]
    weights = [weight * factor for _, weight, loss in terms for _ in loss.maps]
    losses, weighted = functional.gan_loss(maps, targets, weights, terms[0][2].gan_type)
    losses = losses.detach() if factor == 1 else factor * losses.detach()
    values: dict[str, Tensor] = {}
    sizes = [len(loss.maps) for *_, loss in terms]
    if len(set(sizes)) == 1:
        sums = losses.view(len(terms), -1).sum(1).unbind()
    else:
        sums = tuple(part.sum() for part in losses.split(sizes))
    for (name, _, loss), value, part in zip(terms, sums, losses.split(sizes), strict=True):
        scales = part if len(part) == len(loss.scales) else part.view(len(loss.scales), -1).sum(1)
        values[name] = value
        values |= {f"{name}/{k}": scale for k, scale in enumerate(scales.unbind())}
    return _plus(total, weighted), values


def _in_one_call(terms: Sequence[Term]) -> Iterator[list[tuple[str, float, Adversarial]]]:
    """Yield terms in order, as many at a time as one call of the op takes."""
    batch: list[tuple[str, float, Adversarial]] = []
    for name, weight, value in terms:
        if not isinstance(value, Adversarial):
            raise TypeError(f"expected the value of {name} to be Adversarial, got {type(value).__name__}.")
        maps = sum(len(loss.maps) for *_, loss in batch) + len(value.maps)
        if batch and (maps > MAX_MAPS or value.gan_type != batch[0][2].gan_type):
            yield batch
            batch = []
        batch.append((name, weight, value))
    if batch:
        yield batch


def _plus(total: Tensor | None, value: Tensor) -> Tensor:
    return value if total is None else total + value
