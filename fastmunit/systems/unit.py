"""UNIT: one translation per image, through a latent space that both domains share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.functional.streams import in_parallel
from fastmunit.nn.layers.blocks import ResBlocks
from fastmunit.nn.networks.autoencoders import VAEGen
from fastmunit.systems.coupled import Codes, CoupledAutoencoders, Generated
from fastmunit.systems.definition import SystemOptions
from fastmunit.systems.parts.losses import widen
from fastmunit.systems.parts.stepper import Weights
from fastmunit.systems.parts.terms import L1, Term
from fastmunit.systems.registry import register
from fastmunit.systems.translators import VAETranslator, add_noise


class UNITOptions(SystemOptions):
    """`options:` of UNIT."""

    share_latent_blocks: int = Field(
        0, ge=0, description="last residual blocks of the encoders and first of the decoders that both domains share"
    )
    equal_start: bool = Field(
        False,
        description="start both generators from the same weights, which keeps the content in short trainings",
    )
    noise_at_test: bool = Field(False, description="translate samples of the latent code instead of its mean")


@register("unit")
class UNIT(CoupledAutoencoders):
    """A drop-in replacement for the public `UNIT_Trainer`. Arguments and errors are those of `CoupledAutoencoders`.

    Noise is drawn on the device of the images. With compat=True it is drawn on the CPU, as in the public code, so that
    it is the same there.
    Source: Liu, Breuel, Kautz, "Unsupervised Image-to-Image Translation Networks", NIPS 2017, with the losses of the
    public MUNIT repository's `UNIT_Trainer`. The paper's weight sharing is the option share_latent_blocks.
    """

    recipe, demo_recipe = "unit_edges2shoes", "demo_unit"
    Options = UNITOptions
    free_options = frozenset({"equal_start", "noise_at_test"})
    term_names = (
        "dis_a", "dis_b", "dis_total", "gen_adv_a", "gen_adv_b", "gen_recon_x_a", "gen_recon_x_b", "gen_recon_kl_a",
        "gen_recon_kl_b", "gen_cyc_x_a", "gen_cyc_x_b", "gen_recon_kl_cyc_aba", "gen_recon_kl_cyc_bab", "gen_vgg_a",
        "gen_vgg_b", "gen_total",
    )  # fmt: skip
    weight_keys = ("gan_w", "recon_x_w", "recon_kl_w", "recon_x_cyc_w", "recon_kl_cyc_w", "vgg_w")
    options: UNITOptions
    gen_a: VAEGen
    gen_b: VAEGen

    @classmethod
    def check(cls, config: Config) -> UNITOptions:
        options = cast(UNITOptions, super().check(config))
        if options.share_latent_blocks > config.gen.n_res:
            raise ConfigError(
                f"share_latent_blocks = {options.share_latent_blocks} is more than the gen.n_res = {config.gen.n_res} "
                "residual blocks of encoders and decoders: lower it, or raise gen.n_res."
            )
        if options.equal_start and config.input_dim_a != config.input_dim_b:
            raise ConfigError(
                f"equal_start needs input_dim_a = input_dim_b, got {config.input_dim_a} and {config.input_dim_b}: "
                "generators of different sizes cannot have the same weights."
            )
        return options

    @classmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        gen_a, gen_b = VAEGen(config.input_dim_a, config.gen), VAEGen(config.input_dim_b, config.gen)
        _share_latent_blocks(gen_a, gen_b, cls.check(config).share_latent_blocks)
        return {"a": gen_a, "b": gen_b}

    @classmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> VAETranslator:
        return VAETranslator(generators, config, direction, cls.check(config).noise_at_test)

    def build(self) -> None:
        super().build()
        self.gen_a.noise_on_cpu = self.gen_b.noise_on_cpu = self.compat

    def initialize(self) -> None:
        super().initialize()
        if self.options.equal_start:
            self.gen_b.load_state_dict(self.gen_a.state_dict())

    def compiled_networks(self) -> list[nn.Module]:
        return [self.gen_a.enc, self.gen_b.enc, self.gen_a.dec, self.gen_b.dec, self.dis_a, self.dis_b]

    def forward(self, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Translate both ways without noise.

        Args:
            x_a: Images of domain A, (N, input_dim_a, H, W).
            x_b: Images of domain B, (M, input_dim_b, H', W').

        Returns:
            x_ab (N, input_dim_b, H, W) and x_ba (M, input_dim_a, H', W').
        """
        gen_a, gen_b = self._evaluation_pair()
        with self.inference_autocast():
            x_ba = gen_a.decode(gen_b.enc(x_b))
            x_ab = gen_b.decode(gen_a.enc(x_a))
        return x_ab.to(x_a.dtype), x_ba.to(x_b.dtype)

    def draw(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw noise for the latent codes of x_a and of x_b; see `VAEGen.draw_noise`."""
        if generator is None:
            return self._draw_share(self.gen_a, x_a), self._draw_share(self.gen_b, x_b)
        return self.gen_a.draw_noise(x_a, generator), self.gen_b.draw_noise(x_b, generator)

    def draw_cycles(self, x_a: Tensor, x_b: Tensor, weights: Weights) -> tuple[Tensor, ...]:
        """Draw noise for the latent codes of x_ba, by gen_a, and of x_ab. Without cycle losses, draw none."""
        if weights["recon_x_cyc_w"] == 0:
            return ()
        return self._draw_share(self.gen_a, x_b), self._draw_share(self.gen_b, x_a)

    def _draw_share(self, gen: VAEGen, images: Tensor) -> Tensor:
        """Draw noise for the images of all processes and return this process's share."""

        def sample(count: int) -> Tensor:
            return gen.draw_noise(images if count == len(images) else images[:1].expand(count, -1, -1, -1))

        return distributed.draw(sample, len(images), self.batch_parts(self.config))

    def content_encoders(self) -> tuple[nn.Module, nn.Module]:
        return self.gen_a.enc, self.gen_b.enc

    def translation_codes(self, c_a: Tensor, c_b: Tensor, draws: Sequence[Tensor]) -> tuple[Codes, Codes]:
        z_a, z_b = add_noise(c_a, draws[0]), add_noise(c_b, draws[1])
        return (z_b,), (z_a,)

    def reconstruction_codes(
        self, x_a: Tensor, x_b: Tensor, c_a: Tensor, c_b: Tensor, translations: tuple[Codes, Codes]
    ) -> tuple[Codes, Codes]:
        return translations[1], translations[0]

    def terms(self, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor], generated: Generated, w: Weights) -> list[Term]:
        """Return the reconstruction, KL and cycle terms; see `_kl`.

        Terms whose weight is 0 are not computed, except recon_x.
        """
        h_a, h_b, _, _, x_a_recon, x_b_recon, x_ba, x_ab = generated
        table = [
            Term("recon_x_a", w["recon_x_w"], L1(x_a_recon, x_a)),
            Term("recon_x_b", w["recon_x_w"], L1(x_b_recon, x_b)),
        ]
        if w["recon_kl_w"] > 0:
            table.append(Term("recon_kl_a", w["recon_kl_w"], _kl(h_a)))
            table.append(Term("recon_kl_b", w["recon_kl_w"], _kl(h_b)))
        cycles = len(draws) > 2
        if cycles or w["recon_kl_cyc_w"] > 0:
            encode_a, encode_b = self.checkpointed(self.gen_a.enc), self.checkpointed(self.gen_b.enc)
            h_b_recon, h_a_recon = in_parallel(encode_a, (x_ba,), encode_b, (x_ab,))
        if cycles:
            z_a, z_b = add_noise(h_a_recon, draws[3]), add_noise(h_b_recon, draws[2])
            decode_a, decode_b = self.checkpointed(self.gen_a.decode), self.checkpointed(self.gen_b.decode)
            x_aba, x_bab = in_parallel(decode_a, (z_a,), decode_b, (z_b,))
            table.append(Term("cyc_x_a", w["recon_x_cyc_w"], L1(x_aba, x_a)))
            table.append(Term("cyc_x_b", w["recon_x_cyc_w"], L1(x_bab, x_b)))
        if w["recon_kl_cyc_w"] > 0:
            table.append(Term("recon_kl_cyc_aba", w["recon_kl_cyc_w"], _kl(h_a_recon)))
            table.append(Term("recon_kl_cyc_bab", w["recon_kl_cyc_w"], _kl(h_b_recon)))
        return table

    def sample_draws(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        return self.draw(x_a, x_b, generator)

    def sample_rows(
        self, gen_a: Any, gen_b: Any, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        h_a, h_b = gen_a.enc(x_a), gen_b.enc(x_b)
        z_a, z_b = h_a, h_b
        if self.options.noise_at_test:
            z_a, z_b = add_noise(h_a, draws[0]), add_noise(h_b, draws[1])
        return gen_a.decode(h_a), gen_b.decode(z_a), gen_b.decode(h_b), gen_a.decode(z_b)


def _kl(hidden: Tensor) -> Tensor:
    """Return mean(h²), which is proportional to the divergence of N(h, I) from N(0, I)."""
    return widen(hidden).square().mean()


def _share_latent_blocks(gen_a: VAEGen, gen_b: VAEGen, count: int) -> None:
    """Give gen_b the last `count` residual blocks of gen_a's encoder and the first `count` of its decoder."""
    encoders = [cast(ResBlocks, gen.enc.model[-1]).model for gen in (gen_a, gen_b)]
    decoders = [cast(ResBlocks, gen.dec.model[0]).model for gen in (gen_a, gen_b)]
    for index in range(count):
        encoders[1][-1 - index] = encoders[0][-1 - index]
        decoders[1][index] = decoders[0][index]
