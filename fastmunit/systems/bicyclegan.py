"""BicycleGAN: many plausible outputs, learned from pairs; its two halves, and pix2pix with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fastmunit import distributed, functional
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.nn.layers.dropout import masks_from
from fastmunit.nn.layers.init import weights_init
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.nn.networks.latent_encoder import LatentEncoder
from fastmunit.nn.networks.unet import Injection
from fastmunit.systems.base import Hyperparameters, Loss, System, Weight, check_batches, frozen
from fastmunit.systems.generator_options import (
    FREE_GENERATOR_OPTIONS,
    GeneratorOptions,
    check_generators,
    make_generator,
)
from fastmunit.systems.latent_translator import LatentTranslator
from fastmunit.systems.parts.cuda_graph import CapturedIteration
from fastmunit.systems.parts.losses import discriminator_loss, generator_loss, widen
from fastmunit.systems.parts.parameter_count import Estimate, translation_networks
from fastmunit.systems.registry import register
from fastmunit.systems.translator import Translator

_LOSS_WEIGHTS = ("gan_w", "recon_x_w", "recon_s_w", "recon_kl_w")


class BicycleGANOptions(GeneratorOptions):
    """Keys of BicycleGAN alone."""

    generator: Literal["resnet", "unet"] = "unet"
    inject: Injection = "all"
    variant: Literal["bicycle", "cvae", "clr", "pix2pix_noise"] = "bicycle"
    gan_random_w: float = Field(1, ge=0, description="weight of the GAN loss of translations with random codes")
    conditional_dis: bool = Field(False, description="show the discriminators the input beside the output")
    same_dis: bool = Field(False, description="one discriminator for encoded and random codes")
    encoder_dim: PositiveInt = Field(64, le=1024, description="channels of the encoder's first layer")
    encoder_blocks: PositiveInt = Field(4, le=16, description="residual blocks of the encoder")

    @property
    def encodes(self) -> bool:
        """Whether images are translated with the codes of their targets."""
        return self.variant in ("bicycle", "cvae")

    @property
    def draws(self) -> bool:
        """Whether images are translated with random codes."""
        return self.variant != "cvae"

    @property
    def regresses(self) -> bool:
        """Whether random codes are read back from the translations; the second half of a batch is real images alone."""
        return self.variant in ("bicycle", "clr")


class _Branch(NamedTuple):
    """What one discriminator is shown: translations and real images, each with the input it belongs to."""

    fake: Tensor
    fake_input: Tensor
    real: Tensor
    real_input: Tensor


@register("bicyclegan")
class BicycleGAN(System):
    """A generator of images of B from images of A and latent vectors, an encoder of B's images, two discriminators.

    The first half of a batch goes the way of the conditional VAE-GAN: (mean, log variance) = encoder(x_b),
    z = mean + ε exp(log variance / 2), x_ab = gen(x_a, z). The same inputs are translated with random z as well, the
    way of the conditional latent regressor; the second half of the batch serves as real images for these. With
    adv_encoded = GAN(dis_encoded, x_ab), adv_random = GAN(dis_random, x_ab_random), recon_x = mean |x_ab - x_b|,
    kl = -½ Σ (1 + log variance - mean² - variance), a sum over the batch too, and
    recon_s = mean |mean of encoder(x_ab_random) - z_random|:

    gan_w · adv_encoded + options.gan_random_w · adv_random + recon_x_w · recon_x + recon_kl_w · kl trains generator and
    encoder, recon_s_w · recon_s the generator alone; loss_gen_total is their sum. Then the discriminators learn, each
    by `discriminator_loss`, not halved: loss_dis_total = loss_dis_encoded + loss_dis_random.

    options.variant:
        bicycle: all of that.
        cvae: the conditional VAE-GAN alone, on whole batches.
        clr: the conditional latent regressor GAN alone; recon_s trains the encoder too, which nothing else would.
        pix2pix_noise: no encoder; gan_w · adv_random + recon_x_w · mean |x_ab_random - x_b| on whole batches, the
            discriminator's loss halved: pix2pix with a latent vector, the baseline of the paper.

    Source: Zhu et al., "Toward Multimodal Image-to-Image Translation", NIPS 2017, sections 3 and 4.

    Args and errors: as `System`; hyperparameters has `options` of `BicycleGANOptions`, gen.style_dim is the length of
    latent vectors, and pairs must not be "unpaired".
    """

    recipe, demo_recipe = "bicyclegan", "demo_bicyclegan"
    Options = BicycleGANOptions
    free_options = FREE_GENERATOR_OPTIONS | {"gan_random_w"}
    paired = True
    directions = ("a2b",)
    rows: tuple[str, ...] = (
        "input",
        "target",
        "with the target's code",
        "with a random code",
        "with another random code",
    )

    def __init__(self, hyperparameters: Hyperparameters, *, compat: bool = False, fused_adam: bool = True) -> None:
        super().__init__(hyperparameters, compat=compat, fused_adam=fused_adam)
        config, options = self.config, self.options
        networks = self.build_generators(config)
        self.gen = networks["b"]
        self.encoder = cast("LatentEncoder | None", networks.get("encoder"))
        if self.encoder is None:
            self.rows = ("input", "target", "with a random code", "with another random code")
        judged = config.input_dim_b + (config.input_dim_a if options.conditional_dis else 0)
        self.dis_encoded = PatchDiscriminator(judged, config.dis) if options.encodes else None
        self.dis_random: PatchDiscriminator | None = None
        if options.draws:
            shared = self.dis_encoded if options.same_dis else None
            self.dis_random = shared or PatchDiscriminator(judged, config.dis)
        self.gen_opt = self.make_optimizer(self.generators().values())
        self.dis_opt = self.make_optimizer(self.discriminators().values())
        self.apply(weights_init(config.init, options.init_gain))
        self.finish()
        self._fakes: list[list[Tensor]] = []
        self._captured_gen, self._captured_dis = CapturedIteration(), CapturedIteration()

        self.loss_gen_adv_encoded: Loss = 0
        self.loss_gen_adv_random: Loss = 0
        self.loss_gen_recon_x: Loss = 0
        self.loss_gen_recon_s: Loss = 0
        self.loss_gen_kl: Loss = 0
        self.loss_gen_total: Loss = 0
        self.loss_dis_encoded: Loss = 0
        self.loss_dis_random: Loss = 0
        self.loss_dis_total: Loss = 0

    @classmethod
    def check(cls, config: Config) -> BicycleGANOptions:
        options: BicycleGANOptions = super().check(config)
        check_generators(config, options, cls._least(config, options))
        if options.regresses and config.batch_size % 2:
            raise ConfigError(
                f"batch_size is {config.batch_size}, but variant {options.variant} uses the halves of a batch in "
                "different ways: make it even."
            )
        return options

    @classmethod
    def batch_parts(cls, config: Config) -> int:
        return super().batch_parts(config) * (2 if cls.check(config).regresses else 1)

    @staticmethod
    def _least(config: Config, options: BicycleGANOptions) -> int:
        encoder = 2 if options.variant == "pix2pix_noise" else 2 ** (options.encoder_blocks + 1)
        return max(encoder, options.least(config))

    @classmethod
    def parameter_estimate(cls, config: Config, options: Any) -> Estimate:
        return translation_networks(
            config, options.generator, options.num_downs, options.encoder_dim, options.encoder_blocks
        )

    @classmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        options = cls.check(config)
        latent = config.gen.style_dim
        networks = {"b": make_generator(options, config, config.input_dim_a, config.input_dim_b, latent)}
        if options.variant != "pix2pix_noise":
            networks["encoder"] = LatentEncoder(config.input_dim_b, latent, options.encoder_dim, options.encoder_blocks)
        return networks

    @classmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> Translator:
        options = cls.check(config)
        if direction not in cls.directions:
            raise ConfigError(f"system {cls.name!r} translates a2b only, not {direction}.")
        return LatentTranslator(
            generators["b"],
            config.gen.style_dim,
            options.multiple(config),
            cls._least(config, options),
            config.channels(direction),
            cast("LatentEncoder | None", generators.get("encoder")),
        )

    def generators(self) -> dict[str, nn.Module]:
        return {"b": self.gen} if self.encoder is None else {"b": self.gen, "encoder": self.encoder}

    def discriminators(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        if self.dis_encoded is not None:
            found["encoded"] = self.dis_encoded
        if self.dis_random is not None and self.dis_random is not self.dis_encoded:
            found["random"] = self.dis_random
        return found

    def update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of generator and encoder, then one of the discriminators.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W); N is even where the variant needs halves.
            x_b: the images of domain B that belong to them, (N, input_dim_b, H, W).
            hyperparameters: read for the loss weights; None uses the constructor's.

        Raises:
            ValueError: N is odd, or the batches differ in size.
        """
        options, weight = self.options, self.reader(hyperparameters)
        check_batches(x_a, x_b)
        if options.regresses and len(x_a) % 2:
            raise ValueError(f"system {self.name!r} needs an even number of pairs, got {len(x_a)}.")
        inputs, targets = (x.chunk(2) if options.regresses else (x, x) for x in (x_a, x_b))

        def draw(count: int) -> Tensor:
            return torch.randn(count, self.config.gen.style_dim)

        micro_batches = self.config.micro_batches
        codes = [distributed.draw(draw, len(inputs[0]), micro_batches).to(x_a) for _ in self._codes()]

        def generators(*tensors: Tensor) -> None:
            self.step_generators(*tensors, weight=weight)

        def discriminators(*tensors: Tensor) -> None:
            self.step_discriminators(*(_Branch(*tensors[i : i + 4]) for i in range(0, len(tensors), 4)))

        key = tuple(weight(name) for name in _LOSS_WEIGHTS)
        captured = self.replays
        tensors = (inputs[0], targets[0], *codes)
        if captured:
            self.replay(self._captured_gen, generators, tensors, [self.gen_opt], key)
        else:
            generators(*tensors)
        fakes = [torch.cat(parts) for parts in zip(*self._fakes, strict=True)]
        reals = {"encoded": (targets[0], inputs[0]), "random": (targets[1], inputs[1])}
        branches = [_Branch(fake, inputs[0], *reals[name]) for name, fake in zip(self._codes(), fakes, strict=True)]
        tensors = tuple(tensor for branch in branches for tensor in branch)
        if captured:
            self.replay(self._captured_dis, discriminators, tensors, [self.dis_opt])
        else:
            discriminators(*tensors)

    def step_generators(self, x_a: Tensor, x_b: Tensor, *codes: Tensor, weight: Weight) -> None:
        """The generator's and the encoder's half.

        Args:
            x_a: inputs, (N, input_dim_a, H, W).
            x_b: their targets, (N, input_dim_b, H, W).
            codes: (N, style_dim) from N(0, I): ε where the variant encodes, then z where it draws.
            weight: reads the loss weights.
        """
        self._fakes = []

        def loss_of(x_a: Tensor, x_b: Tensor, *codes: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            return self._gen_loss(x_a, x_b, dict(zip(self._codes(), codes, strict=True)), weight)

        total, losses = self.descend("gen", (x_a, x_b, *codes), loss_of)
        self.publish("gen", total, losses)

    def step_discriminators(self, *branches: _Branch) -> None:
        """The discriminators' half: a branch for each of `_codes`."""
        factor = 0.5 if self.options.variant == "pix2pix_noise" else 1.0

        def loss_of(*tensors: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            terms: dict[str, Tensor] = {}
            with self.autocast():
                for name, start in zip(self._codes(), range(0, len(tensors), 4), strict=True):
                    shown = _Branch(*tensors[start : start + 4])
                    dis = self._dis(name)
                    fake = self._shown(shown.fake, shown.fake_input)
                    judged = dis.forward_pair(fake, self._shown(shown.real, shown.real_input))
                    terms[name] = factor * discriminator_loss(*judged, dis.gan_type)
            return torch.stack([*terms.values()]).sum(), {name: term.detach() for name, term in terms.items()}

        total, losses = self.descend("dis", [tensor for branch in branches for tensor in branch], loss_of)
        self.publish("dis", total, losses)

    def _codes(self) -> tuple[str, ...]:
        """The codes that images are translated with: those of their targets, random ones."""
        return ("encoded",) * self.options.encodes + ("random",) * self.options.draws

    def _dis(self, name: str) -> PatchDiscriminator:
        return cast(PatchDiscriminator, self.dis_encoded if name == "encoded" else self.dis_random)

    def _shown(self, image: Tensor, belongs_to: Tensor) -> Tensor:
        """What a discriminator sees of an image: itself and, where it is conditional, its input."""
        if not self.options.conditional_dis:
            return image
        return torch.cat([belongs_to.to(image.dtype), image], dim=1)

    def _gen_loss(
        self, x_a: Tensor, x_b: Tensor, drawn: Mapping[str, Tensor], weight: Weight
    ) -> tuple[Tensor, dict[str, Loss]]:
        options = self.options
        losses: dict[str, Loss] = {"adv_encoded": 0, "adv_random": 0, "recon_x": 0, "recon_s": 0, "kl": 0}
        terms: list[Tensor] = []
        pairs: dict[str, tuple[Tensor, Tensor, float]] = {}
        with self.autocast():
            codes = dict(drawn)
            if options.encodes:
                mean, log_variance = (widen(x) for x in self.run(cast(LatentEncoder, self.encoder), x_b))
                codes["encoded"] = mean + drawn["encoded"] * torch.exp(0.5 * log_variance)
                kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
                # A sum over the batch, of which `descend` takes a mean over parts and processes.
                kl = kl * (self.config.micro_batches * distributed.world_size())
                terms.append(weight("recon_kl_w") * kl)
                losses["kl"] = kl.detach()
            made = dict(zip(codes, self._translate(x_a, [*codes.values()]), strict=True))
            for name, image in made.items():
                dis = self._dis(name)
                with frozen(dis):
                    adv = generator_loss(dis(self._shown(image, x_a)), dis.gan_type)
                of_random = name == "random" and options.regresses
                terms.append((options.gan_random_w if of_random else weight("gan_w")) * adv)
                losses[f"adv_{name}"] = adv.detach()
            if options.variant != "clr":
                pairs["recon_x"] = (made["encoded" if options.encodes else "random"], x_b, weight("recon_x_w"))
            if options.regresses and weight("recon_s_w") > 0:
                encoder = cast(LatentEncoder, self.encoder)
                with frozen(*([encoder] if options.encodes else [])):
                    found, _ = encoder(made["random"])
                pairs["recon_s"] = (found, codes["random"], weight("recon_s_w"))
        self._fakes.append([image.detach() for image in made.values()])
        total = torch.stack(terms).sum()
        if pairs:
            inputs, targets, weights = zip(*pairs.values(), strict=True)
            values, weighted = functional.weighted_l1(inputs, targets, weights)
            losses.update(zip(pairs, values.detach().unbind(), strict=True))
            total = total + weighted
        return total, losses

    def _translate(self, x_a: Tensor, codes: Sequence[Tensor]) -> list[Tensor]:
        """x_a with each of the codes: in one batch off the reference path, as all norms are of single samples.

        Dropout would draw other masks in one batch than in two.
        """
        if functional.exact_order() or self.options.dropout > 0:
            return [self.run(self.gen, x_a, code) for code in codes]
        images = self.run(self.gen, torch.cat([x_a] * len(codes)), torch.cat([*codes]))
        return list(images.chunk(len(codes)))

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Translate display images, in eval mode.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W).
            x_b: the images of domain B that belong to them.
            generator: of random codes and dropout, on the CPU; None is torch's global one.

        Returns:
            What `rows` names.

        Raises:
            ValueError: the batches differ in size.
        """
        if len(x_a) != len(x_b):
            raise ValueError(f"sample needs pairs; got {len(x_a)} and {len(x_b)} images.")
        columns = []
        generator = distributed.apart(generator)
        generators = self.evaluation_generators()
        gen, encoder = generators["b"], generators.get("encoder")
        with self.inference_autocast(), masks_from(generator):
            for image, target in zip(x_a.split(1), x_b.split(1), strict=True):
                codes = [torch.randn(1, self.config.gen.style_dim, generator=generator).to(image) for _ in range(2)]
                if encoder is not None:
                    codes.insert(0, encoder(target)[0])
                columns.append([image, target, *(gen(image, code).to(image.dtype) for code in codes)])
        return tuple(torch.cat(row) for row in zip(*columns, strict=True))
