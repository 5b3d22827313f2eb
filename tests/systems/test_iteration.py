"""Tests that the halves of an iteration share computations without changing a bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.forward_cache import ForwardCache
from fastmunit.testing.reference_step import reference_step
from tests.systems.training import assert_same_losses_and_gradients

OVERRIDES = [
    "gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "dis.n_layer=2", "dis.num_scales=2", "precision=float32",
]  # fmt: skip


def trainer_of(*overrides: str, **options: bool) -> MUNIT:
    torch.manual_seed(0)
    return MUNIT(Config.load("demo", [*OVERRIDES, *overrides]), **options)


def images(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1, torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1


def run(trainer: MUNIT, between: Callable[[MUNIT, Tensor, Tensor], object] = lambda *_: None, steps: int = 2) -> MUNIT:
    torch.manual_seed(3)
    for index in range(steps):
        x_a, x_b = images(index)
        trainer.update_learning_rate()
        trainer.dis_update(x_a, x_b)
        between(trainer, x_a, x_b)
        trainer.gen_update(x_a, x_b)
    return trainer


def assert_same_weights(ours: MUNIT, theirs: MUNIT) -> None:
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name


def encodings(trainer: MUNIT) -> list[int]:
    counts: list[int] = []
    for generator in (trainer.gen_a, trainer.gen_b):
        generator.enc_content.register_forward_hook(lambda *_: counts.append(1))
    return counts


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_sharing_codes_changes_no_bit(implementation: functional.Implementation) -> None:
    with functional.use_implementation(implementation):
        shared, separate = trainer_of(), trainer_of(reuse_codes=False)
        count_shared, count_separate = encodings(shared), encodings(separate)
        assert_same_weights(run(shared), run(separate))
    assert (len(count_shared), len(count_separate)) == (8, 12)


def write_weights(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> None:
    with torch.no_grad():
        next(trainer.gen_a.enc_content.parameters()).mul_(1.5)


def write_images(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> None:
    x_b.mul_(0.5)


def load_weights(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> None:
    trainer.gen_b.load_state_dict({name: value * 0.5 for name, value in trainer.gen_b.state_dict().items()})


@pytest.mark.parametrize("change", [write_weights, write_images, load_weights])
def test_codes_that_are_no_longer_right_are_not_used(change: Callable[[MUNIT, Tensor, Tensor], object]) -> None:
    assert_same_weights(run(trainer_of(), change), run(trainer_of(reuse_codes=False), change))


def test_other_tensors_are_encoded_again() -> None:
    trainer = trainer_of()
    counts = encodings(trainer)
    trainer.dis_update(*images())
    trainer.gen_update(*images())
    assert len(counts) == 6


def test_codes_of_another_precision_are_not_used() -> None:
    images, network = torch.rand(1, 3, 8, 8), torch.nn.Conv2d(3, 4, 3)
    for autocast, used in ((False, True), (True, False)):
        cache = ForwardCache()
        cache.keep([images], [network], (network(images),))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert (cache.reuse([images], [network]) is not None) == used


def test_a_trainer_can_be_copied_between_its_halves() -> None:
    results = []

    def keep(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> None:
        results.append(copy.deepcopy(trainer))

    run(trainer_of(), keep, steps=1)
    x_a, x_b = images(0)
    torch.manual_seed(5)
    results[0].gen_update(x_a, x_b)
    assert torch.isfinite(results[0].loss_gen_total)


def test_step_is_the_three_calls() -> None:
    stepped = trainer_of()
    torch.manual_seed(3)
    for index in range(2):
        stepped.step(*images(index))
    assert_same_weights(stepped, run(trainer_of()))


@pytest.mark.parametrize("overrides", [(), ("recon_x_cyc_w=10",), ("dis.norm=sn",), ("dis.norm=bn",)])
def test_reference_step_has_the_same_losses_and_gradients(overrides: tuple[str, ...]) -> None:
    trainers = [trainer_of(*overrides).double() for _ in range(2)]
    x_a, x_b = (x.double() for x in images())
    for trainer, step in zip(trainers, (reference_step, MUNIT.step), strict=True):
        torch.manual_seed(4)
        step(trainer, x_a, x_b)
    assert_same_losses_and_gradients(ours=trainers[1], plain=trainers[0])


def test_reference_step_says_that_it_has_no_perceptual_loss() -> None:
    trainer = trainer_of()
    trainer.config.vgg_w = 1.0
    with pytest.raises(ValueError, match="set vgg_w to 0"):
        reference_step(trainer, *images())
