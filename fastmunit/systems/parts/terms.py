"""Loss terms of one half of an iteration, and their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fastmunit import functional


class L1(NamedTuple):
    """The mean absolute difference of two tensors. One kernel computes all L1 terms of a sum."""

    value: Tensor
    target: Tensor


class Term(NamedTuple):
    """One row in the table of a loss: the name after loss_gen_ or loss_dis_, the weight and the value."""

    name: str
    weight: float
    value: Tensor | L1


class Losses(NamedTuple):
    """The loss of one half of an iteration.

    Attributes:
        total: Weighted sum of the terms, with its graph.
        terms: Unweighted terms by name, without graph. Terms that are switched off are absent.
        outputs: Tensors (N, ...) without graph that the other half needs, such as translations.
    """

    total: Tensor
    terms: dict[str, Tensor]
    outputs: tuple[Tensor, ...] = ()


def weighted_sum(terms: Sequence[Term], start: Tensor | None = None) -> Losses:
    """Return start + Σ weight · value. The L1 terms are added first, as one sum, then the others in their order."""
    total, values = start, {}
    differences = {term.name: (*term.value, term.weight) for term in terms if isinstance(term.value, L1)}
    if differences:
        inputs, targets, weights = zip(*differences.values(), strict=True)
        means, weighted = functional.weighted_l1(inputs, targets, weights)
        total = weighted if total is None else total + weighted
        values = dict(zip(differences, means.detach().unbind(), strict=True))
    for name, weight, value in terms:
        if isinstance(value, Tensor):
            total = weight * value if total is None else total + weight * value
            values[name] = value.detach()
    if total is None:
        raise ValueError("a loss needs at least one term.")
    return Losses(total, values)
