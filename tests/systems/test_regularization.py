"""Tests of augmented and penalized trainings of every system: exact resume, parts of a batch, graphs and streams."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.systems import registry
from fastmunit.systems.base import System
from fastmunit.systems.parts import cuda_graph, discriminator_view, regularization
from fastmunit.systems.parts.augmentation import augment
from fastmunit.systems.parts.losses import discriminator_adversarial
from fastmunit.systems.parts.r1_penalty import r1_penalty
from tests.systems.emulated_graphs import emulate

SMALL = [
    "gen.dim=2", "gen.mlp_dim=4", "gen.n_res=1", "gen.style_dim=2", "dis.dim=2", "dis.num_scales=2", "display_size=1",
    "batch_size=2",
]  # fmt: skip
AUGMENTED = ["dis_augment=[color, translation, cutout]"]
ADAPTIVE = [*AUGMENTED, "dis_augment_target=0.2", "dis_augment_ramp=30"]
PENALIZED = ["r1_w=5", "r1_iter=3"]
UNET = ["options.num_downs=5"]
SYSTEMS = {
    "munit": ("demo", []),
    "unit": ("demo_unit", []),
    "cyclegan": ("demo_cyclegan", ["options.pool_size=3"]),
    "cyclegan with noise": ("demo_cyclegan_noise", ["options.num_downs=6"]),
    "bicyclegan": ("demo_bicyclegan", [*UNET, "options.encoder_dim=2", "options.encoder_blocks=2"]),
    "conditional": (
        "demo_bicyclegan",
        [*UNET, "options.encoder_dim=2", "options.encoder_blocks=2", "options.conditional_dis=true"],
    ),
    "pix2pix": ("demo_pix2pix_noise", ["options.num_downs=6"]),
}


# One variant per registered system in the fast tests.
EVERY = [
    pytest.param(name, marks=[] if name in ("munit", "unit", "cyclegan", "conditional") else pytest.mark.slow)
    for name in SYSTEMS
]


def trainer_of(name: str, *overrides: str) -> System:
    torch.manual_seed(0)
    recipe, own = SYSTEMS[name]
    config = Config.load(recipe, [*SMALL, *own, *overrides])
    trainer = registry.system_of(config)(config)
    for name, bias in trainer.named_parameters():  # the outputs of discriminators, so that probabilities rise
        if name.startswith("dis_") and bias.shape == (1,):
            torch.nn.init.ones_(bias)
    return trainer


def images(trainer: System, seed: int, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = 64 if trainer.config.system in ("cyclegan", "bicyclegan") else 32
    channels = (trainer.config.input_dim_a, trainer.config.input_dim_b)
    a, b = (torch.rand(count, c, size, size, generator=generator) * 2 - 1 for c in channels)
    return a, b


def values(trainer: System) -> dict[str, float]:
    return {name: float(loss) for name, loss in trainer.losses().items()}


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("name", EVERY)
def test_every_system_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Iterations 1 and 4 have a penalty, so the interrupted run continues in between."""
    overrides = [*ADAPTIVE, *PENALIZED]
    trainer = trainer_of(name, *overrides)
    for iteration in range(5):
        if iteration == 2:
            trainer.save(tmp_path, iteration - 1)
            state, rng = copy.deepcopy(trainer.resume_state()), torch.get_rng_state()
        trainer.step(*images(trainer, iteration))
    torch.manual_seed(9)
    resumed = trainer_of(name, *overrides)
    assert resumed.resume(tmp_path) == 2
    assert resumed.load_resume_state(state) == []
    torch.set_rng_state(rng)
    for iteration in range(2, 5):
        resumed.step(*images(resumed, iteration))
    assert values(resumed) == values(trainer)
    assert_same_weights(resumed, trainer)
    names = [*trainer.discriminators()]
    for term in (f"loss_dis_{kind}_{dis}" for kind in ("r1", "augment") for dis in names):
        assert values(trainer)[term] > 0, term


def test_values_without_a_penalty_are_those_of_the_last_one(tmp_path: Path) -> None:
    trainer = trainer_of("munit", *PENALIZED)
    seen = []
    for iteration in range(7):
        trainer.step(*images(trainer, iteration))
        seen.append(float(trainer.losses()["loss_dis_r1_a"]))
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5] != seen[6]
    state = trainer.resume_state()
    other = trainer_of("munit", *PENALIZED)
    other.load_resume_state(state)
    assert values(other)["loss_dis_r1_a"] == seen[-1]
    with pytest.raises(CheckpointError, match="damaged"):
        other.load_resume_state({**state, "latest": {"dis_r1_a": "much"}})


def test_a_state_without_a_probability_is_named() -> None:
    state = trainer_of("munit").resume_state()
    trainer = trainer_of("munit", *ADAPTIVE)
    assert trainer.load_resume_state(state) == ["the checkpoint has no probability of dis_augment, so it starts at 0."]
    assert trainer_of("munit", *AUGMENTED).load_resume_state(state) == []
    with pytest.raises(CheckpointError, match="damaged"):
        trainer.load_resume_state({**state, "augmentation": {"p": torch.zeros(1)}})


@pytest.mark.parametrize("name", ["munit", "unit"])
def test_switched_off_options_leave_everything_as_it_was(name: str) -> None:
    plain, off = trainer_of(name), trainer_of(name, "dis_augment=[]", "r1_w=0", "r1_iter=1", "dis_augment_ramp=1")
    for trainer in (plain, off):
        torch.manual_seed(3)
        trainer.step(*images(trainer, 0))
    assert values(plain) == values(off)
    assert plain.state_dict().keys() == trainer_of(name, *ADAPTIVE, *PENALIZED).state_dict().keys()
    assert "latest" not in plain.resume_state()
    assert not any("r1" in term or "augment" in term for term in plain.losses())


@pytest.mark.parametrize("name", ["munit", "cyclegan"])
def test_parts_of_a_batch_are_the_whole_batch(name: str) -> None:
    overrides = [*ADAPTIVE, *PENALIZED, "batch_size=4"]
    trainers = [trainer_of(name, *overrides, *parts) for parts in ([], ["micro_batches=2"])]
    for trainer in trainers:
        trainer.double()
        torch.manual_seed(3)
        trainer.step(*(x.double() for x in images(trainer, 0, count=4)))
    whole, parts = map(values, trainers)
    assert parts == pytest.approx(whole, rel=1e-9)


def recorded(trainer: System, monkeypatch: pytest.MonkeyPatch, count: int = 1) -> list[tuple[str, Tensor, Tensor]]:
    """Return the name, the image before and the image after, of each augmentation."""
    found: list[tuple[str, Tensor, Tensor]] = []
    names = {id(dis): name for name, dis in trainer.discriminators().items()}

    class Recording(discriminator_view.View):
        def __init__(self, change: discriminator_view.Augment | None) -> None:
            def recording(dis: nn.Module, x: Tensor) -> Tensor:
                assert change is not None
                y = change(dis, x)
                found.append((names[id(dis)], x.detach(), y.detach()))
                return y

            super().__init__(recording)

    monkeypatch.setattr(regularization, "View", Recording)
    for seed in range(count):
        trainer.step(*images(trainer, seed))
    return found


def moves(before: Tensor, after: Tensor) -> list[tuple[int, int]]:
    """Return by how many pixels each image was moved down and to the right."""
    found = []
    for x, y in zip(before, after, strict=True):
        limit = x.shape[1] // 8
        reach, inside = range(-limit, limit + 1), slice(limit, -limit)
        candidates = [
            (down, right)
            for down in reach
            for right in reach
            if torch.equal(torch.roll(x, (down, right), (1, 2))[:, inside, inside], y[:, inside, inside])
        ]
        assert len(candidates) == 1
        found += candidates
    return found


@pytest.mark.parametrize("name", EVERY)
def test_real_and_fake_images_of_a_domain_are_moved_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(name, "dis_augment=[translation]")
    with torch.no_grad():  # so that translations are not flat
        for network in trainer.generators().values():
            for parameter in network.parameters():
                parameter.mul_(3)
    found = recorded(trainer, monkeypatch)
    conditional = 2 if name == "conditional" else 1
    for dis in trainer.discriminators():
        of_dis = [moves(before, after) for seen, before, after in found if seen == dis]
        assert len(of_dis) == 3 * conditional, "real and fake for the discriminators, fake for the generators"
        halves = [of_dis[:conditional], of_dis[conditional:]]
        if trainer.config.system in ("munit", "unit"):
            halves = [of_dis[: 2 * conditional], of_dis[2 * conditional :]]
        for half in halves:
            assert all(moved == half[0] for moved in half)
        assert halves[0][0] != halves[1][0], "each half has its own numbers"
    firsts = {dis: next(moves(b, a) for seen, b, a in found if seen == dis) for dis in trainer.discriminators()}
    assert len({str(moved) for moved in firsts.values()}) == len(firsts), "each discriminator has its own numbers"


def test_slices_of_volumes_have_no_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    for slices, rgb in ((1, True), (3, False)):
        seen: list[bool] = []
        monkeypatch.setattr(
            regularization.augmentation,
            "augment",
            lambda x, *, rgb, **_,: (seen.append(rgb), x)[1],  # noqa: B023
        )
        trainer = trainer_of("munit", "dis_augment=[color]", f"slices={slices}")
        trainer.step(*images(trainer, 0))
        assert set(seen) == {rgb}


def penalty_after_two_passes(dis: Any, x: Tensor) -> float:
    """Return the penalty after those power iterations of spectral norm that fake and real images cause."""
    dis(x), dis(x)
    return float(r1_penalty(dis, [x]).detach())


@pytest.mark.parametrize(("gan_type", "norm"), [("lsgan", "none"), ("nsgan", "in"), ("hinge", "ln"), ("lsgan", "sn")])
def test_the_penalty_is_a_term_of_the_discriminators_alone(gan_type: str, norm: str) -> None:
    with_penalty = ["r1_w=5", "r1_iter=16"]
    plain, penalized = (
        trainer_of("munit", *overrides, f"dis.gan_type={gan_type}", f"dis.norm={norm}").double()
        for overrides in ([], with_penalty)
    )
    x_a, x_b = (x.double() for x in images(plain, 0))
    expected = sum(
        5 / 2 * 16 * penalty_after_two_passes(copy.deepcopy(dis), x)
        for dis, x in zip(plain.discriminators().values(), (x_a, x_b), strict=True)
    )
    for trainer in (plain, penalized):
        torch.manual_seed(3)
        trainer.dis_update(x_a, x_b)
    added = float(penalized.loss_dis_total) - float(plain.loss_dis_total)
    assert added == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert float(penalized.loss_dis_a) == pytest.approx(float(plain.loss_dis_a), rel=1e-12)
    assert any(
        p.grad is not None and not torch.allclose(p.grad, q.grad, rtol=1e-6, atol=0)
        for p, q in zip(penalized.dis_a.parameters(), plain.dis_a.parameters(), strict=True)
        if q.grad is not None
    )


def test_the_penalty_is_of_augmented_images() -> None:
    trainer = trainer_of("munit", "r1_w=1", *AUGMENTED).double()
    x_a, x_b = (x.double() for x in images(trainer, 0))
    dis = copy.deepcopy(trainer.dis_a)
    torch.manual_seed(3)
    trainer.draw(x_a, x_b)
    numbers = torch.rand(2, 2, 7)
    seen = augment(x_a, ["color", "translation", "cutout"], numbers[:, 0])
    expected = float(r1_penalty(dis, [seen]).detach())
    torch.manual_seed(3)
    trainer.dis_update(x_a, x_b)
    assert float(trainer.loss_dis_r1_a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "name", ["munit", "cyclegan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("unit", "bicyclegan"))]
)
def test_replayed_iterations_are_the_same_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities move inside of graphs, and iterations with a penalty run between replays."""
    monkeypatch.setattr(cuda_graph, "_WARM_UP", 1)
    graphs = emulate(monkeypatch)
    overrides = [*ADAPTIVE, "r1_w=5", "r1_iter=3", "cuda_graph=true", "ema_decay=0.9", "ema_warmup=true"]
    replaying, eager = trainer_of(name, *overrides), trainer_of(name, *overrides)
    found = []
    for trainer in (replaying, eager):
        if trainer is eager:
            monkeypatch.setattr(cuda_graph, "_WARM_UP", 10**9)
        torch.manual_seed(3)
        for iteration in range(9):
            trainer.update_learning_rate()
            if name in ("munit", "unit") and iteration % 2:
                trainer.dis_update(*images(trainer, iteration))  # type: ignore[attr-defined]
                trainer.gen_update(*images(trainer, iteration))  # type: ignore[attr-defined]
            else:
                trainer.update(*images(trainer, iteration))
            trainer.update_averages()
            found.append(values(trainer))
    assert found[:9] == found[9:]
    assert len({losses[next(key for key in losses if "augment" in key)] for losses in found}) > 1
    assert sum(graph.replays for graph in graphs) > 3
    assert_same_weights(replaying, eager)


def test_an_augmented_iteration_reads_no_value() -> None:
    """On the meta device there are no values, so reading one is an error."""
    trainer = trainer_of("munit", *ADAPTIVE).to("meta")
    trainer.step(*(x.to("meta") for x in images(trainer, 0)))
    with pytest.raises(RuntimeError):
        float(trainer.losses()["loss_dis_augment_a"])


def test_copies_train_alike() -> None:
    trainer = trainer_of("munit", *ADAPTIVE, *PENALIZED)
    trainer.step(*images(trainer, 0))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(trainer)))
    for each in (trainer, copied):
        torch.manual_seed(3)
        for iteration in range(1, 5):
            each.step(*images(each, iteration))
    assert values(copied) == values(trainer)
    assert_same_weights(copied, trainer)


def test_a_system_whose_discriminators_are_not_seen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("munit", *AUGMENTED)

    def other(dis: Any, fake: Tensor, real: Tensor) -> Any:
        monkeypatch.setattr(discriminator_view, "record_real", lambda *_: None)
        return discriminator_adversarial(dis, fake, real)

    monkeypatch.setattr("fastmunit.systems.parts.losses.record_real", lambda *_: None)
    with pytest.raises(ValueError, match=r"dis_augment and r1_w need losses .* 'a' has none"):
        trainer.step(*images(trainer, 0))


def test_the_reference_path_is_augmented_alike() -> None:
    losses: list[Mapping[str, float]] = []
    for implementation in ("reference", "auto"):
        trainer = trainer_of("munit", *ADAPTIVE, *PENALIZED).double()
        torch.manual_seed(3)
        with functional.use_implementation(implementation):  # type: ignore[arg-type]
            trainer.step(*(x.double() for x in images(trainer, 0)))
        losses.append(values(trainer))
    assert losses[1] == pytest.approx(losses[0], rel=1e-7)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision(precision: str) -> None:
    trainer = trainer_of("munit", *ADAPTIVE, *PENALIZED, f"precision={precision}")
    exact = trainer_of("munit", *ADAPTIVE, *PENALIZED)
    for each in (trainer, exact):
        torch.manual_seed(3)
        each.step(*images(each, 0))
    for name, loss in values(exact).items():
        assert values(trainer)[name] == pytest.approx(loss, rel=0.05, abs=1e-3), name
