"""Weights, averages, losses and pools in float64 are the same in one, two and four processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distributed.cases import CASES, SHORT
from tests.distributed.launch import run
from tests.distributed.worker import everything, trained


def largest_difference(name: str, several: Path) -> float:
    """Return the largest difference over all tensors of a case between one process and a file of several."""
    one, other = everything(trained(name)), torch.load(several, weights_only=True)
    assert one.keys() == other.keys()
    return max((value.double() - other[key].double()).abs().max().item() for key, value in one.items())


def test_two_processes_train_as_one(of_two_processes: Path) -> None:
    for name in SHORT:
        assert largest_difference(name, of_two_processes / f"2_{list(CASES).index(name)}.pt") <= 1e-8, name


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_every_case(world: int, tmp_path: Path) -> None:
    run(world, "-m", "tests.distributed.worker", "systems", str(tmp_path))
    found = {name: largest_difference(name, tmp_path / f"{world}_{k}.pt") for k, name in enumerate(CASES)}
    print("\n".join(f"{world} processes, {name}: {value:.1e}" for name, value in found.items()))
    assert max(found.values()) <= 1e-8, found
