"""Tests of halves that replay graphs: emulated on the CPU, and on a GPU."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.systems import registry
from fastmunit.systems.coupled import CoupledAutoencoders
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts import cuda_graph
from fastmunit.systems.parts.captured_halves import CapturedHalves
from fastmunit.systems.parts.cuda_graph import GraphMemory
from fastmunit.systems.parts.forward_cache import Origin
from tests.systems.emulated_graphs import EmulatedGraph, emulate

OVERRIDES = [
    "gen.dim=2", "gen.mlp_dim=4", "gen.n_res=1", "gen.n_downsample=1", "dis.dim=2", "dis.n_layer=1", "dis.num_scales=1",
    "display_size=1", "cuda_graph=true",
]  # fmt: skip

SMALL = ("demo_unit", "recon_x_cyc_w=0", "recon_kl_cyc_w=0")

Change = Callable[[CoupledAutoencoders, Tensor, Tensor], None]


def trainer_of(recipe: str, *overrides: str, **options: bool) -> Any:
    torch.manual_seed(0)
    config = Config.load(recipe, [*OVERRIDES, *overrides])
    return registry.system_of(config)(config, **options)


def images(seed: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(batch, 3, 16, 16, generator=generator) * 2 - 1 for _ in range(2))
    return a, b


def pair(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.update_learning_rate()
    trainer.dis_update(x_a, x_b)
    trainer.gen_update(x_a, x_b)
    trainer.update_averages()


def pair_with_other_weights(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    hyperparameters = trainer.config.to_dict() | {"recon_x_w": 3}
    trainer.dis_update(x_a, x_b, hyperparameters)
    trainer.gen_update(x_a, x_b, hyperparameters)


def generators_twice(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    pair(trainer, x_a, x_b)
    trainer.gen_update(x_a, x_b)


def discriminators_twice(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.dis_update(x_b, x_a)
    pair(trainer, x_a, x_b)


def other_images(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.dis_update(x_a, x_b)
    trainer.gen_update(x_a.clone(), x_b)


def modified_images(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.dis_update(x_a, x_b)
    x_a.mul_(0.5)
    trainer.gen_update(x_a, x_b)


def modified_weights(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.dis_update(x_a, x_b)
    with torch.no_grad():
        next(trainer.content_encoders()[1].parameters()).abs_()
    trainer.gen_update(x_a, x_b)


def step_between(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.dis_update(x_a, x_b)
    trainer.step(x_b, x_a)
    trainer.gen_update(x_a, x_b)


def reloaded(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.dis_update(x_a, x_b)
    trainer.load_state_dict({name: 0.9 * value for name, value in trainer.state_dict().items()})
    trainer.gen_update(x_a, x_b)


def reloaded_optimizer(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.gen_opt.load_state_dict(copy.deepcopy(trainer.gen_opt.state_dict()))
    pair(trainer, x_a, x_b)


def another_rate(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    for optimizer in trainer.optimizers().values():
        optimizer.param_groups[0]["lr"] = 5e-3
    pair(trainer, x_a, x_b)


def larger_batch(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    pair(trainer, torch.cat([x_a, x_b]), torch.cat([x_b, x_a]))


CHANGES: list[Change] = [
    generators_twice, discriminators_twice, other_images, modified_images, modified_weights, step_between, pair,
    reloaded, reloaded_optimizer, another_rate, larger_batch, pair_with_other_weights,
]  # fmt: skip


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[EmulatedGraph]:
    monkeypatch.setattr(cuda_graph, "_WARM_UP", 1)
    return emulate(monkeypatch)


def trained(trainer: CoupledAutoencoders, changes: list[Change]) -> list[dict[str, float]]:
    """Return the losses after each of several calls."""
    torch.manual_seed(3)
    losses = []
    for seed, change in enumerate(changes):
        x_a, x_b = images(seed)
        change(trainer, x_a.to(trainer.device), x_b.to(trainer.device))
        losses.append({name: float(loss) for name, loss in trainer.losses().items()})
    return losses


def both(
    monkeypatch: pytest.MonkeyPatch,
    changes: list[Change],
    recipe: str,
    *overrides: str,
    device: str = "cpu",
    **options: bool,
) -> Any:
    """Run the same calls with and without replays: return both trainers and their losses."""
    replaying, eager = (trainer_of(recipe, *overrides, **options).to(device) for _ in range(2))
    found = trained(replaying, changes)
    with monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "_WARM_UP", 10**9)
        expected = trained(eager, changes)
    return replaying, eager, found, expected


def assert_same(replaying: Any, eager: Any, found: Any, expected: Any) -> None:
    assert found == expected
    for name, value in eager.state_dict().items():
        assert torch.equal(replaying.state_dict()[name], value), name
    averages = [t.averages.values(t.generators()).values() if t.averages else () for t in (replaying, eager)]
    assert all(map(torch.equal, *averages))
    for name, parameter in eager.gen_a.named_parameters():
        assert torch.equal(replaying.gen_a.get_parameter(name).grad, parameter.grad), name


def shares(first: EmulatedGraph, second: EmulatedGraph) -> bool:
    """Return True if the second graph reads what the first one writes."""
    return not second.reads.isdisjoint(first.written)


@pytest.mark.parametrize(
    ("recipe", "overrides", "reuse_codes"),
    [
        ("demo", ["ema_decay=0.9", "checkpointing=true"], True),
        ("demo", ["share_fakes=true", "recon_x_cyc_w=1"], True),
        ("demo_unit", [], True),
        ("demo_unit", ["precision=bfloat16"], False),
    ],
)
def test_replayed_halves_are_the_same_training(
    recipe: str, overrides: list[str], reuse_codes: bool, graphs: list[EmulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same(*both(monkeypatch, [pair] * 4, recipe, *overrides, reuse_codes=reuse_codes))
    assert [graph.replays for graph in graphs] == [2, 2]
    assert shares(*graphs) == reuse_codes


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["demo", "demo_unit"])
@pytest.mark.parametrize("overrides", [[], ["ema_decay=0.9", "checkpointing=true"], ["share_fakes=true"]])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replayed_halves_are_the_same_training_on_a_gpu(
    recipe: str, overrides: list[str], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    changes: list[Change] = [*[pair] * 8, *CHANGES, *[pair] * 8]
    assert_same(*both(monkeypatch, changes, recipe, f"precision={precision}", *overrides, device="cuda"))


@pytest.mark.gpu
def test_all_graphs_have_one_pool() -> None:
    trainer = trainer_of("demo").cuda()
    trained(trainer, [*[pair] * 6, *[other_images] * 2, *[MUNIT.step] * 6])
    graphs = [graph for iteration in trainer.stepper.graphs._iterations.values() for graph in iteration.graphs()]
    assert len(graphs) == 4
    assert len({graph.pool() for graph in graphs}) == 1


def test_parts_of_a_batch_share_no_forward_pass() -> None:
    tensors = (*images(0), torch.zeros(1, 8, 1, 1), torch.zeros(1, 8, 1, 1))
    assert trainer_of("demo").shared_forward(tensors).inputs == tensors[:2]
    assert trainer_of("demo", "share_fakes=true").shared_forward(tensors).inputs == tensors
    assert trainer_of("demo", "micro_batches=2").shared_forward(tensors) is None
    assert trainer_of("demo", reuse_codes=False).shared_forward(tensors) is None
    with torch.inference_mode():
        assert trainer_of("demo").shared_forward(tuple(x.clone() for x in tensors)) is None


def test_other_calls_are_the_same_training(graphs: list[EmulatedGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of calls that do not fit compute everything, and changes of the training are followed."""
    assert_same(*both(monkeypatch, [*[pair] * 3, *CHANGES, *[pair] * 3], *SMALL))


def test_graphs_that_share_are_captured_once(graphs: list[EmulatedGraph]) -> None:
    """Calls that do not fit get a graph of their own. The others stay."""
    trainer = trainer_of(*SMALL)
    trained(trainer, [*[pair] * 3, other_images, pair, other_images, pair])
    first, second, alone = graphs
    assert [graph.replays for graph in graphs] == [5, 3, 2]
    assert shares(first, second) and not shares(first, alone)


def discriminators_only(trainer: CoupledAutoencoders, x_a: Tensor, x_b: Tensor) -> None:
    trainer.dis_update(x_a, x_b)


def test_a_half_that_is_ready_later_has_the_other_one_captured_again(
    graphs: list[EmulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "_WARM_UP", 2)
    trainer = trainer_of(*SMALL)
    trained(trainer, [*[discriminators_only] * 2, *[pair] * 7])
    *_, again, second = graphs
    assert shares(again, second)
    assert second.replays == again.replays == 3
    assert len(graphs) == 4


def test_a_half_asks_for_another_capture_only_once(
    graphs: list[EmulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "_WARM_UP", 2)
    trainer = trainer_of(*SMALL)
    trained(trainer, [*[discriminators_only] * 2, *[pair] * 4, other_images, pair, pair])
    *_, again, alone = graphs
    assert not shares(again, alone)
    assert alone.replays == again.replays == 3
    assert len(graphs) == 4


@pytest.mark.parametrize(("check", "change"), [("origin", modified_weights), ("order", generators_twice)])
def test_without_its_checks_a_replay_is_wrong(
    check: str, change: Change, graphs: list[EmulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [*[pair] * 3, change]
    expected = trained(trainer_of(*SMALL), changes)  # which is right, as the test above shows
    monkeypatch.setattr(Origin, "same", lambda self, other: True)
    if check == "order":
        monkeypatch.setattr(CapturedHalves, "_handover", _Kept(), raising=False)
    found = trained(trainer_of(*SMALL), changes)
    assert found[:-1] == expected[:-1]
    assert found[-1] != expected[-1]


class _Kept:
    """A descriptor that keeps the last value that was not None."""

    def __get__(self, owner: Any, kind: Any) -> Any:
        return owner.__dict__.get("kept")

    def __set__(self, owner: Any, value: Any) -> None:
        if value is not None:
            owner.__dict__["kept"] = value


def test_copies_and_pickles_have_no_graphs(graphs: list[EmulatedGraph]) -> None:
    trainer = trainer_of(*SMALL)
    trained(trainer, [pair] * 3)
    assert len(graphs) == 2
    other = copy.deepcopy(trainer)
    pickle.loads(pickle.dumps(trainer.stepper.graphs))
    torch.manual_seed(5)
    pair(other, *images(7))
    assert len(graphs) == 2
    assert isinstance(pickle.loads(pickle.dumps(GraphMemory())), GraphMemory)
