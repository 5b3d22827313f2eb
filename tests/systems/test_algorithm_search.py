"""Tests of cuDNN's search during updates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.algorithm_search import AlgorithmSearch

OVERRIDES = [
    "gen.dim=2", "gen.mlp_dim=4", "gen.n_res=1", "gen.n_downsample=1", "dis.dim=2", "dis.n_layer=1", "dis.num_scales=1",
    "display_size=1",
]  # fmt: skip


class OnGPU:
    """A stand-in for a tensor on a GPU."""

    device = torch.device("cuda")

    def __init__(self, *shape: int) -> None:
        self.shape = torch.Size(shape)


def inputs(*shape: int) -> Any:
    return {"dis": (OnGPU(*shape), OnGPU(*shape))}


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)


def searches(search: AlgorithmSearch, *shape: int) -> bool:
    before = torch.backends.cudnn.benchmark
    with search.during(inputs(*shape)):
        found = torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before
    return found


def test_recurring_shapes_are_searched() -> None:
    search = AlgorithmSearch(True)
    assert [searches(search, 1, 3, 8, 8) for _ in range(3)] == [False, True, True]
    assert [searches(search, 1, 3, 8, 16) for _ in range(2)] == [False, True]
    assert searches(search, 1, 3, 8, 8)


def test_ever_new_shapes_are_not_searched_nor_all_remembered() -> None:
    search = AlgorithmSearch(True)
    assert not any(searches(search, 1, 3, size, size) for size in range(100))
    assert not searches(search, 1, 3, 0, 0)
    assert searches(search, 1, 3, 99, 99)


def test_the_setting_is_restored_after_an_error() -> None:
    search = AlgorithmSearch(True)
    searches(search, 1, 3, 8, 8)
    found = []

    def update() -> None:
        with search.during(inputs(1, 3, 8, 8)):
            found.append(torch.backends.cudnn.benchmark)
            raise ValueError("in the update")

    with pytest.raises(ValueError, match="in the update"):
        update()
    assert found == [True]
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("how", ["option", "torch", "cudnn", "cpu"])
def test_it_is_left_out(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = AlgorithmSearch(how != "option")
    if how == "torch":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    if how == "cudnn":
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    if how == "cpu":
        monkeypatch.setattr(OnGPU, "device", torch.device("cpu"))
    assert [searches(search, 1, 3, 8, 8) for _ in range(3)] == [False] * 3
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert searches(search, 1, 3, 8, 8)


def test_every_update_may_search(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = MUNIT(Config.load("demo", OVERRIDES))
    found: list[tuple[str, ...]] = []

    def run_halves(tensors: dict[str, tuple[Tensor, ...]], weights: Any) -> None:
        if torch.backends.cudnn.benchmark:
            found.append(tuple(tensors))

    monkeypatch.setattr(trainer, "run_halves", run_halves)
    x = torch.zeros(1, 3, 8, 8)
    calls = (trainer.step, trainer.update, trainer.dis_update, trainer.gen_update)
    for call in calls:
        call(x, x)
    assert found == []
    monkeypatch.setattr(AlgorithmSearch, "during", lambda self, _: torch.backends.cudnn.flags(benchmark=True))
    for call in calls:
        call(x, x)
    assert found == [("dis", "gen"), ("dis", "gen"), ("dis",), ("gen",)]


@pytest.mark.gpu
def test_a_training_on_a_gpu_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = MUNIT(Config.load("demo", OVERRIDES)).cuda()
    run_halves, found = trainer.run_halves, []

    def noted(*arguments: Any, **keywords: Any) -> Any:
        found.append(torch.backends.cudnn.benchmark)
        return run_halves(*arguments, **keywords)

    monkeypatch.setattr(trainer, "run_halves", noted)
    for _ in range(3):
        trainer.step(*torch.zeros(2, 1, 3, 8, 8, device="cuda"))
    assert found == [False, True, True]
    assert not torch.backends.cudnn.benchmark
