"""The runner of optimizer steps: how it clears gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastmunit.config import Config
from fastmunit.systems.parts.stepper import Stepper, Weights
from fastmunit.systems.parts.terms import Losses


class Halving(torch.optim.SGD):
    """An optimizer that halves gradients instead of clearing them."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad /= 2


def gradients_of_two_steps(optimizer: torch.optim.Optimizer, network: nn.Linear) -> list[Tensor | None]:
    """Return the gradient of the bias when the loss of each of two steps is computed, and at the end."""
    seen: list[Tensor | None] = []

    def note() -> None:
        seen.append(None if network.bias.grad is None else network.bias.grad.clone())

    def loss_of(tensors: Sequence[Tensor], weights: Weights) -> Losses:
        note()
        return Losses(network(tensors[0]).sum(), {}, ())

    stepper = Stepper(Config())
    for _ in range(2):
        stepper.descend("gen", optimizer, loss_of, [torch.ones(3, 2)], {}, None)
    note()
    return seen


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_gradients_are_cleared_without_a_mark_for_profilers(optimizer: Any) -> None:
    network = nn.Linear(2, 1)
    optimizer = optimizer(network.parameters())
    with torch.profiler.profile() as profile:
        before, between, after = gradients_of_two_steps(optimizer, network)
    assert before is None
    assert between is None
    assert after is not None and after.item() == 3
    names = [event.name for event in profile.events()]
    assert any(name.startswith("Optimizer.step") for name in names)
    assert not any(name.startswith("Optimizer.zero_grad") for name in names)


def test_an_optimizer_clears_gradients_in_its_own_way() -> None:
    network = nn.Linear(2, 1)
    _, between, after = gradients_of_two_steps(Halving(network.parameters(), lr=0.1), network)
    assert between is not None and between.item() == 1.5
    assert after is not None and after.item() == 4.5


def test_zero_grad_of_an_instance_is_called() -> None:
    network = nn.Linear(2, 1)
    optimizer, calls = torch.optim.SGD(network.parameters(), lr=0.1), []
    optimizer.zero_grad = lambda: calls.append(1)  # type: ignore[assignment, method-assign]
    *_, after = gradients_of_two_steps(optimizer, network)
    assert len(calls) == 2
    assert after is not None and after.item() == 6
