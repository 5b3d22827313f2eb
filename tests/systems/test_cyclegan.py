"""Tests of CycleGAN: one iteration against formulas, the pool, noise, dropout, resume, bad configurations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit import functional, load_translator
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.systems import registry
from fastmunit.systems.cyclegan import CycleGAN
from fastmunit.systems.parts.hyperparameters import read_weights

TINY = ["gen.dim=3", "dis.dim=4", "new_size=32", "crop_image_height=32", "crop_image_width=32", "batch_size=2"]
RESNET = ["gen.n_res=1", "gen.n_downsample=1", "dis.n_layer=1"]
UNET = ["options.generator=unet", "options.num_downs=4", "dis.n_layer=1"]
NOISE = [*UNET, "options.noise_dim=2"]
DROPOUT = [
    "options.generator=unet", "options.num_downs=6", "dis.n_layer=1", "options.dropout=0.5", "gen.dim=2", "new_size=64",
    "crop_image_height=64", "crop_image_width=64",
]  # fmt: skip


def trainer_of(*overrides: str) -> CycleGAN:
    torch.manual_seed(0)
    return CycleGAN(Config.load("cyclegan", [*TINY, *overrides])).double()


def images(seed: int = 1, batch: int = 2, size: int = 32, channels: tuple[int, int] = (3, 3)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(batch, c, size, size, generator=random, dtype=torch.float64) * 2 - 1 for c in channels)
    return a, b


def by_hand(trainer: CycleGAN, x_a: Tensor, x_b: Tensor, noise: list[Tensor | None], identity: float) -> dict[str, Any]:
    """Compute losses and gradients of one iteration from the present weights, with an empty pool."""
    g_a, g_b, d_a, d_b = (copy.deepcopy(n) for n in (trainer.gen_a, trainer.gen_b, trainer.dis_a, trainer.dis_b))
    z_ab, z_ba, z_aba, z_bab, z_aa, z_bb = noise
    with functional.use_implementation("reference"):
        x_ba, x_ab = g_a(x_b, z_ba), g_b(x_a, z_ab)
        losses: dict[str, Tensor] = {
            "gen_adv_a": F.mse_loss(d_a(x_ba)[0], torch.ones_like(d_a(x_ba)[0])),
            "gen_adv_b": F.mse_loss(d_b(x_ab)[0], torch.ones_like(d_b(x_ab)[0])),
            "gen_cycrecon_x_a": F.l1_loss(g_a(x_ab, z_aba), x_a),
            "gen_cycrecon_x_b": F.l1_loss(g_b(x_ba, z_bab), x_b),
        }
        total = losses["gen_adv_a"] + losses["gen_adv_b"]
        total = total + 10 * losses["gen_cycrecon_x_a"] + 10 * losses["gen_cycrecon_x_b"]
        if identity:
            losses["gen_identity_a"] = F.l1_loss(g_a(x_a, z_aa), x_a)
            losses["gen_identity_b"] = F.l1_loss(g_b(x_b, z_bb), x_b)
            total = total + 10 * identity * (losses["gen_identity_a"] + losses["gen_identity_b"])
        losses["gen_total"] = total
        generators = torch.autograd.grad(total, [*g_a.parameters(), *g_b.parameters()])
        for name, dis, fake, real in (("dis_a", d_a, x_ba, x_a), ("dis_b", d_b, x_ab, x_b)):
            fake_output, real_output = dis(fake.detach())[0], dis(real)[0]
            losses[name] = 0.5 * (fake_output**2).mean() + 0.5 * ((real_output - 1) ** 2).mean()
        losses["dis_total"] = losses["dis_a"] + losses["dis_b"]
        discriminators = torch.autograd.grad(losses["dis_total"], [*d_a.parameters(), *d_b.parameters()])
    return {"losses": losses, "generators": generators, "discriminators": discriminators}


@pytest.mark.parametrize("implementation", ["reference", "auto"])
@pytest.mark.parametrize(
    ("options", "identity"),
    [
        (RESNET, 0.5),
        ([*RESNET, "options.identity=0"], 0),
        (UNET, 0.5),
        (NOISE, 0.5),
        ([*RESNET, "micro_batches=2"], 0.5),
    ],
    ids=["resnet", "without_identity", "unet", "noise", "micro_batches"],
)
def test_one_iteration_by_hand(implementation: functional.Implementation, options: list[str], identity: float) -> None:
    trainer = trainer_of(*options)
    x_a, x_b = images()
    torch.manual_seed(7)
    noise: list[Any] = [torch.randn(2, 2).double() if options is NOISE else None for _ in range(6)]
    expected = by_hand(trainer, x_a, x_b, noise, identity)
    torch.manual_seed(7)
    with functional.use_implementation(implementation):
        trainer.update(x_a, x_b)
    losses = trainer.losses()
    for name, value in expected["losses"].items():
        assert float(losses[f"loss_{name}"]) == pytest.approx(float(value.detach()), rel=1e-10), name
    if not identity:
        assert losses["loss_gen_identity_a"] == 0
    for half, networks in (("generators", ("gen_a", "gen_b")), ("discriminators", ("dis_a", "dis_b"))):
        ours = [p.grad for name in networks for p in getattr(trainer, name).parameters()]
        largest = max(float(g.abs().max()) for g in expected[half])
        for gradient, other in zip(ours, expected[half], strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-9 * largest)


@pytest.mark.parametrize(
    "options", [RESNET, DROPOUT, [*DROPOUT, "options.noise_dim=2"], [*RESNET, "options.dropout=0.2"]]
)
def test_reference_and_fused_iterations_agree(options: list[str]) -> None:
    """Several iterations with a full pool agree. Dropout draws the same masks."""
    trainers = []
    for implementation in ("reference", "auto"):
        trainer = trainer_of(*options, "options.pool_size=3", "options.upsample=bilinear")
        torch.manual_seed(3)
        with functional.use_implementation(implementation):  # type: ignore[arg-type]
            for seed in range(3):
                trainer.step(*images(seed, size=trainer.config.new_size or 0))
        trainers.append(trainer)
    for name, value in trainers[0].losses().items():
        assert float(trainers[1].losses()[name]) == pytest.approx(float(value), rel=1e-7), name


def test_generators_learn_first_and_leave_discriminators_alone() -> None:
    trainer = trainer_of(*RESNET)
    x_a, x_b = images()
    before = copy.deepcopy(trainer)
    weights = read_weights(trainer.weight_keys, None, trainer.config)
    _, (x_ba, x_ab) = trainer.run_halves({"gen": (x_a, x_b)}, weights)
    assert all(p.grad is None for d in (trainer.dis_a, trainer.dis_b) for p in d.parameters())
    assert all(p.requires_grad for p in trainer.dis_a.parameters())
    torch.testing.assert_close(x_ba, before.gen_a(x_b).detach())  # by the weights before the step
    kept = [p.grad for p in trainer.gen_a.parameters()]
    trainer.run_halves({"dis": (x_ba, x_ab, x_a, x_b)}, weights)
    assert all(p.grad is q for p, q in zip(trainer.gen_a.parameters(), kept, strict=True))
    assert any(
        not torch.equal(p, q) for p, q in zip(trainer.dis_b.parameters(), before.dis_b.parameters(), strict=True)
    )


def test_discriminators_see_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(*RESNET, "options.pool_size=2")
    translations: list[Tensor] = []
    discriminator_inputs: list[Tensor] = []
    original = trainer.discriminator_inputs

    def spy(x_a: Tensor, x_b: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        inputs = original(x_a, x_b, outputs)
        translations.append(outputs[0])
        discriminator_inputs.append(inputs[0])
        return inputs

    monkeypatch.setattr(trainer, "discriminator_inputs", spy)
    torch.manual_seed(0)
    for seed in range(6):
        trainer.update(*images(seed))
    assert torch.equal(discriminator_inputs[0], translations[0])
    known = [image.numpy().tobytes() for batch in translations for image in batch]
    places = [known.index(image.numpy().tobytes()) for batch in discriminator_inputs for image in batch]
    assert places != sorted(places)
    assert all(place <= k for k, place in enumerate(places))


def test_resume_is_exact_with_a_pool(tmp_path: Path) -> None:
    overrides = [
        *DROPOUT,
        "options.noise_dim=2",
        "options.pool_size=3",
        "lr_policy=linear",
        "step_size=2",
        "max_iter=9",
    ]
    whole = trainer_of(*overrides)
    torch.manual_seed(3)
    for seed in range(3):
        whole.step(*images(seed, size=64))
    whole.save(tmp_path, 2)
    state, random = whole.resume_state(), torch.get_rng_state()
    resumed = trainer_of(*overrides)
    assert resumed.resume(tmp_path) == 3
    assert resumed.load_resume_state(state) == []
    outcomes = []
    for trainer in (whole, resumed):
        torch.set_rng_state(random)
        for seed in range(3, 6):
            trainer.step(*images(seed, size=64))
        outcomes.append([*trainer.parameters(), *trainer.pools["a"].images])
        assert trainer.gen_opt.param_groups[0]["lr"] == pytest.approx(0.0002 * (1 - 4 / 8))
    assert all(torch.equal(p, q) for p, q in zip(*outcomes, strict=True))


def test_pool_of_another_crop_is_new() -> None:
    trainer = trainer_of(*RESNET)
    trainer.update(*images())
    other = trainer_of(*RESNET, "crop_image_height=16")
    assert [note[:16] for note in other.load_resume_state(trainer.resume_state())] == ["the crop changed"] * 2
    assert other.pools["a"].images == []


@pytest.mark.parametrize("options", [RESNET, NOISE, [*DROPOUT, "options.dropout_at_test=true"]])
def test_sample_rows(options: list[str]) -> None:
    trainer = trainer_of(*options).train()
    x_a, x_b = images(size=trainer.config.new_size or 0)
    rows = trainer.sample(x_a, x_b)
    assert trainer.training
    assert len(rows) == 2 * len(trainer.rows)
    half = len(rows) // 2
    assert torch.equal(rows[0], x_a) and torch.equal(rows[half], x_b)
    assert all(row.shape == x_a.shape for row in rows)
    if len(trainer.rows) == 3:
        trainer.eval()
        torch.testing.assert_close(rows[1], trainer.gen_b(x_a).detach())
        torch.testing.assert_close(rows[half + 2], trainer.gen_b(trainer.gen_a(x_b)).detach())
    else:
        assert trainer.rows[2] == "translation with other noise"
        assert not torch.equal(rows[1], rows[2])


def test_translator_goes_the_right_way(tmp_path: Path) -> None:
    trainer = trainer_of(*RESNET, "input_dim_b=1", "options.identity=0")
    trainer.update(*images(channels=(3, 1)))
    trainer.float().save(tmp_path, 0)
    config = trainer.config
    image = torch.rand(3, 21, 30) * 2 - 1
    there = load_translator(tmp_path / "gen_00000001.pt", config, direction="a2b")
    assert (there.style_dim, there.takes_references) == (0, False)
    result = there.translate(image, there.random_styles(1, torch.Generator()))
    assert result.shape == (1, 1, 21, 30)
    padded = F.pad(image[None], (0, 0, 0, 1), mode="reflect")
    torch.testing.assert_close(result, trainer.gen_b(padded)[..., :21, :].detach(), rtol=1e-4, atol=1e-5)
    back = load_translator(tmp_path / "gen_00000001.pt", config, direction="b2a")
    assert back.translate(image[:1], back.random_styles(1, torch.Generator())).shape == (1, 3, 21, 30)


@pytest.mark.parametrize("noise_dim", [0, 2])
def test_a_code_fixes_the_dropout_of_a_translation(noise_dim: int) -> None:
    trainer = trainer_of(*DROPOUT, "options.dropout_at_test=true", f"options.noise_dim={noise_dim}").eval()
    translator = trainer.translator(trainer.generators(), trainer.config, "a2b")
    image = images(size=64)[0][0]
    codes = translator.random_styles(3, torch.Generator().manual_seed(0)).double()
    assert codes.shape == (3, noise_dim or 1, 1, 1)
    state = torch.get_rng_state()
    together = translator.translate(image, codes)
    apart = translator.translate(image, codes.flip(0), batch_size=1).flip(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(together, apart)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["options.inject=all"], "options.inject all needs options.generator unet"),
        (["options.generater=unet"], "unknown key 'generater'; did you mean 'generator'"),
        (["options.identity=-1"], "identity = -1"),
        (["options.dropout=1.0"], "dropout = 1.0"),
        (["input_dim_a=1"], "options.identity 0.5 compares images of both domains.*set options.identity to 0"),
        (["crop_image_height=30", *UNET], "crop_image_height is 30, not a multiple of 16.*: use 16 or 32"),
        (["crop_image_width=8", *UNET], "crop_image_width is 8, but the networks need at least 16"),
        (["dis.n_layer=4"], "crop_image_height is 32, but the networks need at least 48"),
        ([*UNET, "options.dropout=0.5"], "a U-Net of options.num_downs 4 has no layer for it"),
        (["options.dropout=0.5", "gen.n_res=0"], r"without residual blocks \(gen.n_res 0\)"),
        (["options.dropout=0.5", "checkpointing=true"], "checkpointing would draw other dropout masks"),
        (["vgg_w=1"], "has no perceptual loss: set vgg_w to 0"),
        (["share_fakes=true"], "see the same images anyway: set share_fakes to false"),
    ],
)
def test_wrong_configurations_say_what_to_do(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer_of(*RESNET, *overrides)


@pytest.mark.parametrize("name", ["cyclegan", "cyclegan_noise", "demo_cyclegan", "demo_cyclegan_noise"])
def test_shipped_recipes_are_valid(name: str) -> None:
    config = Config.load(name)
    system = registry.system_of(config)
    options = system.check(config)
    assert system is CycleGAN
    assert (options.noise_dim > 0) == (options.generator == "unet") == ("noise" in name)
