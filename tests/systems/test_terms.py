"""Tests of weighted sums of loss terms."""

from __future__ import annotations

import pytest
import torch

from fastmunit.systems.parts.terms import L1, Term, weighted_sum


def test_a_sum_is_its_formula_and_terms_are_unweighted() -> None:
    x, y = (torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in ([1.0, 4.0], [2.0, 2.0]))
    terms = [Term("adv", 2.0, x.sum()), Term("first", 10.0, L1(x, y)), Term("second", 0.0, L1(x, 3 * y))]
    total, values, outputs = weighted_sum(terms, start=torch.tensor(0.5, dtype=torch.float64))
    total.backward()
    assert float(total.detach()) == 0.5 + 2 * 5 + 10 * 1.5
    assert {name: float(value) for name, value in values.items()} == {"adv": 5, "first": 1.5, "second": 3.5}
    assert not any(value.requires_grad for value in values.values())
    assert outputs == ()
    assert x.grad is not None and x.grad.tolist() == [2 - 5, 2 + 5]


def test_l1_terms_are_added_first() -> None:
    """The order of a floating-point sum does not depend on where the L1 terms are in the table."""
    large = torch.tensor(1e8)
    difference = Term("recon", 1.0, L1(torch.ones(3), torch.zeros(3)))
    total = weighted_sum([Term("plus", 1.0, large), Term("minus", -1.0, large), difference]).total
    assert float(total) == 0.0 != float((large - large) + 1)


def test_an_empty_sum_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        weighted_sum([])
