"""MUNIT: many plausible outputs per input, learned without pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.functional.streams import in_parallel
from fastmunit.nn.networks.autoencoders import AdaINGen
from fastmunit.systems.coupled import Codes, CoupledAutoencoders, Generated
from fastmunit.systems.parts import resume_checks
from fastmunit.systems.parts.stepper import Weights
from fastmunit.systems.parts.terms import L1, Term
from fastmunit.systems.registry import register
from fastmunit.systems.translators import StyleTranslator


@register("munit")
class MUNIT(CoupledAutoencoders):
    """A drop-in replacement for the public `MUNIT_Trainer`. Arguments and errors are those of `CoupledAutoencoders`.

    Styles are drawn on the CPU.
    Source: Huang, Liu, Belongie, Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018, equation 5.
    """

    recipe, demo_recipe = "edges2shoes", "demo"
    rows = ("input", "reconstruction", "translation with a fixed style", "with a new style")
    term_names = (
        "dis_a", "dis_b", "dis_total", "gen_adv_a", "gen_adv_b", "gen_recon_x_a", "gen_recon_x_b", "gen_recon_s_a",
        "gen_recon_s_b", "gen_recon_c_a", "gen_recon_c_b", "gen_cycrecon_x_a", "gen_cycrecon_x_b", "gen_vgg_a",
        "gen_vgg_b", "gen_total",
    )  # fmt: skip
    weight_keys = ("gan_w", "recon_x_w", "recon_s_w", "recon_c_w", "recon_x_cyc_w", "vgg_w")
    gen_a: AdaINGen
    gen_b: AdaINGen
    s_a: Tensor
    s_b: Tensor

    @classmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        return {"a": AdaINGen(config.input_dim_a, config.gen), "b": AdaINGen(config.input_dim_b, config.gen)}

    @classmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> StyleTranslator:
        return StyleTranslator(generators, config, direction)

    def build(self) -> None:
        super().build()
        self.style_dim = self.config.gen.style_dim
        for name in ("s_a", "s_b"):
            styles = torch.randn(self.config.display_size, self.style_dim, 1, 1)
            self.register_buffer(name, styles, persistent=False)

    def compiled_networks(self) -> list[nn.Module]:
        encoders = [encoder for gen in (self.gen_a, self.gen_b) for encoder in (gen.enc_content, gen.enc_style)]
        return [*encoders, self.gen_a.dec, self.gen_b.dec, self.dis_a, self.dis_b]

    def resume_state(self) -> dict[str, Any]:
        return {**super().resume_state(), "s_a": self.s_a.detach().cpu(), "s_b": self.s_b.detach().cpu()}

    def load_resume_state(self, state: Mapping[str, Any]) -> list[str]:
        styles = {name: resume_checks.tensor(state, name, getattr(self, name).shape[1:]) for name in ("s_a", "s_b")}
        notes = super().load_resume_state(state)
        for name, saved in styles.items():
            current: Tensor = getattr(self, name)
            if current.shape == saved.shape:
                current.copy_(saved)
            else:
                notes.append(f"display_size changed, so the fixed display styles {name} are new.")
        return notes

    def forward(self, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Translate both ways with the fixed display styles.

        Args:
            x_a: Images of domain A, (display_size, input_dim_a, H, W).
            x_b: Images of domain B, (display_size, input_dim_b, H, W).

        Returns:
            x_ab (display_size, input_dim_b, H, W) and x_ba (display_size, input_dim_a, H, W).

        Raises:
            ValueError: If the size of a batch is not display_size.
        """
        if len(x_a) != len(self.s_b) or len(x_b) != len(self.s_a):
            raise ValueError(
                f"forward uses the fixed display styles, one per image: expected batches of {len(self.s_a)}, got "
                f"{len(x_a)} and {len(x_b)}. Use encode and decode of gen_a and gen_b for other batches."
            )
        gen_a, gen_b = self._evaluation_pair()
        with self.inference_autocast():
            c_a, _ = gen_a.encode(x_a)
            c_b, _ = gen_b.encode(x_b)
            x_ba = gen_a.decode(c_b, self.s_a)
            x_ab = gen_b.decode(c_a, self.s_b)
        return x_ab.to(x_a.dtype), x_ba.to(x_b.dtype)

    def draw(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw the styles s_a and s_b, (N, style_dim, 1, 1) each, on the CPU."""

        def sample(count: int) -> Tensor:
            return torch.randn(count, self.style_dim, 1, 1, generator=generator)

        if generator is not None:
            return sample(len(x_a)).to(self.s_a), sample(len(x_b)).to(self.s_b)
        parts = self.batch_parts(self.config)
        s_a = distributed.draw(sample, len(x_a), parts).to(self.s_a)
        return s_a, distributed.draw(sample, len(x_b), parts).to(self.s_b)

    def content_encoders(self) -> tuple[nn.Module, nn.Module]:
        return self.gen_a.enc_content, self.gen_b.enc_content

    def translation_codes(self, c_a: Tensor, c_b: Tensor, draws: Sequence[Tensor]) -> tuple[Codes, Codes]:
        s_a, s_b = draws
        return (c_b, s_a), (c_a, s_b)

    def reconstruction_codes(
        self, x_a: Tensor, x_b: Tensor, c_a: Tensor, c_b: Tensor, translations: tuple[Codes, Codes]
    ) -> tuple[Codes, Codes]:
        encode_a, encode_b = self.checkpointed(self.gen_a.enc_style), self.checkpointed(self.gen_b.enc_style)
        s_a, s_b = in_parallel(encode_a, (x_a,), encode_b, (x_b,))
        return (c_a, s_a), (c_b, s_b)

    def terms(self, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor], generated: Generated, w: Weights) -> list[Term]:
        """Return the table of equation 5. Content codes that are targets receive gradients, too."""
        s_a, s_b = draws
        c_a, c_b, (_, s_a_prime), (_, s_b_prime), x_a_recon, x_b_recon, x_ba, x_ab = generated
        encode_a, encode_b = self.checkpointed(self.gen_a.encode), self.checkpointed(self.gen_b.encode)
        (c_b_recon, s_a_recon), (c_a_recon, s_b_recon) = in_parallel(encode_a, (x_ba,), encode_b, (x_ab,))
        table = [
            Term("recon_x_a", w["recon_x_w"], L1(x_a_recon, x_a)),
            Term("recon_x_b", w["recon_x_w"], L1(x_b_recon, x_b)),
            Term("recon_s_a", w["recon_s_w"], L1(s_a_recon, s_a)),
            Term("recon_s_b", w["recon_s_w"], L1(s_b_recon, s_b)),
            Term("recon_c_a", w["recon_c_w"], L1(c_a_recon, c_a)),
            Term("recon_c_b", w["recon_c_w"], L1(c_b_recon, c_b)),
        ]
        if w["recon_x_cyc_w"] > 0:
            decode_a, decode_b = self.checkpointed(self.gen_a.decode), self.checkpointed(self.gen_b.decode)
            x_aba, x_bab = in_parallel(decode_a, (c_a_recon, s_a_prime), decode_b, (c_b_recon, s_b_prime))
            table.append(Term("cycrecon_x_a", w["recon_x_cyc_w"], L1(x_aba, x_a)))
            table.append(Term("cycrecon_x_b", w["recon_x_cyc_w"], L1(x_bab, x_b)))
        return table

    def sample_draws(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        count = len(x_a)
        if count > len(self.s_a):
            raise ValueError(f"sample has {len(self.s_a)} fixed styles (display_size), got {count} images.")
        return self.s_a[:count], self.s_b[:count], *self.draw(x_a, x_b, generator)

    def sample_rows(
        self, gen_a: Any, gen_b: Any, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        fixed_s_a, fixed_s_b, new_s_a, new_s_b = draws
        c_a, s_a_prime = gen_a.encode(x_a)
        c_b, s_b_prime = gen_b.encode(x_b)
        return (
            gen_a.decode(c_a, s_a_prime),
            gen_b.decode(c_a, fixed_s_b),
            gen_b.decode(c_a, new_s_b),
            gen_b.decode(c_b, s_b_prime),
            gen_a.decode(c_b, fixed_s_a),
            gen_a.decode(c_b, new_s_a),
        )
