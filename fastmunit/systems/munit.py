"""MUNIT: one input, many plausible outputs, learned without paired data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fastmunit import distributed, functional
from fastmunit.config import STYLE_DOWNSAMPLE, Config
from fastmunit.nn.layers.init import weights_init
from fastmunit.nn.layers.norm import InstanceNorm2d
from fastmunit.nn.networks.autoencoders import AdaINGen
from fastmunit.nn.networks.discriminators import MsImageDis
from fastmunit.systems.base import Hyperparameters, Loss, System, Weight, check_batches, frozen
from fastmunit.systems.parts import resume_checks
from fastmunit.systems.parts.cuda_graph import CapturedIteration
from fastmunit.systems.parts.forward_cache import ContentCodes
from fastmunit.systems.parts.losses import discriminator_loss, generator_loss
from fastmunit.systems.registry import register
from fastmunit.systems.translator import Translator

_LOSS_WEIGHTS = ("gan_w", "recon_x_w", "recon_s_w", "recon_c_w", "recon_x_cyc_w", "vgg_w")
_PIXELS_PER_SAMPLE_BATCH = 1 << 19


@register("munit")
class MUNIT(System):
    """Drop-in for the public `MUNIT_Trainer`: networks, losses, update steps, optimizers, checkpoints.

    One iteration is `update_learning_rate(); dis_update(x_a, x_b); gen_update(x_a, x_b)`, or `step(x_a, x_b)`. Images
    are (N, C, H, W) in [-1, 1]. After each update the loss_* attributes hold 0-d tensors (the int 0 where a term is
    switched off). The same seed gives the same initial weights and style draws as the public code; styles are drawn on
    the CPU.
    Source: Huang, Liu, Belongie, Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018, equation 5.

    Args:
        hyperparameters: the mapping of a public YAML file, or a `Config`. Unknown keys of a mapping are ignored with a
            warning; missing ones have the values of the public recipes.
        compat: on resuming, keep the public trainer's schedule drift (see `make_scheduler`); compute the gradients of
            spectral norms as it does (see `SpectralNorm`).
        reuse_codes: encode the contents once an iteration where `dis_update` and `gen_update` get the same tensors and
            the encoders have not changed in between; the results are the same to the last bit. Switch it off for a
            script that writes weights through `parameter.data` between the two, which leaves no trace.
        fused_adam: run Adam as one op for each optimizer instead of eight for each parameter; roundings differ.

    Raises:
        ConfigError: a value has the wrong type or range.
        CheckpointError: vgg_w > 0 and no VGG-16 weights can be found.
    """

    recipe, demo_recipe = "edges2shoes", "demo"
    rows = ("input", "reconstruction", "translation with a fixed style", "with a new style")
    s_a: Tensor
    s_b: Tensor

    def __init__(
        self,
        hyperparameters: Hyperparameters,
        *,
        compat: bool = False,
        reuse_codes: bool = True,
        fused_adam: bool = True,
    ) -> None:
        super().__init__(hyperparameters, compat=compat, fused_adam=fused_adam)
        config = self.config
        self.reuse_codes = reuse_codes
        self._codes = ContentCodes()
        self._generated = ContentCodes()
        self._shared_styles: tuple[Tensor, Tensor] | None = None
        self._captured = CapturedIteration()
        self.style_dim = config.gen.style_dim

        self.gen_a = AdaINGen(config.input_dim_a, config.gen)
        self.gen_b = AdaINGen(config.input_dim_b, config.gen)
        self.dis_a = MsImageDis(config.input_dim_a, config.dis)
        self.dis_b = MsImageDis(config.input_dim_b, config.dis)
        self.instancenorm = InstanceNorm2d(512)
        display_styles = (config.display_size, self.style_dim, 1, 1)
        self.register_buffer("s_a", torch.randn(display_styles), persistent=False)
        self.register_buffer("s_b", torch.randn(display_styles), persistent=False)
        self.dis_opt = self.make_optimizer([self.dis_a, self.dis_b])
        self.gen_opt = self.make_optimizer([self.gen_a, self.gen_b])
        self.apply(weights_init(config.init))
        self.dis_a.apply(weights_init("gaussian"))
        self.dis_b.apply(weights_init("gaussian"))
        self.finish()

        self.loss_dis_a: Loss = 0
        self.loss_dis_b: Loss = 0
        self.loss_dis_total: Loss = 0
        self.loss_gen_adv_a: Loss = 0
        self.loss_gen_adv_b: Loss = 0
        self.loss_gen_recon_x_a: Loss = 0
        self.loss_gen_recon_x_b: Loss = 0
        self.loss_gen_recon_s_a: Loss = 0
        self.loss_gen_recon_s_b: Loss = 0
        self.loss_gen_recon_c_a: Loss = 0
        self.loss_gen_recon_c_b: Loss = 0
        self.loss_gen_cycrecon_x_a: Loss = 0
        self.loss_gen_cycrecon_x_b: Loss = 0
        self.loss_gen_vgg_a: Loss = 0
        self.loss_gen_vgg_b: Loss = 0
        self.loss_gen_total: Loss = 0

    @classmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        return {"a": AdaINGen(config.input_dim_a, config.gen), "b": AdaINGen(config.input_dim_b, config.gen)}

    @classmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> Translator:
        return StyleTranslator(generators, config, direction)

    def generators(self) -> dict[str, nn.Module]:
        return {"a": self.gen_a, "b": self.gen_b}

    def discriminators(self) -> dict[str, nn.Module]:
        return {"a": self.dis_a, "b": self.dis_b}

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
            x_a: images of domain A, (display_size, input_dim_a, H, W).
            x_b: images of domain B, (display_size, input_dim_b, H, W).

        Returns:
            x_ab (display_size, input_dim_b, H, W) and x_ba (display_size, input_dim_a, H, W).

        Raises:
            ValueError: a batch is not of display_size.
        """
        if x_a.shape[0] != self.s_b.shape[0] or x_b.shape[0] != self.s_a.shape[0]:
            raise ValueError(
                f"forward uses the {self.s_a.shape[0]} fixed display styles, one an image; got batches of "
                f"{x_a.shape[0]} and {x_b.shape[0]}. Use encode and decode of gen_a and gen_b for other batches."
            )
        gen_a, gen_b = self._evaluation_pair()
        with self.inference_autocast():
            c_a, _ = gen_a.encode(x_a)
            c_b, _ = gen_b.encode(x_b)
            x_ba = gen_a.decode(c_b, self.s_a)
            x_ab = gen_b.decode(c_a, self.s_b)
        return x_ab.to(x_a.dtype), x_ba.to(x_b.dtype)

    def dis_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of both discriminators on freshly drawn styles.

        loss_dis_total = gan_w · (loss_dis_a + loss_dis_b); see `discriminator_loss`.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W).
            x_b: images of domain B, (N, input_dim_b, H, W).
            hyperparameters: read for gan_w, so that a script may change it as it trains; None uses the constructor's.
        """
        check_batches(x_a, x_b)
        styles = self.draw_styles(x_a, x_b)
        self._shared_styles = styles if self.config.share_fakes else None
        self.step_discriminators(x_a, x_b, styles, self.reader(hyperparameters))

    def gen_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of both generators on freshly drawn styles; with share_fakes, on those of the `dis_update` before.

        loss_gen_total = gan_w · (adv_a + adv_b) + recon_x_w · (recon_x_a + recon_x_b) + recon_s_w · (…s…)
        + recon_c_w · (…c…) + recon_x_cyc_w · (cycrecon_x_a + cycrecon_x_b) + vgg_w · (vgg_a + vgg_b);
        every reconstruction term is a mean absolute difference. The content codes that are reconstructed receive
        gradients too. Arguments as in `dis_update`.
        """
        check_batches(x_a, x_b)
        styles, self._shared_styles = self._shared_styles, None
        if styles is None or (len(styles[0]), len(styles[1])) != (len(x_a), len(x_b)):
            styles = self.draw_styles(x_a, x_b)
        self.step_generators(x_a, x_b, styles, self.reader(hyperparameters))

    def update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """`dis_update`, then `gen_update`; with cuda_graph both in one graph, on the same draws."""
        if not self.replays:
            self.dis_update(x_a, x_b, hyperparameters)
            self.gen_update(x_a, x_b, hyperparameters)
            return
        check_batches(x_a, x_b)
        weight = self.reader(hyperparameters)
        first = self.draw_styles(x_a, x_b)
        second = () if self.config.share_fakes else self.draw_styles(x_a, x_b)

        def both(x_a: Tensor, x_b: Tensor, *styles: Tensor) -> None:
            self.step_discriminators(x_a, x_b, (styles[0], styles[1]), weight)
            self.step_generators(x_a, x_b, (styles[-2], styles[-1]), weight)

        weights = tuple(weight(key) for key in _LOSS_WEIGHTS)
        self._codes.clear()  # a replay writes weights without leaving a trace
        self._generated.clear()
        self.replay(self._captured, both, (x_a, x_b, *first, *second), self.optimizers().values(), weights)

    def step_discriminators(self, x_a: Tensor, x_b: Tensor, styles: tuple[Tensor, Tensor], weight: Weight) -> None:
        """`dis_update` with given styles: nothing in it is random or waits for the device."""

        def loss_of(x_a: Tensor, x_b: Tensor, s_a: Tensor, s_b: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            with self.autocast():
                x_ba, x_ab = self._fakes(x_a, x_b, s_a, s_b)
                fake_a, real_a = self.dis_a.forward_pair(x_ba, x_a)
                fake_b, real_b = self.dis_b.forward_pair(x_ab, x_b)
            loss_a = discriminator_loss(fake_a, real_a, self.dis_a.gan_type)
            loss_b = discriminator_loss(fake_b, real_b, self.dis_b.gan_type)
            total = weight("gan_w") * loss_a + weight("gan_w") * loss_b
            return total, {"a": loss_a.detach(), "b": loss_b.detach()}

        total, losses = self.descend("dis", (x_a, x_b, *styles), loss_of)
        self.publish("dis", total, losses)

    def step_generators(self, x_a: Tensor, x_b: Tensor, styles: tuple[Tensor, Tensor], weight: Weight) -> None:
        """`gen_update` with given styles: nothing in it is random or waits for the device."""

        def loss_of(x_a: Tensor, x_b: Tensor, s_a: Tensor, s_b: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            return self._gen_loss(x_a, x_b, s_a, s_b, weight)

        total, losses = self.descend("gen", (x_a, x_b, *styles), loss_of)
        self.publish("gen", total, losses)

    def _gen_loss(
        self, x_a: Tensor, x_b: Tensor, s_a: Tensor, s_b: Tensor, weight: Weight
    ) -> tuple[Tensor, dict[str, Loss]]:
        cycle = weight("recon_x_cyc_w") > 0
        with self.autocast():
            kept = self._generated.take((x_a, x_b, s_a, s_b), (self.gen_a, self.gen_b))
            made = _Generated(*kept) if kept is not None else self._generate(x_a, x_b, s_a, s_b)
            c_b_recon, s_a_recon = self.run(self.gen_a.encode, made.x_ba)
            c_a_recon, s_b_recon = self.run(self.gen_b.encode, made.x_ab)
            x_aba = self.run(self.gen_a.decode, c_a_recon, made.s_a_prime) if cycle else None
            x_bab = self.run(self.gen_b.decode, c_b_recon, made.s_b_prime) if cycle else None
            with frozen(self.dis_a, self.dis_b):
                fake_a = self.dis_a(made.x_ba)
                fake_b = self.dis_b(made.x_ab)

        pairs = {
            "recon_x_a": (made.x_a_recon, x_a, "recon_x_w"),
            "recon_x_b": (made.x_b_recon, x_b, "recon_x_w"),
            "recon_s_a": (s_a_recon, s_a, "recon_s_w"),
            "recon_s_b": (s_b_recon, s_b, "recon_s_w"),
            "recon_c_a": (c_a_recon, made.c_a, "recon_c_w"),
            "recon_c_b": (c_b_recon, made.c_b, "recon_c_w"),
        }
        if x_aba is not None and x_bab is not None:
            pairs["cycrecon_x_a"] = (x_aba, x_a, "recon_x_cyc_w")
            pairs["cycrecon_x_b"] = (x_bab, x_b, "recon_x_cyc_w")
        inputs, targets, keys = zip(*pairs.values(), strict=True)
        values, total = functional.weighted_l1(inputs, targets, [weight(key) for key in keys])
        losses: dict[str, Loss] = {"cycrecon_x_a": 0, "cycrecon_x_b": 0, "vgg_a": 0, "vgg_b": 0}
        losses.update(zip(pairs, values.detach().unbind(), strict=True))

        others = {
            "adv_a": (weight("gan_w"), generator_loss(fake_a, self.dis_a.gan_type)),
            "adv_b": (weight("gan_w"), generator_loss(fake_b, self.dis_b.gan_type)),
        }
        if weight("vgg_w") > 0:
            others["vgg_a"] = (weight("vgg_w"), self.perceptual_loss(made.x_ba, x_b))
            others["vgg_b"] = (weight("vgg_w"), self.perceptual_loss(made.x_ab, x_a))
        for name, (factor, value) in others.items():
            total = total + factor * value
            losses[name] = value.detach()
        return total, losses

    def _generate(self, x_a: Tensor, x_b: Tensor, s_a: Tensor, s_b: Tensor) -> _Generated:
        """Codes, reconstructions and translations, with their graph."""
        encoders = (self.gen_a.enc_content, self.gen_b.enc_content)
        c_a, c_b = self._codes.with_graph((x_a, x_b), encoders, run=self.run)
        s_a_prime, s_b_prime = self.run(self.gen_a.enc_style, x_a), self.run(self.gen_b.enc_style, x_b)
        if functional.exact_order() or c_a.shape != c_b.shape:
            x_a_recon = self.run(self.gen_a.decode, c_a, s_a_prime)
            x_b_recon = self.run(self.gen_b.decode, c_b, s_b_prime)
            x_ba = self.run(self.gen_a.decode, c_b, s_a)
            x_ab = self.run(self.gen_b.decode, c_a, s_b)
        else:  # in one batch for each network: all norms are of single samples
            both_a = self.run(self.gen_a.decode, torch.cat([c_a, c_b]), torch.cat([s_a_prime, s_a]))
            both_b = self.run(self.gen_b.decode, torch.cat([c_b, c_a]), torch.cat([s_b_prime, s_b]))
            (x_a_recon, x_ba), (x_b_recon, x_ab) = both_a.chunk(2), both_b.chunk(2)
        return _Generated(c_a, c_b, s_a_prime, s_b_prime, x_a_recon, x_b_recon, x_ba, x_ab)

    def _fakes(self, x_a: Tensor, x_b: Tensor, s_a: Tensor, s_b: Tensor) -> tuple[Tensor, Tensor]:
        """x_ba and x_ab without graph, for the discriminators; what the generators' half can use again is kept."""
        whole = self.config.micro_batches == 1
        if self.config.share_fakes and whole:
            made = self._generate(x_a, x_b, s_a, s_b)
            self._generated.keep((x_a, x_b, s_a, s_b), (self.gen_a, self.gen_b), made)
            return made.x_ba.detach(), made.x_ab.detach()
        encoders = (self.gen_a.enc_content, self.gen_b.enc_content)
        c_a, c_b = self._codes.without_graph((x_a, x_b), encoders, keep=self.reuse_codes and whole, run=self.run)
        with torch.no_grad():
            return self.gen_a.decode(c_b, s_a), self.gen_b.decode(c_a, s_b)

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Translate and reconstruct display images, in eval mode.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W), N at most display_size.
            x_b: as many images of domain B.
            generator: of the new styles, on the CPU; None is torch's global one.

        Returns:
            (x_a, x_a_recon, x_ab with fixed styles, x_ab with new styles, x_b, x_b_recon, x_ba fixed, x_ba new), each
            (N, C, H, W).

        Raises:
            ValueError: the batches differ in size or are larger than display_size.
        """
        if len(x_a) != len(x_b):
            raise ValueError(f"sample needs as many images of each domain; got {len(x_a)} and {len(x_b)}.")
        if len(x_a) > len(self.s_a):
            raise ValueError(f"sample has {len(self.s_a)} fixed styles (display_size); got {len(x_a)} images.")
        new_s_a, new_s_b = self.draw_styles(x_a, x_b, distributed.apart(generator))
        at_once = 1
        if not functional.exact_order():
            at_once = max(1, _PIXELS_PER_SAMPLE_BATCH // max(x[0, 0].numel() for x in (x_a, x_b)))
        parts: list[tuple[Tensor, ...]] = []
        gen_a, gen_b = self._evaluation_pair()
        with self.inference_autocast():
            for first in range(0, len(x_a), at_once):
                some = slice(first, first + at_once)
                c_a, s_a_prime = gen_a.encode(x_a[some])
                c_b, s_b_prime = gen_b.encode(x_b[some])
                parts.append(
                    (
                        gen_a.decode(c_a, s_a_prime),
                        gen_b.decode(c_a, self.s_b[some]),
                        gen_b.decode(c_a, new_s_b[some]),
                        gen_b.decode(c_b, s_b_prime),
                        gen_a.decode(c_b, self.s_a[some]),
                        gen_a.decode(c_b, new_s_a[some]),
                    )
                )
        outputs = [torch.cat(row).to(x_a.dtype) for row in zip(*parts, strict=True)]
        return (x_a, *outputs[:3], x_b, *outputs[3:])

    def draw_styles(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """New styles s_a and s_b from N(0, I), (N, style_dim, 1, 1) each, drawn on the CPU in this order.

        From torch's global generator, each of several processes draws for all of them and takes its share.
        """

        def sample(count: int) -> Tensor:
            return torch.randn(count, self.style_dim, 1, 1, generator=generator)

        if generator is not None:
            return sample(len(x_a)).to(self.s_a), sample(len(x_b)).to(self.s_b)
        parts = self.batch_parts(self.config)
        s_a = distributed.draw(sample, len(x_a), parts).to(self.s_a)
        return s_a, distributed.draw(sample, len(x_b), parts).to(self.s_b)

    def _evaluation_pair(self) -> tuple[AdaINGen, AdaINGen]:
        generators = self.evaluation_generators()
        return cast(AdaINGen, generators["a"]), cast(AdaINGen, generators["b"])


class StyleTranslator(Translator):
    """One direction of a trained MUNIT: content of one domain, style of the other.

    Args:
        generators: an `AdaINGen` of each domain, "a" and "b".
        config: their configuration.
        direction: "a2b" or "b2a".
    """

    takes_references = True

    def __init__(self, generators: Mapping[str, nn.Module], config: Config, direction: str) -> None:
        source, target = (cast(AdaINGen, generators[domain]) for domain in direction.split("2"))
        multiple = 2**config.gen.n_downsample
        # Each stride-2 convolution of the style encoder, and the content encoder's residual blocks, pad a map of at
        # least 2 by reflection.
        least = max(2**STYLE_DOWNSAMPLE, 2 * multiple)
        super().__init__(target, multiple, least, config.channels(direction), config.gen.style_dim)
        self._source, self._target = source, target

    def encode(self, images: Tensor) -> Tensor:
        return self._source.enc_content(images)

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        return self._target.decode(content, styles)

    def encode_style(self, images: Tensor) -> Tensor:
        return self._target.enc_style(images)


class _Generated(NamedTuple):
    """What the generators make of a batch before anything is encoded again."""

    c_a: Tensor
    c_b: Tensor
    s_a_prime: Tensor
    s_b_prime: Tensor
    x_a_recon: Tensor
    x_b_recon: Tensor
    x_ba: Tensor
    x_ab: Tensor
