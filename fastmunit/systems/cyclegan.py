"""CycleGAN: unpaired translation, one output an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fastmunit import distributed, functional
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.nn.layers.dropout import masks_from
from fastmunit.nn.layers.init import weights_init
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.systems.base import Hyperparameters, Loss, System, Weight, check_batches, frozen
from fastmunit.systems.generator_options import (
    FREE_GENERATOR_OPTIONS,
    GeneratorOptions,
    check_generators,
    make_generator,
)
from fastmunit.systems.latent_translator import LatentTranslator
from fastmunit.systems.parts import resume_checks
from fastmunit.systems.parts.cuda_graph import CapturedIteration
from fastmunit.systems.parts.image_pool import ImagePool
from fastmunit.systems.parts.losses import discriminator_loss, generator_loss
from fastmunit.systems.parts.parameter_count import Estimate, translation_networks
from fastmunit.systems.registry import register
from fastmunit.systems.translator import Translator

_LOSS_WEIGHTS = ("gan_w", "recon_x_cyc_w")
# Noise of one iteration: translations, reconstructions, identities, in this order of draws.
_NOISES = ("ab", "ba", "aba", "bab", "aa", "bb")


class CycleGANOptions(GeneratorOptions):
    """Keys of CycleGAN alone."""

    identity: float = Field(0.5, ge=0, description="weight of the identity loss, as a part of recon_x_cyc_w")
    pool_size: int = Field(50, ge=0, le=65536, description="translated images kept for the discriminators")
    noise_dim: int = Field(
        0,
        ge=0,
        le=8192,
        description="length of the generators' noise; 0: none. A resnet cancels it",
    )


@register("cyclegan")
class CycleGAN(System):
    """Two generators that undo each other, and a PatchGAN for each domain.

    loss_gen_total = gan_w · (adv_a + adv_b) + recon_x_cyc_w · (cycrecon_x_a + cycrecon_x_b)
    + recon_x_cyc_w · options.identity · (identity_a + identity_b), the last four mean absolute differences, where
    identity_a compares gen_a(x_a) with x_a. Then the discriminators, on images from a pool of earlier ones:
    loss_dis_total = loss_dis_a + loss_dis_b, each half of `discriminator_loss`.

    With options.noise_dim the generators take a vector from N(0, I), a new one for every image they make; with U-Nets
    and dropout at test it is the "CycleGAN* with noise" of the MUNIT paper, section 5.2.
    Source: Zhu, Park, Isola, Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
    ICCV 2017, equation 3 and section 5.2.

    Args and errors: as `System`; hyperparameters has `options` of `CycleGANOptions`.
    """

    recipe, demo_recipe = "cyclegan", "demo_cyclegan"
    Options = CycleGANOptions
    free_options = FREE_GENERATOR_OPTIONS | {"identity", "pool_size"}
    rows: tuple[str, ...] = ("input", "translation", "reconstruction")

    def __init__(self, hyperparameters: Hyperparameters, *, compat: bool = False, fused_adam: bool = True) -> None:
        super().__init__(hyperparameters, compat=compat, fused_adam=fused_adam)
        config, options = self.config, self.options
        generators = self.build_generators(config)
        self.gen_a, self.gen_b = generators["a"], generators["b"]
        self.dis_a = PatchDiscriminator(config.input_dim_a, config.dis)
        self.dis_b = PatchDiscriminator(config.input_dim_b, config.dis)
        self.gen_opt = self.make_optimizer([self.gen_a, self.gen_b])
        self.dis_opt = self.make_optimizer([self.dis_a, self.dis_b])
        self.apply(weights_init(config.init, options.init_gain))
        self.finish()
        self.pools = {"a": ImagePool(options.pool_size), "b": ImagePool(options.pool_size)}
        self._fakes: list[tuple[Tensor, Tensor]] = []
        self._captured_gen, self._captured_dis = CapturedIteration(), CapturedIteration()
        if options.noise_dim or (options.dropout and options.dropout_at_test):
            self.rows = ("input", "translation", "translation with other noise", "reconstruction")

        self.loss_gen_adv_a: Loss = 0
        self.loss_gen_adv_b: Loss = 0
        self.loss_gen_cycrecon_x_a: Loss = 0
        self.loss_gen_cycrecon_x_b: Loss = 0
        self.loss_gen_identity_a: Loss = 0
        self.loss_gen_identity_b: Loss = 0
        self.loss_gen_total: Loss = 0
        self.loss_dis_a: Loss = 0
        self.loss_dis_b: Loss = 0
        self.loss_dis_total: Loss = 0

    @classmethod
    def check(cls, config: Config) -> CycleGANOptions:
        options: CycleGANOptions = super().check(config)
        check_generators(config, options)
        if options.identity > 0 and config.input_dim_a != config.input_dim_b:
            raise ConfigError(
                f"options.identity {options.identity:g} compares images of both domains, but input_dim_a is "
                f"{config.input_dim_a} and input_dim_b {config.input_dim_b}: set options.identity to 0."
            )
        return options

    @classmethod
    def parameter_estimate(cls, config: Config, options: Any) -> Estimate:
        return translation_networks(config, options.generator, options.num_downs)

    @classmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        options = cls.check(config)
        a, b, noise = config.input_dim_a, config.input_dim_b, options.noise_dim
        return {"a": make_generator(options, config, b, a, noise), "b": make_generator(options, config, a, b, noise)}

    @classmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> Translator:
        options = cls.check(config)
        return LatentTranslator(
            generators[direction[-1]],
            options.noise_dim,
            options.multiple(config),
            options.least(config),
            config.channels(direction),
        )

    def generators(self) -> dict[str, nn.Module]:
        return {"a": self.gen_a, "b": self.gen_b}

    def discriminators(self) -> dict[str, nn.Module]:
        return {"a": self.dis_a, "b": self.dis_b}

    def resume_state(self) -> dict[str, Any]:
        return {**super().resume_state(), "pools": {name: pool.state() for name, pool in self.pools.items()}}

    def load_resume_state(self, state: Mapping[str, Any]) -> list[str]:
        saved = resume_checks.part(state, "pools", Mapping)
        channels = {"a": self.config.input_dim_a, "b": self.config.input_dim_b}
        pools = {name: resume_checks.images(saved, name, channels[name]) for name in self.pools}
        notes = super().load_resume_state(state)
        size = (self.config.crop_image_height, self.config.crop_image_width)
        for name, pool in self.pools.items():
            images = pools[name]
            if any(tuple(image.shape[1:]) != size for image in images):
                notes.append(f"the crop changed, so the pool of translated images of domain {name.upper()} is new.")
                images = []
            pool.load(images)
        return notes

    def update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of the generators, then one of the discriminators."""
        check_batches(x_a, x_b)
        weight = self.reader(hyperparameters)
        noises = self._draw_noise(x_a, x_b)

        def generators(*tensors: Tensor) -> None:
            self.step_generators(*tensors, weight=weight)

        if self.replays:
            key = tuple(weight(name) for name in _LOSS_WEIGHTS)
            self.replay(self._captured_gen, generators, (x_a, x_b, *noises), [self.gen_opt], key)
        else:
            generators(x_a, x_b, *noises)
        fakes = [torch.cat(parts) for parts in zip(*self._fakes, strict=True)]
        images = [self._from_pool(self.pools[name], fake) for name, fake in zip("ab", fakes, strict=True)]
        if self.replays:
            tensors = (images[0], images[1], x_a, x_b)
            self.replay(self._captured_dis, self.step_discriminators, tensors, [self.dis_opt])
        else:
            self.step_discriminators(images[0], images[1], x_a, x_b)

    def step_generators(self, x_a: Tensor, x_b: Tensor, *noises: Tensor, weight: Weight) -> None:
        """The generators' half on given noise: nothing in it is random but dropout, or waits for the device."""
        self._fakes = []

        def loss_of(x_a: Tensor, x_b: Tensor, *noises: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            return self._gen_loss(x_a, x_b, dict(zip(_NOISES, noises, strict=False)), weight)

        total, losses = self.descend("gen", (x_a, x_b, *noises), loss_of)
        self.publish("gen", total, losses)

    def step_discriminators(self, fake_a: Tensor, fake_b: Tensor, x_a: Tensor, x_b: Tensor) -> None:
        """The discriminators' half on given translated images."""

        def loss_of(fake_a: Tensor, fake_b: Tensor, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            with self.autocast():
                judged_a = self.dis_a.forward_pair(fake_a, x_a)
                judged_b = self.dis_b.forward_pair(fake_b, x_b)
            loss_a = 0.5 * discriminator_loss(*judged_a, self.dis_a.gan_type)
            loss_b = 0.5 * discriminator_loss(*judged_b, self.dis_b.gan_type)
            return loss_a + loss_b, {"a": loss_a.detach(), "b": loss_b.detach()}

        total, losses = self.descend("dis", (fake_a, fake_b, x_a, x_b), loss_of)
        self.publish("dis", total, losses)

    def _gen_loss(
        self, x_a: Tensor, x_b: Tensor, noises: Mapping[str, Tensor], weight: Weight
    ) -> tuple[Tensor, dict[str, Loss]]:
        cycle_w = weight("recon_x_cyc_w")
        identity_w = cycle_w * self.options.identity
        pairs: dict[str, tuple[Tensor, Tensor, float]] = {}
        with self.autocast():
            if identity_w > 0:
                x_ba, x_aa = self._translate_both(self.gen_a, x_b, x_a, noises.get("ba"), noises.get("aa"))
                x_ab, x_bb = self._translate_both(self.gen_b, x_a, x_b, noises.get("ab"), noises.get("bb"))
                pairs = {"identity_a": (x_aa, x_a, identity_w), "identity_b": (x_bb, x_b, identity_w)}
            else:
                x_ba = self._translate(self.gen_a, x_b, noises.get("ba"))
                x_ab = self._translate(self.gen_b, x_a, noises.get("ab"))
            if cycle_w > 0:
                x_aba = self._translate(self.gen_a, x_ab, noises.get("aba"))
                x_bab = self._translate(self.gen_b, x_ba, noises.get("bab"))
                pairs |= {"cycrecon_x_a": (x_aba, x_a, cycle_w), "cycrecon_x_b": (x_bab, x_b, cycle_w)}
            with frozen(self.dis_a, self.dis_b):
                fake_a, fake_b = self.dis_a(x_ba), self.dis_b(x_ab)
        self._fakes.append((x_ba.detach(), x_ab.detach()))

        adv_a, adv_b = (generator_loss(fake, self.dis_a.gan_type) for fake in (fake_a, fake_b))
        total = weight("gan_w") * (adv_a + adv_b)
        losses: dict[str, Loss] = dict.fromkeys(("identity_a", "identity_b", "cycrecon_x_a", "cycrecon_x_b"), 0)
        losses |= {"adv_a": adv_a.detach(), "adv_b": adv_b.detach()}
        if pairs:
            inputs, targets, weights = zip(*pairs.values(), strict=True)
            values, weighted = functional.weighted_l1(inputs, targets, weights)
            losses.update(zip(pairs, values.detach().unbind(), strict=True))
            total = total + weighted
        return total, losses

    def _from_pool(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        """Exchange the translated images of all processes, each of which keeps the same pool, and return this one's."""
        if pool.size == 0:
            return pool.exchange(fakes)
        parts = self.batch_parts(self.config)
        return distributed.share(pool.exchange(distributed.gather(fakes, parts)), parts)

    def _translate(self, gen: nn.Module, x: Tensor, noise: Tensor | None) -> Tensor:
        return self.run(gen, x) if noise is None else self.run(gen, x, noise)

    def _translate_both(
        self, gen: nn.Module, x: Tensor, y: Tensor, noise_x: Tensor | None, noise_y: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Translations of x and y: in one batch off the reference path, as all norms are of single samples.

        Dropout would draw other masks in one batch than in two.
        """
        apart = functional.exact_order() or self.options.dropout > 0
        if apart or x.shape != y.shape:
            return self._translate(gen, x, noise_x), self._translate(gen, y, noise_y)
        noise = None if noise_x is None or noise_y is None else torch.cat([noise_x, noise_y])
        first, second = self._translate(gen, torch.cat([x, y]), noise).chunk(2)
        return first, second

    def _draw_noise(self, x_a: Tensor, x_b: Tensor) -> list[Tensor]:
        """One vector from N(0, I) for each image that an iteration makes, drawn on the CPU; empty without noise."""
        if not self.options.noise_dim:
            return []
        counts, parts = {"a": len(x_a), "b": len(x_b)}, self.batch_parts(self.config)

        def sample(count: int) -> Tensor:
            return torch.randn(count, self.options.noise_dim)

        return [distributed.draw(sample, counts[name[0]], parts).to(x_a) for name in _NOISES]

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Translate display images and back, in eval mode.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W).
            x_b: images of domain B, (M, input_dim_b, H, W).
            generator: of noise and dropout, on the CPU; None is torch's global one.

        Returns:
            For each direction what `rows` names, first a2b.
        """
        outputs: list[Tensor] = []
        generator = distributed.apart(generator)
        generators = self.evaluation_generators()
        gen_a, gen_b = generators["a"], generators["b"]
        with self.inference_autocast(), masks_from(generator):
            for images, there, back in ((x_a, gen_b, gen_a), (x_b, gen_a, gen_b)):
                columns = []
                for image in images.split(1):
                    made = [self._with_new_noise(there, image, generator) for _ in self.rows[2:]]
                    columns.append([image, *made, self._with_new_noise(back, made[0], generator)])
                outputs += [torch.cat([x.to(images.dtype) for x in row]) for row in zip(*columns, strict=True)]
        return tuple(outputs)

    def _with_new_noise(self, gen: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = self.options.noise_dim
        return gen(x, torch.randn(len(x), noise, generator=generator).to(x) if noise else None)
