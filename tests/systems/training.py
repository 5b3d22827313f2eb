"""Checks of training iterations that the tests of several systems share."""

from __future__ import annotations

import pytest
import torch

from fastmunit.systems.base import System


def logged_values(trainer: System) -> dict[str, float]:
    """Return the attributes that the public training script logs: it searches the names of all attributes."""
    names = [name for name in dir(trainer) if "loss" in name or "grad" in name or "nwd" in name]
    return {
        name: float(getattr(trainer, name))
        for name in names
        if not name.startswith("__") and not callable(getattr(trainer, name))
    }


def assert_same_losses_and_gradients(ours: System, plain: System) -> None:
    """Compare two float64 iterations, in which the rounding of batches and fused kernels is negligible."""
    for name, loss in plain.losses().items():
        assert float(ours.losses()[name]) == pytest.approx(float(loss), rel=1e-10), name
    for network in ("gen_a", "gen_b"):
        for name, parameter in getattr(plain, network).named_parameters():
            other = getattr(ours, network).get_parameter(name).grad
            torch.testing.assert_close(other, parameter.grad, rtol=1e-7, atol=1e-11)
