"""CycleGAN: unpaired translation with one output per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fastmunit import distributed, functional
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.functional.streams import in_parallel
from fastmunit.nn.layers.dropout import masks_from
from fastmunit.nn.layers.init import weights_init
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.systems.base import System, frozen
from fastmunit.systems.generator_options import (
    FREE_GENERATOR_OPTIONS,
    GeneratorOptions,
    check_generators,
    make_generator,
)
from fastmunit.systems.parts import resume_checks
from fastmunit.systems.parts.cuda_graph import Inputs
from fastmunit.systems.parts.image_pool import ImagePool
from fastmunit.systems.parts.losses import discriminator_adversarial, generator_adversarial
from fastmunit.systems.parts.parameter_count import Estimate, translation_networks
from fastmunit.systems.parts.stepper import Weights
from fastmunit.systems.parts.terms import L1, Losses, Term, adversarial_sum, weighted_sum
from fastmunit.systems.registry import register
from fastmunit.systems.translators import LatentTranslator

# Noise of one iteration in the order in which it is drawn: for translations, reconstructions, identities.
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
    """Two generators that invert each other, and one PatchGAN per domain.

    loss_gen_total = gan_w · (adv_a + adv_b) + recon_x_cyc_w · (cycrecon_x_a + cycrecon_x_b)
    + recon_x_cyc_w · options.identity · (identity_a + identity_b). The last four are mean absolute differences;
    identity_a compares gen_a(x_a) with x_a. Then the discriminators learn from a pool of earlier translations:
    loss_dis_total = loss_dis_a + loss_dis_b, each half of `discriminator_loss`.

    With options.noise_dim the generators take a vector from N(0, I), a new one per generated image; with U-Nets and
    dropout at test this is the "CycleGAN* with noise" of the MUNIT paper, section 5.2.
    Source: Zhu, Park, Isola, Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
    ICCV 2017, equation 3 and section 5.2.

    Arguments and errors are those of `System`; the `options` of hyperparameters are `CycleGANOptions`.
    """

    recipe, demo_recipe = "cyclegan", "demo_cyclegan"
    Options = CycleGANOptions
    free_options = FREE_GENERATOR_OPTIONS | {"identity", "pool_size"}
    rows: tuple[str, ...] = ("input", "translation", "reconstruction")
    term_names = (
        "gen_adv_a", "gen_adv_b", "gen_cycrecon_x_a", "gen_cycrecon_x_b", "gen_identity_a", "gen_identity_b",
        "gen_total", "dis_a", "dis_b", "dis_total",
    )  # fmt: skip
    weight_keys = ("gan_w", "recon_x_cyc_w")

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
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> LatentTranslator:
        options = cls.check(config)
        return LatentTranslator(
            generators[direction[-1]],
            options.noise_dim,
            options.multiple(config),
            options.min_size(config),
            config.channels(direction),
        )

    def build(self) -> None:
        config, options = self.config, self.options
        generators = self.build_generators(config)
        self.gen_a, self.gen_b = generators["a"], generators["b"]
        self.dis_a = PatchDiscriminator(config.input_dim_a, config.dis)
        self.dis_b = PatchDiscriminator(config.input_dim_b, config.dis)
        self.pools = {"a": ImagePool(options.pool_size), "b": ImagePool(options.pool_size)}
        if options.noise_dim or (options.dropout and options.dropout_at_test):
            self.rows = ("input", "translation", "translation with other noise", "reconstruction")

    def initialize(self) -> None:
        self.apply(weights_init(self.config.init, self.options.init_gain))

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

    def draws(self, x_a: Tensor, x_b: Tensor, weights: Weights) -> Inputs:
        """Draw one noise vector per image that the iteration generates, on the CPU. Without noise_dim, draw none."""
        if not self.options.noise_dim:
            return {"gen": (x_a, x_b)}
        counts, parts = {"a": len(x_a), "b": len(x_b)}, self.batch_parts(self.config)

        def sample(count: int) -> Tensor:
            return torch.randn(count, self.options.noise_dim)

        return {"gen": (x_a, x_b, *(distributed.draw(sample, counts[name[0]], parts).to(x_a) for name in _NOISES))}

    def generator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        x_a, x_b, *drawn = tensors
        noises = dict(zip(_NOISES, drawn, strict=False))
        gan_w, cycle_w = weights["gan_w"], weights["recon_x_cyc_w"]
        identity_w = cycle_w * self.options.identity
        terms = []
        with self.autocast():
            if identity_w > 0:
                (x_ba, x_aa), (x_ab, x_bb) = in_parallel(
                    partial(self._translate_both, self.gen_a),
                    (x_b, x_a, noises.get("ba"), noises.get("aa")),
                    partial(self._translate_both, self.gen_b),
                    (x_a, x_b, noises.get("ab"), noises.get("bb")),
                )
                terms = [
                    Term("identity_a", identity_w, L1(x_aa, x_a)),
                    Term("identity_b", identity_w, L1(x_bb, x_b)),
                ]
            else:
                x_ba, x_ab = self._translate_each((x_b, noises.get("ba")), (x_a, noises.get("ab")))
            if cycle_w > 0:
                x_aba, x_bab = self._translate_each((x_ab, noises.get("aba")), (x_ba, noises.get("bab")))
                terms += [
                    Term("cycrecon_x_a", cycle_w, L1(x_aba, x_a)),
                    Term("cycrecon_x_b", cycle_w, L1(x_bab, x_b)),
                ]
            with frozen(self.dis_a, self.dis_b):
                adv_a, adv_b = in_parallel(
                    partial(generator_adversarial, self.dis_a),
                    (x_ba,),
                    partial(generator_adversarial, self.dis_b),
                    (x_ab,),
                )
        gan = adversarial_sum([Term("adv_a", gan_w, adv_a), Term("adv_b", gan_w, adv_b)])
        total, values, _ = weighted_sum(terms, gan.total)
        return Losses(total, values | gan.terms, (x_ba.detach(), x_ab.detach()))

    def discriminator_inputs(self, x_a: Tensor, x_b: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x_ba, x_ab = outputs
        return self._from_pool("a", x_ba), self._from_pool("b", x_ab), x_a, x_b

    def discriminator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        fake_a, fake_b, x_a, x_b = tensors
        with self.autocast():
            loss_a, loss_b = in_parallel(
                partial(discriminator_adversarial, self.dis_a),
                (fake_a, x_a),
                partial(discriminator_adversarial, self.dis_b),
                (fake_b, x_b),
            )
        return adversarial_sum([Term("a", 1.0, loss_a), Term("b", 1.0, loss_b)], factor=0.5)

    def fill_pools(self) -> list[Tensor]:
        size = (self.config.crop_image_height, self.config.crop_image_width)
        for pool, channels in ((self.pools["a"], self.config.input_dim_a), (self.pools["b"], self.config.input_dim_b)):
            pool.load([torch.empty(channels, *size, device=self.device) for _ in range(pool.size)])
        return [image for pool in self.pools.values() for image in pool.images]

    def _from_pool(self, name: str, fakes: Tensor) -> Tensor:
        """Exchange translations in the pool, which is the same in all processes. Return the images of this process."""
        pool, parts = self.pools[name], self.batch_parts(self.config)
        if pool.size == 0:
            return pool.exchange(fakes)
        return distributed.share(pool.exchange(distributed.gather(fakes, parts)), parts)

    def _translate(self, gen: nn.Module, x: Tensor, noise: Tensor | None) -> Tensor:
        translate = self.checkpointed(gen)
        return translate(x) if noise is None else translate(x, noise)

    def _translate_each(
        self, inputs_a: tuple[Tensor, Tensor | None], inputs_b: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Return the images of gen_a and of gen_b for an image and its noise each."""
        translate_a, translate_b = partial(self._translate, self.gen_a), partial(self._translate, self.gen_b)
        return in_parallel(translate_a, inputs_a, translate_b, inputs_b)

    def _translate_both(
        self, gen: nn.Module, x: Tensor, y: Tensor, noise_x: Tensor | None, noise_y: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Translate x and y, in one batch off the reference path, because all norms are of single samples.

        With dropout they are translated separately: one batch would draw other masks than two.
        """
        if functional.exact_order() or self.options.dropout > 0 or x.shape != y.shape:
            return self._translate(gen, x, noise_x), self._translate(gen, y, noise_y)
        noise = None if noise_x is None or noise_y is None else torch.cat([noise_x, noise_y])
        first, second = self._translate(gen, torch.cat([x, y]), noise).chunk(2)
        return first, second

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Translate display images and back in eval mode.

        Args:
            x_a: Images of domain A, (N, input_dim_a, H, W).
            x_b: Images of domain B, (M, input_dim_b, H, W).
            generator: CPU generator of noise and dropout. None is torch's global generator.

        Returns:
            The images that `rows` names, for a2b and then for b2a.
        """
        outputs: list[Tensor] = []
        generator = distributed.apart(generator)
        generators = self.evaluation_generators()
        gen_a, gen_b = generators["a"], generators["b"]
        with self.inference_autocast(), masks_from(generator):
            for images, there, back in ((x_a, gen_b, gen_a), (x_b, gen_a, gen_b)):
                columns = []
                for image in images.split(1):
                    translations = [self._with_new_noise(there, image, generator) for _ in self.rows[2:]]
                    reconstruction = self._with_new_noise(back, translations[0], generator)
                    columns.append([image, *translations, reconstruction])
                outputs += [torch.cat([x.to(images.dtype) for x in row]) for row in zip(*columns, strict=True)]
        return tuple(outputs)

    def _with_new_noise(self, gen: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = self.options.noise_dim
        return gen(x, torch.randn(len(x), noise, generator=generator).to(x) if noise else None)
