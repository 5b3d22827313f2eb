"""Tests of BicycleGAN: one iteration against formulas, gradients per network, variants, translation, bad input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from fastmunit import functional, load_translator
from fastmunit.config import Config
from fastmunit.errors import ConfigError, FastmunitError
from fastmunit.systems import registry
from fastmunit.systems.bicyclegan import BicycleGAN
from fastmunit.systems.parts.hyperparameters import read_weights

TINY = [
    "gen.dim=2", "gen.style_dim=3", "options.num_downs=4", "options.encoder_dim=2", "options.encoder_blocks=2",
    "options.init_gain=1", "dis.dim=4", "dis.n_layer=1", "batch_size=4", "new_size=32", "crop_image_height=32",
    "crop_image_width=32",
]  # fmt: skip
VARIANTS = ["bicycle", "cvae", "clr", "pix2pix_noise"]


def trainer_of(*overrides: str, recipe: str = "bicyclegan") -> BicycleGAN:
    torch.manual_seed(0)
    return BicycleGAN(Config.load(recipe, [*TINY, *overrides])).double()


def images(batch: int = 4, channels: tuple[int, int] = (3, 3)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    a, b = (torch.rand(batch, c, 32, 32, generator=random, dtype=torch.float64) * 2 - 1 for c in channels)
    return a, b


def gan(outputs: list[Tensor], label: float) -> Tensor:
    return sum((F.mse_loss(x, torch.full_like(x, label)) for x in outputs), torch.zeros((), dtype=torch.float64))


def by_hand(trainer: BicycleGAN, x_a: Tensor, x_b: Tensor, variant: str, conditional: bool) -> dict[str, Any]:
    """Compute losses and gradients of one iteration: two backward passes, the second for the generator alone."""
    gen, encoder = copy.deepcopy(trainer.gen), copy.deepcopy(trainer.encoder)
    dis = {"encoded": copy.deepcopy(trainer.dis_encoded), "random": copy.deepcopy(trainer.dis_random)}
    halves = variant in ("bicycle", "clr")
    a1, b1 = (x[: len(x) // 2] if halves else x for x in (x_a, x_b))
    a2, b2 = (x[len(x) // 2 :] if halves else x for x in (x_a, x_b))
    eps = torch.randn(len(a1), 3).double() if variant in ("bicycle", "cvae") else None
    z = torch.randn(len(a1), 3).double() if variant != "cvae" else None

    def visible(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], dim=1) if conditional else b

    losses: dict[str, Tensor] = {}
    fakes = {}
    total = torch.zeros((), dtype=torch.float64)
    if eps is not None:
        assert encoder is not None
        mean, log_variance = encoder(b1)
        std = torch.exp(log_variance / 2)
        fakes["encoded"] = gen(a1, mean + eps * std)
        losses["gen_kl"] = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum()
        losses["gen_recon_x"] = F.l1_loss(fakes["encoded"], b1)
        losses["gen_adv_encoded"] = gan(dis["encoded"](visible(a1, fakes["encoded"])), 1)
        total = total + losses["gen_adv_encoded"] + 10 * losses["gen_recon_x"] + 0.01 * losses["gen_kl"]
    if z is not None:
        fakes["random"] = gen(a1, z)
        losses["gen_adv_random"] = gan(dis["random"](visible(a1, fakes["random"])), 1)
        total = total + losses["gen_adv_random"]
        if variant == "pix2pix_noise":
            losses["gen_recon_x"] = F.l1_loss(fakes["random"], b1)
            total = total + 10 * losses["gen_recon_x"]
    learning = {"gen": [*gen.parameters()], "encoder": [] if encoder is None else [*encoder.parameters()]}
    everything = learning["gen"] + learning["encoder"]
    first = torch.autograd.grad(total, everything, retain_graph=True, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(everything, first, strict=True)]
    if halves:
        assert encoder is not None and z is not None
        losses["gen_recon_s"] = F.l1_loss(encoder(fakes["random"])[0], z)
        total = total + 0.5 * losses["gen_recon_s"]
        reached = everything if variant == "clr" else learning["gen"]
        second = torch.autograd.grad(0.5 * losses["gen_recon_s"], reached, allow_unused=True)
        for k, g in enumerate(second):
            gradients[k] = gradients[k] if g is None else gradients[k] + g
    losses["gen_total"] = total
    dis_total = torch.zeros((), dtype=torch.float64)
    for name, fake in fakes.items():
        real = visible(a1, b1) if name == "encoded" else visible(a2, b2)
        loss = gan(dis[name](visible(a1, fake.detach())), 0) + gan(dis[name](real), 1)
        losses[f"dis_{name}"] = 0.5 * loss if variant == "pix2pix_noise" else loss
        dis_total = dis_total + losses[f"dis_{name}"]
    losses["dis_total"] = dis_total
    dis_parameters = [p for name in fakes for p in dis[name].parameters()]
    return {"losses": losses, "gen": gradients, "dis": torch.autograd.grad(dis_total, dis_parameters)}


def grads(*networks: nn.Module | None) -> list[Tensor]:
    parameters = [p for network in networks if network is not None for p in network.parameters()]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


@pytest.mark.parametrize("implementation", ["reference", "auto"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("conditional", [False, True])
def test_one_iteration_by_hand(implementation: functional.Implementation, variant: str, conditional: bool) -> None:
    channels = (1, 3) if conditional else (3, 3)
    trainer = trainer_of(
        f"options.variant={variant}", f"options.conditional_dis={conditional}", f"input_dim_a={channels[0]}"
    )
    x_a, x_b = images(channels=channels)
    torch.manual_seed(7)
    with functional.use_implementation("reference"):
        expected = by_hand(trainer, x_a, x_b, variant, conditional)
    torch.manual_seed(7)
    with functional.use_implementation(implementation):
        trainer.update(x_a, x_b)
    for name, loss in trainer.losses().items():
        value = expected["losses"].get(name.removeprefix("loss_"), torch.zeros(()))
        assert float(loss) == pytest.approx(float(value.detach()), rel=1e-9, abs=1e-14), name
    ours = {
        "gen": grads(trainer.gen, trainer.encoder),
        "dis": grads(trainer.dis_encoded, trainer.dis_random),
    }
    for half, gradients in ours.items():
        largest = max(float(g.abs().max()) for g in expected[half])
        for gradient, other in zip(gradients, expected[half], strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-9 * largest)


@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batches_are_the_whole_batch(variant: str) -> None:
    """The KL term is a sum over the batch; all others are means."""
    whole, parts = (trainer_of(f"options.variant={variant}", f"micro_batches={n}") for n in (1, 2))
    for trainer in (whole, parts):
        torch.manual_seed(3)
        trainer.update(*images())
    for name, value in whole.losses().items():
        assert float(parts.losses()[name]) == pytest.approx(float(value), rel=1e-10), name
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(
            torch.zeros_like(p) if p.grad is None else p.grad, torch.zeros_like(q) if q.grad is None else q.grad,
            rtol=1e-8, atol=1e-12,
        )  # fmt: skip


def test_the_latent_loss_reaches_the_generator_alone() -> None:
    found = []
    for weight in (0.5, 0.0):
        trainer = trainer_of()
        torch.manual_seed(3)
        trainer.update(*images(), {"recon_s_w": weight})
        found.append((grads(trainer.encoder), grads(trainer.gen)))
        assert (trainer.loss_gen_recon_s == 0) == (weight == 0)
    for with_loss, without in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(with_loss, without, rtol=1e-9, atol=1e-13)
    assert any(not torch.allclose(p, q, rtol=1e-3, atol=0) for p, q in zip(found[0][1], found[1][1], strict=True))


def test_the_regressor_alone_trains_its_encoder() -> None:
    trainer = trainer_of("options.variant=clr")
    trainer.update(*images())
    assert trainer.encoder is not None
    assert any(float(g.abs().max()) > 0 for g in grads(trainer.encoder.mean))
    assert all(float(g.abs().max()) == 0 for g in grads(trainer.encoder.log_variance))


def test_the_second_half_serves_as_real_images_alone() -> None:
    x_a, x_b = images()
    changed = [x.clone() for x in (x_a, x_b)]
    for x in changed:
        x[2:] = -x[2:]
    trainers = [trainer_of(), trainer_of()]
    for trainer, batch in zip(trainers, ((x_a, x_b), changed), strict=True):
        torch.manual_seed(3)
        trainer.update(*batch)
    for name in ("gen", "encoder", "dis_encoded"):
        for p, q in zip(*(getattr(trainer, name).parameters() for trainer in trainers), strict=True):
            assert torch.equal(p, q)
    assert trainers[0].loss_dis_random != trainers[1].loss_dis_random
    assert trainers[0].loss_dis_encoded == trainers[1].loss_dis_encoded


def test_discriminators_learn_last_and_are_left_alone_before() -> None:
    trainer = trainer_of()
    x_a, x_b = images()
    before = copy.deepcopy(trainer)
    codes = [torch.randn(2, 3).double() for _ in range(2)]
    weights = read_weights(trainer.weight_keys, None, trainer.config)
    _, outputs = trainer.run_halves({"gen": (x_a[:2], x_b[:2], *codes)}, weights)
    assert all(p.grad is None for p in [*trainer.dis_encoded.parameters(), *trainer.dis_random.parameters()])
    torch.testing.assert_close(outputs[1], before.gen(x_a[:2], codes[1]).detach())
    assert any(not torch.equal(p, q) for p, q in zip(trainer.gen.parameters(), before.gen.parameters(), strict=True))


def test_which_networks_a_variant_has() -> None:
    found = {
        variant: (set(trainer.generators()), set(trainer.discriminators()))
        for variant in VARIANTS
        for trainer in [trainer_of(f"options.variant={variant}")]
    }
    assert found == {
        "bicycle": ({"b", "encoder"}, {"encoded", "random"}),
        "cvae": ({"b", "encoder"}, {"encoded"}),
        "clr": ({"b", "encoder"}, {"random"}),
        "pix2pix_noise": ({"b"}, {"random"}),
    }


def test_one_discriminator_for_both() -> None:
    trainer = trainer_of("options.same_dis=true")
    assert trainer.dis_encoded is trainer.dis_random
    assert set(trainer.discriminators()) == {"encoded"}
    trainer.update(*images())
    assert sum(p.numel() for g in trainer.dis_opt.param_groups for p in g["params"]) == sum(
        p.numel() for p in trainer.dis_encoded.parameters()
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_is_exact(variant: str, tmp_path: Path) -> None:
    whole = trainer_of(f"options.variant={variant}")
    torch.manual_seed(3)
    whole.step(*images())
    whole.save(tmp_path, 0)
    random = torch.get_rng_state()
    resumed = trainer_of(f"options.variant={variant}")
    assert resumed.resume(tmp_path) == 1
    assert resumed.load_resume_state(whole.resume_state()) == []
    for trainer in (whole, resumed):
        torch.set_rng_state(random)
        trainer.step(*images())
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_sample_rows(variant: str) -> None:
    trainer = trainer_of(f"options.variant={variant}", "input_dim_a=1").train()
    x_a, x_b = images(channels=(1, 3))
    rows = trainer.sample(x_a, x_b)
    assert trainer.training
    assert len(rows) == len(trainer.rows) == (4 if variant == "pix2pix_noise" else 5)
    assert trainer.directions == ("a2b",)
    assert torch.equal(rows[0], x_a) and torch.equal(rows[1], x_b)
    assert all(row.shape == x_b.shape for row in rows[1:])
    assert not torch.equal(rows[-1], rows[-2])
    if trainer.encoder is not None:
        trainer.eval()
        torch.testing.assert_close(rows[2], trainer.gen(x_a, trainer.encoder(x_b)[0]).detach())
    with pytest.raises(ValueError, match="got 4 and 3 images"):
        trainer.sample(x_a, x_b[:3])


def test_translator(tmp_path: Path) -> None:
    trainer = trainer_of("input_dim_a=1").float().eval()
    trainer.save(tmp_path, 0)
    translator = load_translator(tmp_path / "gen_00000001.pt", trainer.config)
    codes = translator.random_styles(3, torch.Generator().manual_seed(0))
    assert (codes.shape, translator.takes_references) == ((3, 3, 1, 1), True)
    image, target = torch.rand(1, 30, 33), torch.rand(3, 32, 48)
    results = translator.translate(image, codes)
    assert results.shape == (3, 3, 30, 33)
    assert not torch.equal(results[0], results[1])
    assert trainer.encoder is not None
    torch.testing.assert_close(translator.style_of(target)[..., 0, 0], trainer.encoder(target[None])[0].detach())
    with pytest.raises(ConfigError, match="'bicyclegan' translates a2b only, not b2a"):
        load_translator(tmp_path / "gen_00000001.pt", trainer.config, direction="b2a")


def test_pix2pix_takes_no_references() -> None:
    trainer = trainer_of(recipe="pix2pix_noise").float()
    translator = trainer.translator(trainer.generators(), trainer.config, "a2b")
    assert not translator.takes_references
    with pytest.raises(FastmunitError, match="cannot serve as a reference"):
        translator.style_of(torch.rand(3, 32, 32))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=3"], "batch_size is 3.*make it even"),
        (["pairs=unpaired"], "system 'bicyclegan' learns from pairs: set pairs to folders"),
        (["options.variant=clvae"], "variant = 'clvae'"),
        (
            ["options.num_downs=5", "crop_image_height=48"],
            "crop_image_height is 48, not a multiple of 32.*32 or 64",
        ),
        (["options.encoder_blocks=5"], "crop_image_height is 32, but the networks need at least 64"),
        (["options.num_downs=6"], "need at least 64 .*options.num_downs 6"),
    ],
)
def test_wrong_configurations_say_what_to_do(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer_of(*overrides)


def test_wrong_batches_say_what_to_do() -> None:
    x_a, x_b = images()
    with pytest.raises(ValueError, match="needs an even number of pairs, got 3"):
        trainer_of().update(x_a[:3], x_b[:3])
    with pytest.raises(ValueError, match="x_a has 4 images, x_b 3"):
        trainer_of("options.variant=cvae").update(x_a, x_b[:3])


@pytest.mark.parametrize("name", ["bicyclegan", "pix2pix_noise", "demo_bicyclegan", "demo_pix2pix_noise"])
def test_shipped_recipes_are_valid(name: str) -> None:
    config = Config.load(name)
    assert registry.system_of(config) is BicycleGAN
    assert BicycleGAN.check(config).variant == ("pix2pix_noise" if "pix2pix" in name else "bicycle")
