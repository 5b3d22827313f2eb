"""Tests of UNIT: losses against independent formulas, shared blocks, files, translations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastmunit
from fastmunit import functional
from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError, FastmunitError
from fastmunit.systems import registry
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.cuda_graph import Inputs, Results, distinct, replaced
from fastmunit.systems.unit import UNIT
from fastmunit.testing.reference_step import unit_reference_step
from tests.systems.training import assert_same_losses_and_gradients, logged_values

Pair = tuple[Tensor, Tensor]
NETWORKS = ("gen_a", "gen_b", "dis_a", "dis_b")


@pytest.fixture
def hyperparameters(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    return {**hyperparameters, "system": "unit", "recon_x_cyc_w": 10}


def build(hyperparameters: dict[str, Any], **options: bool) -> UNIT:
    torch.manual_seed(0)
    return UNIT(hyperparameters, **options)


def iterate(trainer: UNIT, images: Pair, count: int = 1) -> None:
    for _ in range(count):
        trainer.step(*images)


def draws(*images: Tensor) -> list[Tensor]:
    """Draw noise for the latent codes of `images` as the trainers do, in float64."""
    return [torch.randn(len(x), 16, x.shape[2] // 4, x.shape[3] // 4).double() for x in images]


def test_script_for_the_public_trainer_runs(hyperparameters: dict[str, Any], images: Pair, tmp_path: Path) -> None:
    """A trainer supports the calls of the public train.py in their order, and its way of logging."""
    trainer = fastmunit.UNIT(hyperparameters)
    trainer.to("cpu")
    for iterations in range(2):
        trainer.update_learning_rate()
        trainer.dis_update(*images, hyperparameters)
        trainer.gen_update(*images, hyperparameters)
        logged = logged_values(trainer)
        with torch.no_grad():
            assert len(trainer.sample(*images)) == 6
        trainer.save(str(tmp_path), iterations)
    parts = [f"{kind}_{domain}" for kind in ("adv", "recon_x", "recon_kl", "cyc_x", "vgg") for domain in "ab"]
    parts += ["recon_kl_cyc_aba", "recon_kl_cyc_bab", "total"]
    assert set(logged) == {f"loss_gen_{part}" for part in parts} | {f"loss_dis_{part}" for part in ("a", "b", "total")}
    assert set(trainer.losses()) == set(logged)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "dis_00000001.pt", "dis_00000002.pt", "gen_00000001.pt", "gen_00000002.pt", "optimizer.pt",
    ]  # fmt: skip
    gen = torch.load(tmp_path / "gen_00000002.pt", weights_only=True)
    assert {key.split(".")[0] for state in gen.values() for key in state} == {"enc", "dec"}


@pytest.mark.parametrize("gan_type", ["lsgan", "nsgan"])
@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_losses_are_the_published_formula(
    hyperparameters: dict[str, Any], images: Pair, gan_type: str, implementation: functional.Implementation
) -> None:
    """Every term equals its formula, computed in float64 from encoders and decoders with the same draws."""
    hyperparameters["dis"]["gan_type"] = gan_type
    hyperparameters.update(recon_x_w=7, recon_x_cyc_w=5, recon_kl_w=0.3, recon_kl_cyc_w=0.2, gan_w=1.5)
    trainer = build(hyperparameters).double()
    x_a, x_b = (x.double() for x in images)
    before = copy.deepcopy(trainer)
    torch.manual_seed(5)
    with functional.use_implementation(implementation):
        trainer.gen_update(x_a, x_b)
    torch.manual_seed(5)
    n_a, n_b, n_ba, n_ab = draws(x_a, x_b, x_b, x_a)
    a, b = before.gen_a, before.gen_b
    h_a, h_b = a.enc(x_a), b.enc(x_b)
    x_ba, x_ab = a.dec(h_b + n_b), b.dec(h_a + n_a)
    h_ba, h_ab = a.enc(x_ba), b.enc(x_ab)
    expected = {
        "recon_x_a": F.l1_loss(a.dec(h_a + n_a), x_a),
        "recon_x_b": F.l1_loss(b.dec(h_b + n_b), x_b),
        "recon_kl_a": h_a.square().mean(),
        "recon_kl_b": h_b.square().mean(),
        "cyc_x_a": F.l1_loss(a.dec(h_ab + n_ab), x_a),
        "cyc_x_b": F.l1_loss(b.dec(h_ba + n_ba), x_b),
        "recon_kl_cyc_aba": h_ab.square().mean(),
        "recon_kl_cyc_bab": h_ba.square().mean(),
        "adv_a": sum(F.mse_loss(out, torch.ones_like(out)) for out in before.dis_a(x_ba)),
        "adv_b": sum(F.mse_loss(out, torch.ones_like(out)) for out in before.dis_b(x_ab)),
    }
    if gan_type == "nsgan":
        for name, net, fake in (("adv_a", before.dis_a, x_ba), ("adv_b", before.dis_b, x_ab)):
            expected[name] = -torch.stack([out.sigmoid().log().mean() for out in net(fake)]).sum()
    weights = {"recon_x": 7, "cyc_x": 5, "recon_kl": 0.3, "recon_kl_cyc": 0.2, "adv": 1.5}
    total = 0.0
    for name, value in expected.items():
        assert float(getattr(trainer, f"loss_gen_{name}")) == pytest.approx(value.item(), rel=1e-10), name
        total += weights[name.rpartition("_")[0]] * value.item()
    assert float(trainer.loss_gen_total) == pytest.approx(total, rel=1e-10)
    assert trainer.loss_gen_vgg_a == trainer.loss_gen_vgg_b == 0


def test_discriminator_loss(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = build(hyperparameters).double()
    x_a, x_b = (x.double() for x in images)
    before = copy.deepcopy(trainer)
    torch.manual_seed(6)
    trainer.dis_update(x_a, x_b, {"gan_w": 2})
    torch.manual_seed(6)
    n_a, n_b = draws(x_a, x_b)
    fake_a = before.gen_a.dec(before.gen_b.enc(x_b) + n_b)
    fake_b = before.gen_b.dec(before.gen_a.enc(x_a) + n_a)
    totals = []
    for net, fake, real in ((before.dis_a, fake_a, x_a), (before.dis_b, fake_b, x_b)):
        outputs = zip(net(fake), net(real), strict=True)
        totals.append(sum((f.square().mean() + (r - 1).square().mean()).item() for f, r in outputs))
    assert float(trainer.loss_dis_a) == pytest.approx(totals[0], rel=1e-9)
    assert float(trainer.loss_dis_b) == pytest.approx(totals[1], rel=1e-9)
    assert float(trainer.loss_dis_total) == pytest.approx(2 * sum(totals), rel=1e-9)


def test_updates_touch_their_own_networks_only(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = build(hyperparameters)
    for update, networks in ((trainer.dis_update, {"dis_a", "dis_b"}), (trainer.gen_update, {"gen_a", "gen_b"})):
        before = copy.deepcopy(trainer.state_dict())
        update(*images)
        after = trainer.state_dict()
        assert {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])} == networks
    assert all(p.requires_grad for p in trainer.dis_a.parameters())


def calls_of(*modules: torch.nn.Module) -> list[int]:
    counts: list[int] = []
    for module in modules:
        module.register_forward_hook(lambda *_: counts.append(1))
    return counts


def test_terms_that_are_switched_off_cost_nothing(hyperparameters: dict[str, Any], images: Pair) -> None:
    """Terms can be switched off during training. The public trainer crashes without its cycle."""
    trainer = build(hyperparameters)
    encodings = calls_of(trainer.gen_a.enc, trainer.gen_b.enc)
    decodings = calls_of(trainer.gen_a.dec, trainer.gen_b.dec)
    counts = []
    for changes in ({}, {"recon_x_cyc_w": 0}, {"recon_x_cyc_w": 0, "recon_kl_cyc_w": 0, "recon_kl_w": 0}):
        encodings.clear()
        decodings.clear()
        trainer.gen_update(*images, {**hyperparameters, **changes})
        counts.append((len(encodings), len(decodings)))
        cycles = [trainer.loss_gen_cyc_x_a, trainer.loss_gen_cyc_x_b]
        assert all((float(loss) > 0) is not ("recon_x_cyc_w" in changes) for loss in cycles)
        kl = [trainer.loss_gen_recon_kl_a, trainer.loss_gen_recon_kl_b]
        kl_cycle = [trainer.loss_gen_recon_kl_cyc_aba, trainer.loss_gen_recon_kl_cyc_bab]
        assert all((float(loss) > 0) is not ("recon_kl_w" in changes) for loss in [*kl, *kl_cycle])
        assert torch.isfinite(trainer.loss_gen_total)
    # Two encodings of images, two of translations; one batch per decoder, then the cycles.
    assert counts == [(4, 4), (4, 2), (2, 2)]


def test_hyperparameters_of_munit_train(images: Pair) -> None:
    """MUNIT's files have no KL weights and recon_x_cyc_w = 0, with which the public UNIT trainer fails."""
    values = {key: value for key, value in Config.load("edges2shoes").to_dict().items() if "kl" not in key}
    values["gen"], values["dis"] = {"dim": 4, "n_res": 1}, {"dim": 4, "n_layer": 2, "num_scales": 2}
    trainer = UNIT(values)
    trainer.dis_update(*images, values)
    trainer.gen_update(*images, values)
    assert float(trainer.loss_gen_recon_kl_a) > 0
    assert trainer.loss_gen_cyc_x_a == 0


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_sharing_codes_changes_no_bit(
    hyperparameters: dict[str, Any], images: Pair, implementation: functional.Implementation
) -> None:
    trainers = [build(hyperparameters, reuse_codes=reuse) for reuse in (True, False)]
    counts = [calls_of(trainer.gen_a.enc, trainer.gen_b.enc) for trainer in trainers]
    with functional.use_implementation(implementation):
        for trainer in trainers:
            torch.manual_seed(3)
            iterate(trainer, images, 2)
    assert [len(count) for count in counts] == [8, 12]
    states = [trainer.state_dict() for trainer in trainers]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_codes_that_are_no_longer_right_are_not_used(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainers = [build(hyperparameters, reuse_codes=reuse) for reuse in (True, False)]
    for trainer in trainers:
        torch.manual_seed(3)
        trainer.dis_update(*images)
        with torch.no_grad():
            trainer.gen_a.enc.model[0].conv.weight.mul_(1.5)
        trainer.gen_update(*images)
    states = [trainer.state_dict() for trainer in trainers]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("changes", [{}, {"recon_kl_w": 0.5}, {"dis": {"norm": "sn"}}, {"share": 1}])
def test_reference_step_has_the_same_losses_and_gradients(
    hyperparameters: dict[str, Any], images: Pair, changes: dict[str, Any]
) -> None:
    changes = dict(changes)
    hyperparameters["dis"].update(changes.pop("dis", {}))
    options = {"share_latent_blocks": changes.pop("share", 0)}
    trainers = [build({**hyperparameters, **changes, "options": options}).double() for _ in range(2)]
    x_a, x_b = (x.double() for x in images)
    for trainer, step in zip(trainers, (unit_reference_step, UNIT.step), strict=True):
        torch.manual_seed(4)
        step(trainer, x_a, x_b)
    assert_same_losses_and_gradients(ours=trainers[1], plain=trainers[0])


def test_reference_step_says_that_it_has_no_perceptual_loss(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = build(hyperparameters)
    trainer.config.vgg_w = 1.0
    with pytest.raises(ValueError, match="set vgg_w to 0"):
        unit_reference_step(trainer, *images)


def test_images_of_different_sizes(hyperparameters: dict[str, Any], images: Pair) -> None:
    """No batches can be concatenated, and translations have the size of their source."""
    trainer = build(hyperparameters)
    x_a, x_b = images[0], images[1][..., :16]
    iterate(trainer, (x_a, x_b))
    assert torch.isfinite(trainer.loss_gen_total)
    x_ab, x_ba = trainer(x_a, x_b)
    assert x_ab.shape == x_a.shape and x_ba.shape == x_b.shape


@pytest.mark.parametrize("channels", [(1, 3), (4, 2)])
def test_channels_may_differ_between_domains(hyperparameters: dict[str, Any], channels: tuple[int, int]) -> None:
    hyperparameters.update(input_dim_a=channels[0], input_dim_b=channels[1])
    trainer = build(hyperparameters)
    x_a, x_b = (torch.rand(2, c, 32, 32) for c in channels)
    iterate(trainer, (x_a, x_b))
    assert [o.shape[1] for o in trainer.sample(x_a, x_b)] == [channels[d] for d in (0, 0, 1, 1, 1, 0)]


def test_bfloat16_stays_close_to_float32(hyperparameters: dict[str, Any], images: Pair) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        trainer = build({**hyperparameters, "precision": precision})
        torch.manual_seed(1)
        iterate(trainer, images)
        assert trainer.sample(*images)[2].dtype == trainer(*images)[0].dtype == torch.float32
        losses.append({name: float(value) for name, value in trainer.losses().items()})
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=0.05, abs=1e-6), name
    assert losses[0] != losses[1]


def test_shared_translations_are_those_of_the_discriminators(hyperparameters: dict[str, Any], images: Pair) -> None:
    """With share_fakes both halves have the same noise, so the decoders run once. The cycles draw their own noise."""
    x_a, x_b = (x.double() for x in images)
    trainer = build({**hyperparameters, "share_fakes": True}).double()
    decodings = calls_of(trainer.gen_a.dec, trainer.gen_b.dec)
    before = copy.deepcopy(trainer)
    torch.manual_seed(2)
    trainer.dis_update(x_a, x_b)
    after_discriminators = copy.deepcopy((trainer.dis_a, trainer.dis_b))
    trainer.gen_update(x_a, x_b)
    assert len(decodings) == 4
    torch.manual_seed(2)
    _, n_b = draws(x_a, x_b)
    x_ba = before.gen_a.dec(before.gen_b.enc(x_b) + n_b)
    adversarial = sum((out - 1).square().mean().item() for out in after_discriminators[0](x_ba))
    assert float(trainer.loss_gen_adv_a) == pytest.approx(adversarial, rel=1e-10)


def test_micro_batches_are_the_whole_batch(hyperparameters: dict[str, Any], images: Pair) -> None:
    x_a, x_b = (x.double() for x in images)
    trainers = [build({**hyperparameters, "micro_batches": parts}).double() for parts in (1, 2)]
    for trainer in trainers:
        torch.manual_seed(2)
        trainer.dis_update(x_a, x_b)
        trainer.gen_update(x_a, x_b)
    whole, parts = trainers
    for name, loss in whole.losses().items():
        assert float(parts.losses()[name]) == pytest.approx(float(loss), rel=1e-9), name
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parts.get_parameter(name).grad, parameter.grad, rtol=1e-7, atol=1e-11)


def test_checkpointing_changes_no_gradient(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainers = [build({**hyperparameters, "checkpointing": on}) for on in (False, True)]
    for trainer in trainers:
        torch.manual_seed(2)
        iterate(trainer, images)
    for name, parameter in trainers[0].named_parameters():
        assert torch.equal(trainers[1].get_parameter(name).grad, parameter.grad), name


class Replayed:
    """A fake `CapturedHalves` that computes each iteration from copies of its tensors, as a graph does."""

    def __init__(self) -> None:
        self.keys: list[Any] = []

    def run(
        self,
        body: Callable[[Inputs], Results],
        inputs: Inputs,
        optimizers: Any,
        key: Any,
        origin: Any,
        eagerly: bool,
    ) -> Results:
        assert not eagerly
        self.keys.append(key)
        losses, outputs = body(replaced(inputs, [tensor.clone() for tensor in distinct(inputs)]))
        assert {"dis_total", "gen_total"} <= set(losses)
        return Results({name: loss.clone() for name, loss in losses.items()}, outputs)


@pytest.mark.parametrize("changes", [{}, {"share_fakes": True}, {"recon_x_cyc_w": 0}])
def test_an_iteration_in_one_graph_is_the_same(
    hyperparameters: dict[str, Any], images: Pair, changes: dict[str, Any]
) -> None:
    plain, graphed = (build({**hyperparameters, **changes}) for _ in range(2))
    graphed.config.cuda_graph = True
    replayed = graphed.stepper.graphs = Replayed()  # type: ignore[assignment]
    decodings = calls_of(graphed.gen_a.dec)
    for trainer in (plain, graphed):
        torch.manual_seed(3)
        iterate(trainer, images, 2)
    assert len(decodings) == 2 * (3 - len(changes))
    assert all(torch.equal(graphed.state_dict()[key], value) for key, value in plain.state_dict().items())
    graphed.update(*images, {**hyperparameters, **changes, "recon_kl_w": 3})
    assert replayed.keys[0] == replayed.keys[1] != replayed.keys[2]


def test_an_iteration_reads_no_value_and_nothing_from_the_cpu(hyperparameters: dict[str, Any], images: Pair) -> None:
    """On the meta device there are no values, so reading one is an error."""
    trainer = build(hyperparameters).to("meta")
    state = torch.get_rng_state()
    trainer.update(*(x.to("meta") for x in images))
    assert torch.equal(torch.get_rng_state(), state)


def test_compat_draws_noise_on_the_cpu(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = build(hyperparameters, compat=True).to("meta")
    torch.manual_seed(3)
    trainer.update(*(x.to("meta") for x in images))
    state = torch.get_rng_state()
    torch.manual_seed(3)
    draws(*images, *images, *images[::-1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"share_fakes": True}])
def test_a_graph_is_the_same_training(
    hyperparameters: dict[str, Any], images: Pair, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    trainers = [build({**hyperparameters, **changes, "cuda_graph": on}).cuda() for on in (False, True)]
    for trainer in trainers:
        torch.manual_seed(3)
        iterate(trainer, (images[0].cuda(), images[1].cuda()), 8)
    for name, loss in trainers[0].losses().items():
        assert float(trainers[1].losses()[name]) == float(loss), name


@pytest.mark.gpu
def test_compat_draws_the_noise_of_the_cpu_on_a_gpu(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainers = [build(hyperparameters, compat=compat) for compat in (False, True)]
    trainers[1].cuda()
    for trainer in trainers:
        torch.manual_seed(3)
        iterate(trainer, (images[0].to(trainer.device), images[1].to(trainer.device)))
    for name, loss in trainers[0].losses().items():
        assert float(trainers[1].losses()[name]) == pytest.approx(float(loss), rel=1e-3), name


def shared(hyperparameters: dict[str, Any], count: int = 1, n_res: int = 2) -> UNIT:
    gen = {**hyperparameters["gen"], "n_res": n_res}
    return build({**hyperparameters, "gen": gen, "options": {"share_latent_blocks": count}})


@pytest.mark.parametrize("count", [0, 1, 2])
def test_shared_blocks_are_the_last_to_encode_and_the_first_to_decode(
    hyperparameters: dict[str, Any], count: int
) -> None:
    trainer = shared(hyperparameters, count)
    a, b = (dict(gen.named_parameters()) for gen in (trainer.gen_a, trainer.gen_b))
    same = {name for name in a if a[name] is b[name]}
    blocks = [f"enc.model.3.model.{index}." for index in range(2 - count, 2)]
    blocks += [f"dec.model.0.model.{index}." for index in range(count)]
    assert same == {name for name in a if name.startswith(tuple(blocks))}
    assert len(same) == 8 * count
    optimized = [p for group in trainer.gen_opt.param_groups for p in group["params"]]
    assert len(optimized) == len({id(p) for p in optimized}) == 2 * len(a) - len(same)


def test_shared_blocks_learn_from_both_domains(hyperparameters: dict[str, Any], images: Pair) -> None:
    """The gradient of a shared block is the sum of the gradients of separate copies."""
    x_a, x_b = (x.double() for x in images)
    together = shared(hyperparameters, 2).double()
    apart = shared(hyperparameters, 0).double()
    apart.load_state_dict(together.state_dict())
    for trainer in (together, apart):
        torch.manual_seed(2)
        trainer.gen_update(x_a, x_b)
    for name, parameter in together.gen_a.named_parameters():
        other_a, other_b = (gen.get_parameter(name).grad for gen in (apart.gen_a, apart.gen_b))
        is_shared = ".model.0.model." in name or ".model.3.model." in name
        expected = other_a + other_b if is_shared else other_a
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-12)


def test_shared_blocks_are_saved_for_both_domains_and_stay_shared(
    hyperparameters: dict[str, Any], images: Pair, tmp_path: Path
) -> None:
    trainer = shared(hyperparameters)
    iterate(trainer, images, 2)
    trainer.save(tmp_path, 1)
    file = torch.load(tmp_path / "gen_00000002.pt", weights_only=True)
    key = "dec.model.0.model.0.model.1.conv.weight"
    assert torch.equal(file["a"][key], file["b"][key])
    resumed = shared(hyperparameters)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    assert resumed.resume(tmp_path) == 2
    for one in (trainer, resumed, copied := copy.deepcopy(resumed)):
        torch.manual_seed(9)
        iterate(one, images)
        assert one.gen_a.get_parameter(key) is one.gen_b.get_parameter(key)
    for one in (resumed, copied):
        assert all(torch.equal(one.state_dict()[name], value) for name, value in trainer.state_dict().items())
    config = trainer.config
    gen_a, gen_b = fastmunit.load_generators(tmp_path / "gen_00000002.pt", config)
    assert torch.equal(gen_a.get_parameter(key), file["a"][key])
    assert gen_a.get_parameter(key) is gen_b.get_parameter(key)


def test_weights_of_a_run_without_sharing_are_refused(
    hyperparameters: dict[str, Any], images: Pair, tmp_path: Path
) -> None:
    shared(hyperparameters, 0).save(tmp_path, 0)
    with pytest.raises(CheckpointError, match=r"gen_00000001\.pt: enc\.model\.3\.model\.1\..*without sharing"):
        shared(hyperparameters, 1).resume(tmp_path)


def test_more_shared_blocks_than_there_are(hyperparameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"share_latent_blocks = 3 is more than the gen\.n_res = 2"):
        shared(hyperparameters, 3)
    for wrong in (-1, "all"):
        with pytest.raises(ConfigError, match="share_latent_blocks"):
            shared(hyperparameters, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="share_blocks"):
        build({**hyperparameters, "options": {"share_blocks": 1}})


def test_equal_start(hyperparameters: dict[str, Any], images: Pair) -> None:
    ordinary = build(hyperparameters)
    trainer = build({**hyperparameters, "options": {"equal_start": True}})
    states = [gen.state_dict() for gen in (trainer.gen_a, trainer.gen_b, ordinary.gen_a, ordinary.gen_b)]
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value) and torch.equal(states[2][key], value)
    assert any(not torch.equal(states[2][key], states[3][key]) for key in states[2])
    iterate(trainer, images)
    weights = [gen.enc.model[0].conv.weight for gen in (trainer.gen_a, trainer.gen_b)]
    assert not torch.equal(*weights), "they are equal at the start only"
    with pytest.raises(ConfigError, match="equal_start needs input_dim_a = input_dim_b, got 1 and 3"):
        build({**hyperparameters, "input_dim_a": 1, "options": {"equal_start": True}})


def test_checkpoints_of_another_system_are_named(hyperparameters: dict[str, Any], tmp_path: Path) -> None:
    build(hyperparameters).save(tmp_path / "unit", 0)
    MUNIT({**hyperparameters, "system": "munit"}).save(tmp_path / "munit", 0)
    with pytest.raises(CheckpointError, match="holds MUNIT generators, not UNIT ones"):
        build(hyperparameters).resume(tmp_path / "munit")
    with pytest.raises(CheckpointError, match="holds UNIT generators, not MUNIT ones"):
        MUNIT({**hyperparameters, "system": "munit"}).resume(tmp_path / "unit")
    config = Config.from_dict(hyperparameters)
    with pytest.raises(CheckpointError, match=r"holds discriminators \(a dis_"):
        fastmunit.load_generators(tmp_path / "unit" / "dis_00000001.pt", config)


def test_public_files_load(hyperparameters: dict[str, Any], images: Pair, tmp_path: Path) -> None:
    """Public files have no iteration in optimizer.pt, and running statistics of instance norms from pytorch 0.3."""
    trainer = build(hyperparameters)
    iterate(trainer, images)
    trainer.save(tmp_path, 0)
    optimizers = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    del optimizers["iterations"]
    torch.save(optimizers, tmp_path / "optimizer.pt")
    gen = torch.load(tmp_path / "gen_00000001.pt", weights_only=True)
    for state in gen.values():
        for block in ("enc.model.0", "enc.model.3.model.0.model.1", "dec.model.0.model.0.model.0"):
            state[f"{block}.norm.running_mean"] = torch.zeros(4)
            state[f"{block}.norm.running_var"] = torch.ones(4)
    torch.save(gen, tmp_path / "gen_00000001.pt")
    other = build(hyperparameters)
    assert other.resume(tmp_path) == 1
    assert all(torch.equal(other.state_dict()[key], value) for key, value in trainer.state_dict().items())


def test_sample_decodes_the_mean(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = build(hyperparameters)
    outputs = trainer.sample(*images)
    assert trainer.training
    with torch.no_grad():
        h_a, h_b = trainer.gen_a.enc(images[0]), trainer.gen_b.enc(images[1])
        a, b = trainer.gen_a.dec, trainer.gen_b.dec
        expected = (images[0], a(h_a), b(h_a), images[1], b(h_b), a(h_b))
    for output, value in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, value, rtol=1e-4, atol=1e-5)
    x_ab, x_ba = trainer(*images)
    torch.testing.assert_close(x_ab, outputs[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x_ba, outputs[5], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="same number of images of each domain, got 1 of A and 2 of B"):
        trainer.sample(images[0][:1], images[1])


def test_noise_at_test_samples_the_latent_code(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = build({**hyperparameters, "options": {"noise_at_test": True}})
    first, second = trainer.sample(*images), trainer.sample(*images)
    changes = [not torch.equal(one, other) for one, other in zip(first, second, strict=True)]
    assert changes == [False, False, True, False, False, True]
    outputs = fastmunit.translate(trainer, images[0][0], 3, seed=4)
    assert outputs.shape == (3, 3, 32, 32)
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-3
    again = fastmunit.translate(trainer, images[0][0], 3, seed=4, batch_size=2)
    torch.testing.assert_close(again, outputs, rtol=1e-4, atol=1e-5)
    fewer = fastmunit.translate(trainer, images[0][0], 2, seed=4)
    torch.testing.assert_close(fewer, outputs[:2], rtol=1e-4, atol=1e-5)
    assert not torch.equal(fastmunit.translate(trainer, images[0][0], 3, seed=5), outputs)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 21), (3, 1)])
def test_translation_is_the_decoded_mean(hyperparameters: dict[str, Any], height: int, width: int) -> None:
    trainer = build(hyperparameters)
    image = torch.rand(3, height, width) * 2 - 1
    outputs = fastmunit.translate(trainer, image, 10, direction="b2a")
    assert outputs.shape == (1, 3, height, width), "one output, however many styles are asked for"
    assert torch.equal(outputs, fastmunit.translate(trainer, image, 1, direction="b2a", seed=8))
    if height % 4 == 0 and width % 4 == 0:
        with torch.no_grad():
            expected = trainer.gen_a.dec(trainer.gen_b.enc(image[None]))
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_an_image_cannot_give_the_style(hyperparameters: dict[str, Any], images: Pair, tmp_path: Path) -> None:
    from fastmunit import data

    data.save_image(images[1][0], tmp_path / "style.png")
    with pytest.raises(FastmunitError, match="no style codes"):
        fastmunit.translate(build(hyperparameters), images[0][0], tmp_path / "style.png")


@pytest.mark.parametrize("wrong", [lambda x: x[:, :2], lambda x: x[0, 0, 0, 0]])
def test_images_of_a_wrong_shape_change_nothing(
    hyperparameters: dict[str, Any], images: Pair, wrong: Callable[[Tensor], Tensor]
) -> None:
    trainer = build(hyperparameters)
    before = copy.deepcopy(trainer.state_dict())
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        trainer.step(wrong(images[0]), images[1])
    assert all(torch.equal(before[key], value) for key, value in trainer.state_dict().items())


def test_nan_images_give_nan_losses(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = build(hyperparameters)
    images[0][0, 0, 0, 0] = float("nan")
    trainer.gen_update(*images)
    assert torch.isnan(trainer.loss_gen_total)


PUBLIC = {
    "unit_edges2handbags": (500, 16, 10, 0, 256),
    "unit_edges2shoes": (500, 16, 10, 0, 256),
    "unit_summer2winter_yosemite256": (100, 16, 1, 0, 256),
    "unit_gta2city": (100, 4, 1, 1, 256),
    "unit_gta2city_list": (100, 4, 1, 1, 512),
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_recipes(name: str) -> None:
    config = Config.load(name)
    values = (config.image_display_iter, config.display_size, config.log_iter, config.vgg_w, config.size_a)
    assert values == PUBLIC[name]
    assert config.size_a == config.size_b == config.crop_image_height == config.crop_image_width
    weights = (config.gan_w, config.recon_x_w, config.recon_x_cyc_w, config.recon_kl_w, config.recon_kl_cyc_w)
    assert weights == (1, 10, 10, 0.01, 0.01)
    assert registry.system_of(config) is UNIT
    assert UNIT.check(config).share_latent_blocks == 0, "as the public trainer"
    assert (config.data_root is None) is name.endswith("_list")
    if not name.endswith("_list"):
        assert Config.load(f"{name}_folder") == config
