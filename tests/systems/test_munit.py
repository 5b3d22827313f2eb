"""Tests of MUNIT: its public interface, and its losses against independent formulas."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastmunit
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.systems.munit import MUNIT
from tests.systems.training import logged_values

Pair = tuple[Tensor, Tensor]


def iterate(trainer: MUNIT, images: Pair, count: int = 1) -> None:
    for _ in range(count):
        trainer.update_learning_rate()
        trainer.dis_update(*images)
        trainer.gen_update(*images)


def test_script_for_the_public_trainer_runs(hyperparameters: dict[str, Any], images: Pair, tmp_path: Any) -> None:
    """A trainer supports the calls of the public train.py in their order, and its way of logging."""
    trainer = fastmunit.MUNIT(hyperparameters)
    trainer.to("cpu")
    for iterations in range(2):
        trainer.update_learning_rate()
        trainer.dis_update(*images, hyperparameters)
        trainer.gen_update(*images, hyperparameters)
        logged = logged_values(trainer)
        with torch.no_grad():
            outputs = trainer.sample(*images)
        assert len(outputs) == 8
        trainer.save(str(tmp_path), iterations)
    parts = [f"recon_{kind}_{domain}" for kind in "xsc" for domain in "ab"]
    parts += [f"{kind}_{domain}" for kind in ("cycrecon_x", "adv", "vgg") for domain in "ab"]
    expected = {f"loss_gen_{part}" for part in [*parts, "total"]} | {f"loss_dis_{part}" for part in ("a", "b", "total")}
    assert set(logged) == expected
    assert trainer.resume(str(tmp_path), hyperparameters=hyperparameters) == 2
    x_ab, x_ba = trainer(*images)
    assert x_ab.shape == images[0].shape and x_ba.shape == images[1].shape


@pytest.mark.parametrize("gan_type", ["lsgan", "nsgan"])
def test_losses_are_the_published_formula(hyperparameters: dict[str, Any], images: Pair, gan_type: str) -> None:
    """Every term equals its formula, computed in float64 from encode and decode with the same draws."""
    hyperparameters["dis"]["gan_type"] = gan_type
    hyperparameters.update(recon_x_w=7, recon_s_w=2, recon_c_w=3, recon_x_cyc_w=5, gan_w=1.5)
    trainer = MUNIT(hyperparameters).double()
    x_a, x_b = (x.double() for x in images)
    before = copy.deepcopy(trainer)
    torch.manual_seed(5)
    trainer.gen_update(x_a, x_b)
    torch.manual_seed(5)
    s_a, s_b = (torch.randn(2, 3, 1, 1).double() for _ in range(2))
    a, b = before.gen_a, before.gen_b
    c_a, style_a = a.encode(x_a)
    c_b, style_b = b.encode(x_b)
    x_ba, x_ab = a.decode(c_b, s_a), b.decode(c_a, s_b)
    c_b_recon, s_a_recon = a.encode(x_ba)
    c_a_recon, s_b_recon = b.encode(x_ab)
    expected = {
        "recon_x_a": F.l1_loss(a.decode(c_a, style_a), x_a),
        "recon_x_b": F.l1_loss(b.decode(c_b, style_b), x_b),
        "recon_s_a": F.l1_loss(s_a_recon, s_a),
        "recon_s_b": F.l1_loss(s_b_recon, s_b),
        "recon_c_a": F.l1_loss(c_a_recon, c_a),
        "recon_c_b": F.l1_loss(c_b_recon, c_b),
        "cycrecon_x_a": F.l1_loss(a.decode(c_a_recon, style_a), x_a),
        "cycrecon_x_b": F.l1_loss(b.decode(c_b_recon, style_b), x_b),
        "adv_a": sum(F.mse_loss(out, torch.ones_like(out)) for out in before.dis_a(x_ba)),
        "adv_b": sum(F.mse_loss(out, torch.ones_like(out)) for out in before.dis_b(x_ab)),
    }
    if gan_type == "nsgan":
        for name, net, fake in (("adv_a", before.dis_a, x_ba), ("adv_b", before.dis_b, x_ab)):
            expected[name] = -torch.stack([out.sigmoid().log().mean() for out in net(fake)]).sum()
    weights = {"recon_x": 7, "recon_s": 2, "recon_c": 3, "cycrecon_x": 5, "adv": 1.5}
    total = 0.0
    for name, value in expected.items():
        assert float(getattr(trainer, f"loss_gen_{name}")) == pytest.approx(value.item(), rel=1e-10), name
        total += weights[name[:-2]] * value.item()
    assert float(trainer.loss_gen_total) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("gan_type", ["lsgan", "nsgan"])
def test_discriminator_loss(hyperparameters: dict[str, Any], images: Pair, gan_type: str) -> None:
    hyperparameters["dis"]["gan_type"] = gan_type
    trainer = MUNIT(hyperparameters).double()
    x_a, x_b = (x.double() for x in images)
    before = copy.deepcopy(trainer)
    torch.manual_seed(6)
    trainer.dis_update(x_a, x_b, {"gan_w": 2})
    torch.manual_seed(6)
    s_a, s_b = (torch.randn(2, 3, 1, 1).double() for _ in range(2))
    fake_a = before.gen_a.decode(before.gen_b.encode(x_b)[0], s_a)
    fake_b = before.gen_b.decode(before.gen_a.encode(x_a)[0], s_b)
    totals = []
    for net, fake, real in ((before.dis_a, fake_a, x_a), (before.dis_b, fake_b, x_b)):
        loss = torch.zeros((), dtype=torch.float64)
        for out_fake, out_real in zip(net(fake), net(real), strict=True):
            if gan_type == "lsgan":
                loss += out_fake.square().mean() + (out_real - 1).square().mean()
            else:
                loss -= (1 - out_fake.sigmoid()).log().mean() + out_real.sigmoid().log().mean()
        totals.append(float(loss.detach()))
    assert float(trainer.loss_dis_a) == pytest.approx(totals[0], rel=1e-9)
    assert float(trainer.loss_dis_b) == pytest.approx(totals[1], rel=1e-9)
    assert float(trainer.loss_dis_total) == pytest.approx(2 * sum(totals), rel=1e-9)


def test_updates_touch_their_own_networks_only(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = MUNIT(hyperparameters)
    before = copy.deepcopy(trainer.state_dict())
    trainer.dis_update(*images)
    assert changed(trainer, before) == {"dis_a", "dis_b"}
    before = copy.deepcopy(trainer.state_dict())
    trainer.gen_update(*images)
    assert changed(trainer, before) == {"gen_a", "gen_b"}
    assert all(p.requires_grad for p in trainer.dis_a.parameters())


def changed(trainer: MUNIT, before: dict[str, Tensor]) -> set[str]:
    after = trainer.state_dict()
    return {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}


def test_content_targets_are_not_detached(hyperparameters: dict[str, Any], images: Pair) -> None:
    """With the content term alone, the encoder still receives a gradient through the target."""
    hyperparameters.update(gan_w=0, recon_x_w=0, recon_s_w=0, recon_c_w=1, weight_decay=0)
    trainer = MUNIT(hyperparameters).double()
    x_a, x_b = (x.double() for x in images)
    before = copy.deepcopy(trainer)
    torch.manual_seed(1)
    trainer.gen_update(x_a, x_b)
    torch.manual_seed(1)
    s_a, s_b = (torch.randn(2, 3, 1, 1).double() for _ in range(2))
    gradients = []
    for detach in (False, True):
        before.zero_grad()
        c_a, c_b = before.gen_a.enc_content(x_a), before.gen_b.enc_content(x_b)
        c_b_recon, _ = before.gen_a.encode(before.gen_a.decode(c_b, s_a))
        c_a_recon, _ = before.gen_b.encode(before.gen_b.decode(c_a, s_b))
        targets = [c.detach() if detach else c for c in (c_a, c_b)]
        (F.l1_loss(c_a_recon, targets[0]) + F.l1_loss(c_b_recon, targets[1])).backward()
        gradients.append(before.gen_a.enc_content.model[0].conv.weight.grad.clone())
    ours = trainer.gen_a.enc_content.model[0].conv.weight.grad
    torch.testing.assert_close(ours, gradients[0], rtol=1e-8, atol=1e-12)
    assert not torch.allclose(ours, gradients[1], rtol=1e-3)


def test_step_weights_can_change_while_training(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = MUNIT(hyperparameters)
    trainer.gen_update(*images, hyperparameters)
    assert trainer.loss_gen_cycrecon_x_a == 0
    hyperparameters["recon_x_cyc_w"] = 10
    trainer.gen_update(*images, hyperparameters)
    assert float(trainer.loss_gen_cycrecon_x_a) > 0


def test_sample_uses_fixed_and_new_styles(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = MUNIT(hyperparameters)
    torch.manual_seed(3)
    outputs = trainer.sample(*images)
    torch.manual_seed(3)
    new_s_a, new_s_b = (torch.randn(2, 3, 1, 1) for _ in range(2))
    trainer.eval()
    with torch.no_grad():
        c_a, c_b = trainer.gen_a.encode(images[0])[0], trainer.gen_b.encode(images[1])[0]
        expected = {
            2: trainer.gen_b.decode(c_a, trainer.s_b),
            3: trainer.gen_b.decode(c_a, new_s_b),
            6: trainer.gen_a.decode(c_b, trainer.s_a),
            7: trainer.gen_a.decode(c_b, new_s_a),
            1: trainer.gen_a(images[0]),
            5: trainer.gen_b(images[1]),
        }
    for index, value in expected.items():
        torch.testing.assert_close(outputs[index], value, rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs[0], images[0]) and torch.equal(outputs[4], images[1])


def test_sample_and_forward_keep_the_mode_and_name_wrong_batches(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = MUNIT(hyperparameters)
    for training in (True, False):
        trainer.train(training)
        trainer.sample(*images)
        trainer(*images)
        assert trainer.training is training and trainer.gen_a.training is training
    many = torch.cat(images)
    with pytest.raises(ValueError, match="display_size"):
        trainer.sample(many, many)
    with pytest.raises(ValueError, match="display styles"):
        trainer(many, many)
    with pytest.raises(ValueError, match="same number of images of each domain, got 1 of A and 2 of B"):
        trainer.sample(images[0][:1], images[1])
    broken = images[0][:, :2]
    with pytest.raises(RuntimeError):
        trainer.sample(broken, images[1])
    assert not trainer.training


def test_display_styles_follow_the_device_but_not_the_checkpoint(hyperparameters: dict[str, Any]) -> None:
    trainer = MUNIT(hyperparameters)
    assert not any(key.startswith("s_") for key in trainer.state_dict())
    assert trainer.to("meta").s_a.device.type == "meta"


def test_constructor_does_not_depend_on_what_it_does_not_use(hyperparameters: dict[str, Any]) -> None:
    torch.manual_seed(0)
    first = MUNIT(hyperparameters).state_dict()
    torch.manual_seed(0)
    second = MUNIT(Config.from_dict(hyperparameters)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_unknown_hyperparameters_warn_and_wrong_ones_raise(hyperparameters: dict[str, Any]) -> None:
    hyperparameters["gen"]["stile_dim"] = 4
    hyperparameters["my_own_note"] = "kept by my script"
    with pytest.warns(UserWarning, match=r"gen\.stile_dim' \(did you mean 'gen\.style_dim'"):
        MUNIT(hyperparameters)
    with pytest.raises(ConfigError, match="lr"):
        MUNIT({"lr": -1})


@pytest.mark.parametrize("channels", [(1, 3), (4, 2)])
def test_channels_may_differ_between_domains(hyperparameters: dict[str, Any], channels: tuple[int, int]) -> None:
    hyperparameters.update(input_dim_a=channels[0], input_dim_b=channels[1])
    trainer = MUNIT(hyperparameters)
    x_a, x_b = (torch.rand(2, c, 32, 32) for c in channels)
    iterate(trainer, (x_a, x_b))
    assert torch.isfinite(torch.as_tensor(trainer.loss_gen_total))
    assert [o.shape[1] for o in trainer.sample(x_a, x_b)] == [channels[d] for d in (0, 0, 1, 1, 1, 1, 0, 0)]


@pytest.mark.parametrize("norm", ["sn", "in", "ln", "bn"])
def test_discriminator_norms_train(hyperparameters: dict[str, Any], images: Pair, norm: str) -> None:
    hyperparameters["dis"]["norm"] = norm
    trainer = MUNIT(hyperparameters)
    iterate(trainer, images, 2)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in trainer.losses().values())
    if norm == "sn":
        frozen = [name for name, p in trainer.dis_a.named_parameters() if not p.requires_grad]
        assert frozen and all(name.endswith(("weight_u", "weight_v")) for name in frozen)


@pytest.mark.parametrize("init", ["gaussian", "xavier", "kaiming", "orthogonal", "default"])
def test_every_init_trains(hyperparameters: dict[str, Any], images: Pair, init: str) -> None:
    hyperparameters["init"] = init
    trainer = MUNIT(hyperparameters)
    iterate(trainer, images)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in trainer.losses().values())
    std = float(trainer.dis_a.cnns[0][0].conv.weight.detach().std())
    assert std == pytest.approx(0.02, rel=0.3), "discriminators always start gaussian"


def test_bfloat16_stays_close_to_float32(hyperparameters: dict[str, Any], images: Pair) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        trainer = MUNIT({**hyperparameters, "precision": precision})
        iterate(trainer, images)
        assert all(p.dtype == torch.float32 for p in trainer.parameters())
        assert trainer.sample(*images)[2].dtype == torch.float32
        assert trainer(*images)[0].dtype == torch.float32
        losses.append({name: float(value) for name, value in trainer.losses().items()})
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=0.05, abs=1e-6), name
    assert losses[0] != losses[1]


def test_nan_images_give_nan_losses(hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer = MUNIT(hyperparameters)
    images[0][0, 0, 0, 0] = float("nan")
    trainer.gen_update(*images)
    assert torch.isnan(torch.as_tensor(trainer.loss_gen_total))
