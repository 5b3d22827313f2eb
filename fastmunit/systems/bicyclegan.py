"""BicycleGAN: many plausible outputs per input, learned from pairs; also its two halves, and pix2pix with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

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
from fastmunit.systems.base import System, frozen
from fastmunit.systems.generator_options import (
    FREE_GENERATOR_OPTIONS,
    GeneratorOptions,
    check_generators,
    make_generator,
)
from fastmunit.systems.parts.cuda_graph import Inputs
from fastmunit.systems.parts.discriminator_view import Images
from fastmunit.systems.parts.losses import discriminator_adversarial, generator_adversarial, widen
from fastmunit.systems.parts.parameter_count import Estimate, translation_networks
from fastmunit.systems.parts.stepper import Weights
from fastmunit.systems.parts.terms import L1, Losses, Term, adversarial_sum, weighted_sum
from fastmunit.systems.registry import register
from fastmunit.systems.translators import LatentTranslator


class BicycleGANOptions(GeneratorOptions):
    """Keys of BicycleGAN alone."""

    generator: Literal["resnet", "unet"] = Field("unet", description="architecture of the generators")
    inject: Injection = Field("all", description="layers that the code enters: the first, or all that downsample")
    variant: Literal["bicycle", "cvae", "clr", "pix2pix_noise"] = Field(
        "bicycle",
        description="losses: cVAE-GAN (cvae), cLR-GAN (clr), both (bicycle), or those of pix2pix with noise",
    )
    gan_random_w: float = Field(1, ge=0, description="weight of the GAN loss of translations with random codes")
    conditional_dis: bool = Field(False, description="give the discriminators the input together with the output")
    same_dis: bool = Field(False, description="one discriminator for encoded and random codes")
    encoder_dim: PositiveInt = Field(64, le=1024, description="channels of the encoder's first layer")
    encoder_blocks: PositiveInt = Field(4, le=16, description="residual blocks of the encoder")

    @property
    def encodes(self) -> bool:
        """True if images are translated with the codes of their targets."""
        return self.variant in ("bicycle", "cvae")

    @property
    def draws(self) -> bool:
        """True if images are translated with random codes."""
        return self.variant != "cvae"

    @property
    def regresses(self) -> bool:
        """True if random codes are regressed from translations. Half of a batch then serves as real images only."""
        return self.variant in ("bicycle", "clr")

    @property
    def codes(self) -> tuple[str, ...]:
        """The kinds of codes with which images are translated."""
        return ("encoded",) * self.encodes + ("random",) * self.draws

    def min_size(self, config: Config) -> int:
        encoder = 2 if self.variant == "pix2pix_noise" else 2 ** (self.encoder_blocks + 1)
        return max(encoder, super().min_size(config))


@register("bicyclegan")
class BicycleGAN(System):
    """A generator of images of B from images of A and latent vectors, an encoder of images of B, two discriminators.

    The first half of a batch trains a conditional VAE-GAN: (mean, log variance) = encoder(x_b),
    z = mean + ε exp(log variance / 2), x_ab = gen(x_a, z). The same inputs, translated with random z, train a
    conditional latent regressor, for which the second half of the batch serves as real images. With
    adv_encoded = GAN(dis_encoded, x_ab), adv_random = GAN(dis_random, x_ab_random), recon_x = mean |x_ab - x_b|,
    kl = -½ Σ (1 + log variance - mean² - variance), where the sum includes the batch, and
    recon_s = mean |mean of encoder(x_ab_random) - z_random|:

    gan_w · adv_encoded + options.gan_random_w · adv_random + recon_x_w · recon_x + recon_kl_w · kl trains generator and
    encoder; recon_s_w · recon_s trains the generator alone; loss_gen_total is their sum. Then the discriminators learn,
    each by `discriminator_loss`, not halved: loss_dis_total = loss_dis_encoded + loss_dis_random.

    Values of options.variant:

    - bicycle: All of the above.
    - cvae: The conditional VAE-GAN alone, on whole batches.
    - clr: The conditional latent regressor GAN alone. recon_s trains the encoder too, because nothing else would.
    - pix2pix_noise: No encoder. gan_w · adv_random + recon_x_w · mean |x_ab_random - x_b| on whole batches, with half
      the discriminator loss: pix2pix with a latent vector, the baseline of the paper.

    Source: Zhu et al., "Toward Multimodal Image-to-Image Translation", NIPS 2017, sections 3 and 4.

    Arguments and errors are those of `System`. The `options` of hyperparameters are `BicycleGANOptions`, gen.style_dim
    is the length of latent vectors, and pairs must not be "unpaired".
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
    term_names = (
        "gen_adv_encoded", "gen_adv_random", "gen_recon_x", "gen_recon_s", "gen_kl", "gen_total", "dis_encoded",
        "dis_random", "dis_total",
    )  # fmt: skip
    weight_keys = ("gan_w", "recon_x_w", "recon_s_w", "recon_kl_w")
    options: BicycleGANOptions

    @classmethod
    def check(cls, config: Config) -> BicycleGANOptions:
        options: BicycleGANOptions = super().check(config)
        check_generators(config, options)
        if options.regresses and config.batch_size % 2:
            raise ConfigError(
                f"batch_size is {config.batch_size}, but variant {options.variant} uses the halves of a batch in "
                "different ways: make it even."
            )
        return options

    @classmethod
    def batch_parts(cls, config: Config) -> int:
        return super().batch_parts(config) * (2 if cls.check(config).regresses else 1)

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
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> LatentTranslator:
        options = cls.check(config)
        return LatentTranslator(
            generators["b"],
            config.gen.style_dim,
            options.multiple(config),
            options.min_size(config),
            config.channels(direction),
            cast("LatentEncoder | None", generators.get("encoder")),
        )

    def build(self) -> None:
        config, options = self.config, self.options
        networks = self.build_generators(config)
        self.gen = networks["b"]
        self.encoder = cast("LatentEncoder | None", networks.get("encoder"))
        if self.encoder is None:
            self.rows = ("input", "target", "with a random code", "with another random code")
        channels = config.input_dim_b + (config.input_dim_a if options.conditional_dis else 0)
        self.dis_encoded = PatchDiscriminator(channels, config.dis) if options.encodes else None
        self.dis_random: PatchDiscriminator | None = None
        if options.draws:
            shared = self.dis_encoded if options.same_dis else None
            self.dis_random = shared or PatchDiscriminator(channels, config.dis)

    def initialize(self) -> None:
        self.apply(weights_init(self.config.init, self.options.init_gain))

    def generators(self) -> dict[str, nn.Module]:
        return {"b": self.gen} if self.encoder is None else {"b": self.gen, "encoder": self.encoder}

    def discriminators(self) -> dict[str, nn.Module]:
        discriminators: dict[str, nn.Module] = {}
        if self.dis_encoded is not None:
            discriminators["encoded"] = self.dis_encoded
        if self.dis_random is not None and self.dis_random is not self.dis_encoded:
            discriminators["random"] = self.dis_random
        return discriminators

    def draws(self, x_a: Tensor, x_b: Tensor, weights: Weights) -> Inputs:
        """Draw a code (N, style_dim) from N(0, I) per translation: ε if the variant encodes, z if it draws.

        Raises:
            ValueError: If the number of pairs is odd and the variant needs halves.
        """
        if self.options.regresses and len(x_a) % 2:
            raise ValueError(f"system {self.name!r} needs an even number of pairs, got {len(x_a)}.")
        (inputs, _), (targets, _) = self._halves(x_a), self._halves(x_b)

        def sample(count: int) -> Tensor:
            return torch.randn(count, self.config.gen.style_dim)

        parts = self.config.micro_batches
        codes = (distributed.draw(sample, len(inputs), parts).to(x_a) for _ in self.options.codes)
        return {"gen": (inputs, targets, *codes)}

    def _halves(self, batch: Tensor) -> Sequence[Tensor]:
        return batch.chunk(2) if self.options.regresses else (batch, batch)

    def generator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        x_a, x_b, *drawn = tensors
        options = self.options
        codes = dict(zip(options.codes, drawn, strict=True))
        values: dict[str, Tensor] = {}
        start: Tensor | None = None
        adversarial: list[Term] = []
        terms: list[Term] = []
        with self.autocast():
            if options.encodes:
                mean, log_variance = (widen(x) for x in self.checkpointed(cast(LatentEncoder, self.encoder))(x_b))
                codes["encoded"] = mean + codes["encoded"] * torch.exp(0.5 * log_variance)
                kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
                # This is a sum over the batch, but the loss is averaged over micro-batches and processes.
                kl = kl * (self.config.micro_batches * distributed.world_size())
                start = weights["recon_kl_w"] * kl
                values["kl"] = kl.detach()
            translations = dict(zip(codes, self._translate(x_a, [*codes.values()]), strict=True))
            for name, image in translations.items():
                dis = self._dis(name)
                with frozen(dis):
                    loss = generator_adversarial(dis, self._visible(image, x_a))
                regressed = name == "random" and options.regresses
                adversarial.append(Term(f"adv_{name}", options.gan_random_w if regressed else weights["gan_w"], loss))
            if options.variant != "clr":
                reconstruction = translations["encoded" if options.encodes else "random"]
                terms.append(Term("recon_x", weights["recon_x_w"], L1(reconstruction, x_b)))
            if options.regresses and weights["recon_s_w"] > 0:
                encoder = cast(LatentEncoder, self.encoder)
                with frozen(*([encoder] if options.encodes else [])):
                    regressed_code, _ = encoder(translations["random"])
                terms.append(Term("recon_s", weights["recon_s_w"], L1(regressed_code, codes["random"])))
        gan = adversarial_sum(adversarial, start)
        losses = weighted_sum(terms, gan.total)
        outputs = tuple(image.detach() for image in translations.values())
        return Losses(losses.total, losses.terms | values | gan.terms, outputs)

    def discriminator_inputs(self, x_a: Tensor, x_b: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a translation, its input, a real image and its input for each kind of code."""
        (inputs, other_inputs), (targets, other_targets) = self._halves(x_a), self._halves(x_b)
        reals = {"encoded": (targets, inputs), "random": (other_targets, other_inputs)}
        pairs = zip(self.options.codes, outputs, strict=True)
        return tuple(tensor for name, fake in pairs for tensor in (fake, inputs, *reals[name]))

    def discriminator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        factor = 0.5 if self.options.variant == "pix2pix_noise" else 1.0
        terms = []
        with self.autocast():
            for number, name in enumerate(self.options.codes):
                fake, fake_input, real, real_input = tensors[4 * number : 4 * number + 4]
                dis = self._dis(name)
                images = self._visible(fake, fake_input), self._visible(real, real_input)
                terms.append(Term(name, 1.0, discriminator_adversarial(dis, *images)))
        return adversarial_sum(terms, factor=factor)

    def _dis(self, name: str) -> PatchDiscriminator:
        return cast(PatchDiscriminator, self.dis_encoded if name == "encoded" else self.dis_random)

    def _visible(self, image: Tensor, source: Tensor) -> Images:
        """Return what a discriminator sees of an image: its source, too, if the discriminator is conditional."""
        return (source.to(image.dtype), image) if self.options.conditional_dis else image

    def _translate(self, x_a: Tensor, codes: Sequence[Tensor]) -> list[Tensor]:
        """Translate x_a with each code, in one batch off the reference path, because all norms are of single samples.

        With dropout there is a batch per code: one batch would draw other masks.
        """
        translate = self.checkpointed(self.gen)
        if functional.exact_order() or self.options.dropout > 0:
            return [translate(x_a, code) for code in codes]
        images = translate(torch.cat([x_a] * len(codes)), torch.cat([*codes]))
        return list(images.chunk(len(codes)))

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Translate display images in eval mode.

        Args:
            x_a: Images of domain A, (N, input_dim_a, H, W).
            x_b: The paired images of domain B.
            generator: CPU generator of random codes and dropout. None is torch's global generator.

        Returns:
            The images that `rows` names.

        Raises:
            ValueError: If the batches differ in size.
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
