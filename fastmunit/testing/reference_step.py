"""Iterations as the public trainers run them: the baseline for speed and the reference for convergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastmunit import functional
from fastmunit.nn.networks.discriminators import MsImageDis
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.losses import discriminator_loss, generator_loss, widen
from fastmunit.systems.unit import UNIT

_Pairs = dict[str, tuple[Tensor, Tensor, float]]


def reference_step(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> None:
    """Run `update_learning_rate`, `dis_update` and `gen_update` with all the work that the public trainer does.

    Losses, gradients and style draws are those of `MUNIT.step`, but computed in plain PyTorch (the "reference"
    implementations), with nothing shared or left out: the discriminators' half encodes styles and keeps the
    generators' graph; the generators' half encodes the contents again and computes the discriminators' weight
    gradients.

    Args:
        trainer: Trainer whose networks and optimizers are updated and whose loss_* are set. The perceptual loss is not
            supported.
        x_a: Images of domain A, (N, input_dim_a, H, W).
        x_b: Images of domain B, (N, input_dim_b, H, W).

    Raises:
        ValueError: If the configuration has vgg_w > 0.
    """
    _step(trainer, x_a, x_b, _munit_translations, _munit_losses)


def unit_reference_step(trainer: UNIT, x_a: Tensor, x_b: Tensor) -> None:
    """Do the same for UNIT: losses, gradients and noise are those of `UNIT.step`.

    The discriminators' half keeps the generators' graph; the generators' half encodes the images again and computes the
    discriminators' weight gradients. The cycle losses are always computed, even if their weight is 0. A trainer with
    compat=True draws noise on the CPU, as the public one does. Arguments and errors are those of `reference_step`.
    """
    _step(trainer, x_a, x_b, _unit_translations, _unit_losses)


def _step(
    trainer: MUNIT | UNIT,
    x_a: Tensor,
    x_b: Tensor,
    translations: Callable[..., tuple[Tensor, Tensor]],
    generator_losses: Callable[..., tuple[Tensor, Mapping[str, Tensor]]],
) -> None:
    if trainer.config.vgg_w > 0:
        raise ValueError("reference_step has no perceptual loss: set vgg_w to 0.")
    trainer.update_learning_rate()
    with functional.use_implementation("reference"):
        trainer.dis_opt.zero_grad()
        with trainer.autocast():
            x_ba, x_ab = translations(trainer, x_a, x_b)
            loss_a = _dis_loss(trainer.dis_a, x_ba.detach(), x_a)
            loss_b = _dis_loss(trainer.dis_b, x_ab.detach(), x_b)
        total = trainer.config.gan_w * loss_a + trainer.config.gan_w * loss_b
        total.backward()
        trainer.dis_opt.step()
        trainer.loss_dis_a, trainer.loss_dis_b, trainer.loss_dis_total = (x.detach() for x in (loss_a, loss_b, total))

        trainer.gen_opt.zero_grad()
        total, losses = generator_losses(trainer, x_a, x_b)
        total.backward()
        trainer.gen_opt.step()
        for name, loss in losses.items():
            setattr(trainer, f"loss_gen_{name}", loss.detach())
        trainer.loss_gen_total = total.detach()


def _munit_translations(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
    s_a, s_b = trainer.draw(x_a, x_b)
    c_a, _ = trainer.gen_a.encode(x_a)
    c_b, _ = trainer.gen_b.encode(x_b)
    return trainer.gen_a.decode(c_b, s_a), trainer.gen_b.decode(c_a, s_b)


def _unit_translations(trainer: UNIT, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
    h_a, n_a = trainer.gen_a.encode(x_a)
    h_b, n_b = trainer.gen_b.encode(x_b)
    return trainer.gen_a.decode(h_b + n_b), trainer.gen_b.decode(h_a + n_a)


def _munit_losses(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    config = trainer.config
    s_a, s_b = trainer.draw(x_a, x_b)
    with trainer.autocast():
        c_a, s_a_prime = trainer.gen_a.encode(x_a)
        c_b, s_b_prime = trainer.gen_b.encode(x_b)
        x_a_recon = trainer.gen_a.decode(c_a, s_a_prime)
        x_b_recon = trainer.gen_b.decode(c_b, s_b_prime)
        x_ba = trainer.gen_a.decode(c_b, s_a)
        x_ab = trainer.gen_b.decode(c_a, s_b)
        c_b_recon, s_a_recon = trainer.gen_a.encode(x_ba)
        c_a_recon, s_b_recon = trainer.gen_b.encode(x_ab)
        pairs = {
            "recon_x_a": (x_a_recon, x_a, config.recon_x_w),
            "recon_x_b": (x_b_recon, x_b, config.recon_x_w),
            "recon_s_a": (s_a_recon, s_a, config.recon_s_w),
            "recon_s_b": (s_b_recon, s_b, config.recon_s_w),
            "recon_c_a": (c_a_recon, c_a, config.recon_c_w),
            "recon_c_b": (c_b_recon, c_b, config.recon_c_w),
        }
        if config.recon_x_cyc_w > 0:
            x_aba = trainer.gen_a.decode(c_a_recon, s_a_prime)
            x_bab = trainer.gen_b.decode(c_b_recon, s_b_prime)
            pairs["cycrecon_x_a"] = (x_aba, x_a, config.recon_x_cyc_w)
            pairs["cycrecon_x_b"] = (x_bab, x_b, config.recon_x_cyc_w)
        adversarial = _adversarial(trainer, x_ba, x_ab)
    return _total(config.gan_w, adversarial, pairs, {})


def _unit_losses(trainer: UNIT, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    config = trainer.config
    with trainer.autocast():
        h_a, n_a = trainer.gen_a.encode(x_a)
        h_b, n_b = trainer.gen_b.encode(x_b)
        x_a_recon = trainer.gen_a.decode(h_a + n_a)
        x_b_recon = trainer.gen_b.decode(h_b + n_b)
        x_ba = trainer.gen_a.decode(h_b + n_b)
        x_ab = trainer.gen_b.decode(h_a + n_a)
        h_b_recon, n_b_recon = trainer.gen_a.encode(x_ba)
        h_a_recon, n_a_recon = trainer.gen_b.encode(x_ab)
        x_aba = trainer.gen_a.decode(h_a_recon + n_a_recon)
        x_bab = trainer.gen_b.decode(h_b_recon + n_b_recon)
        adversarial = _adversarial(trainer, x_ba, x_ab)
    pairs = {
        "recon_x_a": (x_a_recon, x_a, config.recon_x_w),
        "recon_x_b": (x_b_recon, x_b, config.recon_x_w),
        "cyc_x_a": (x_aba, x_a, config.recon_x_cyc_w),
        "cyc_x_b": (x_bab, x_b, config.recon_x_cyc_w),
    }
    hidden = {
        "recon_kl_a": (h_a, config.recon_kl_w),
        "recon_kl_b": (h_b, config.recon_kl_w),
        "recon_kl_cyc_aba": (h_a_recon, config.recon_kl_cyc_w),
        "recon_kl_cyc_bab": (h_b_recon, config.recon_kl_cyc_w),
    }
    squares = {name: (torch.mean(torch.pow(widen(h), 2)), weight) for name, (h, weight) in hidden.items()}
    return _total(config.gan_w, adversarial, pairs, squares)


def _dis_loss(dis: MsImageDis, fake: Tensor, real: Tensor) -> Tensor:
    return discriminator_loss(dis(fake), dis(real), dis.gan_type)


def _adversarial(trainer: MUNIT | UNIT, x_ba: Tensor, x_ab: Tensor) -> dict[str, Tensor]:
    return {
        "adv_a": generator_loss(trainer.dis_a(x_ba), trainer.dis_a.gan_type),
        "adv_b": generator_loss(trainer.dis_b(x_ab), trainer.dis_b.gan_type),
    }


def _total(
    gan_w: float, adversarial: Mapping[str, Tensor], pairs: _Pairs, others: Mapping[str, tuple[Tensor, float]]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the weighted sum of all losses and the losses by name. Those of `pairs` are mean absolute differences."""
    terms = [gan_w * loss for loss in adversarial.values()]
    losses = dict(adversarial)
    for name, (value, target, weight) in pairs.items():
        losses[name] = torch.mean(torch.abs(value.to(torch.promote_types(value.dtype, torch.float32)) - target))
        terms.append(weight * losses[name])
    for name, (loss, weight) in others.items():
        losses[name] = loss
        terms.append(weight * loss)
    return torch.stack(terms).sum(), losses
