"""UNIT: one translation for each image, through a latent space that both domains share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from fastmunit import distributed, functional
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.nn.layers.blocks import ResBlocks
from fastmunit.nn.layers.init import weights_init
from fastmunit.nn.layers.norm import InstanceNorm2d
from fastmunit.nn.networks.autoencoders import VAEGen
from fastmunit.nn.networks.discriminators import MsImageDis
from fastmunit.systems.base import Hyperparameters, Loss, System, SystemOptions, Weight, check_batches, frozen
from fastmunit.systems.parts.cuda_graph import CapturedIteration
from fastmunit.systems.parts.forward_cache import ContentCodes
from fastmunit.systems.parts.losses import discriminator_loss, generator_loss, widen
from fastmunit.systems.registry import register
from fastmunit.systems.translator import Translator

_LOSS_WEIGHTS = ("gan_w", "recon_x_w", "recon_kl_w", "recon_x_cyc_w", "recon_kl_cyc_w", "vgg_w")
_PIXELS_PER_SAMPLE_BATCH = 1 << 19


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
class UNIT(System):
    """Drop-in for the public `UNIT_Trainer`: networks, losses, update steps, optimizers, checkpoints.

    One iteration is `update_learning_rate(); dis_update(x_a, x_b); gen_update(x_a, x_b)`, or `step(x_a, x_b)`. Images
    are (N, C, H, W) in [-1, 1]. After each update the loss_* attributes hold 0-d tensors (the int 0 where a term is
    switched off). The same seed gives the same initial weights as the public code, and on the CPU the same noise.
    Source: Liu, Breuel, Kautz, "Unsupervised Image-to-Image Translation Networks", NIPS 2017, with the losses of the
    public MUNIT repository's `UNIT_Trainer`; the paper's weight sharing is the option share_latent_blocks.

    Args:
        hyperparameters: the mapping of a public YAML file, or a `Config`. Unknown keys of a mapping are ignored with a
            warning; missing ones have the values of the public recipes.
        compat: draw noise on the CPU, as the public trainer does, also where the networks are on a GPU; on resuming,
            keep its schedule drift (see `make_scheduler`); compute the gradients of spectral norms as the public MUNIT
            trainer does (see `SpectralNorm`).
        reuse_codes: encode the images once an iteration where `dis_update` and `gen_update` get the same tensors and
            the encoders have not changed in between; the results are the same to the last bit. Switch it off for a
            script that writes weights through `parameter.data` between the two, which leaves no trace.
        fused_adam: run Adam as one op for each optimizer instead of eight for each parameter; roundings differ.

    Raises:
        ConfigError: a value has the wrong type or range.
        CheckpointError: vgg_w > 0 and no VGG-16 weights can be found.
    """

    recipe, demo_recipe = "unit_edges2shoes", "demo_unit"
    Options = UNITOptions
    free_options = frozenset({"equal_start", "noise_at_test"})
    options: UNITOptions

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
        self._shared_noise: tuple[Tensor, Tensor] | None = None
        self._captured = CapturedIteration()

        self.gen_a, self.gen_b = (cast(VAEGen, gen) for gen in self.build_generators(config).values())
        self.gen_a.noise_on_cpu = self.gen_b.noise_on_cpu = compat
        self.dis_a = MsImageDis(config.input_dim_a, config.dis)
        self.dis_b = MsImageDis(config.input_dim_b, config.dis)
        self.instancenorm = InstanceNorm2d(512)
        self.dis_opt = self.make_optimizer([self.dis_a, self.dis_b])
        self.gen_opt = self.make_optimizer([self.gen_a, self.gen_b])
        self.apply(weights_init(config.init))
        self.dis_a.apply(weights_init("gaussian"))
        self.dis_b.apply(weights_init("gaussian"))
        if self.options.equal_start:
            self.gen_b.load_state_dict(self.gen_a.state_dict())
        self.finish()

        self.loss_dis_a: Loss = 0
        self.loss_dis_b: Loss = 0
        self.loss_dis_total: Loss = 0
        self.loss_gen_adv_a: Loss = 0
        self.loss_gen_adv_b: Loss = 0
        self.loss_gen_recon_x_a: Loss = 0
        self.loss_gen_recon_x_b: Loss = 0
        self.loss_gen_recon_kl_a: Loss = 0
        self.loss_gen_recon_kl_b: Loss = 0
        self.loss_gen_cyc_x_a: Loss = 0
        self.loss_gen_cyc_x_b: Loss = 0
        self.loss_gen_recon_kl_cyc_aba: Loss = 0
        self.loss_gen_recon_kl_cyc_bab: Loss = 0
        self.loss_gen_vgg_a: Loss = 0
        self.loss_gen_vgg_b: Loss = 0
        self.loss_gen_total: Loss = 0

    @classmethod
    def check(cls, config: Config) -> UNITOptions:
        options = cast(UNITOptions, super().check(config))
        if options.share_latent_blocks > config.gen.n_res:
            raise ConfigError(
                f"share_latent_blocks = {options.share_latent_blocks} is more than the gen.n_res = {config.gen.n_res} "
                "residual blocks that encoders and decoders have: lower it, or raise gen.n_res."
            )
        if options.equal_start and config.input_dim_a != config.input_dim_b:
            raise ConfigError(
                f"equal_start needs input_dim_a = input_dim_b, not {config.input_dim_a} and {config.input_dim_b}: "
                "generators of other sizes cannot have the same weights."
            )
        return options

    @classmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        gen_a, gen_b = VAEGen(config.input_dim_a, config.gen), VAEGen(config.input_dim_b, config.gen)
        _share_latent_blocks(gen_a, gen_b, cls.check(config).share_latent_blocks)
        return {"a": gen_a, "b": gen_b}

    @classmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> Translator:
        return VAETranslator(generators, config, direction, cls.check(config).noise_at_test)

    def generators(self) -> dict[str, nn.Module]:
        return {"a": self.gen_a, "b": self.gen_b}

    def discriminators(self) -> dict[str, nn.Module]:
        return {"a": self.dis_a, "b": self.dis_b}

    def compiled_networks(self) -> list[nn.Module]:
        return [self.gen_a.enc, self.gen_b.enc, self.gen_a.dec, self.gen_b.dec, self.dis_a, self.dis_b]

    def forward(self, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Translate both ways without noise.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W).
            x_b: images of domain B, (M, input_dim_b, H', W').

        Returns:
            x_ab (N, input_dim_b, H, W) and x_ba (M, input_dim_a, H', W').
        """
        gen_a, gen_b = self._evaluation_pair()
        with self.inference_autocast():
            x_ba = gen_a.decode(gen_b.enc(x_b))
            x_ab = gen_b.decode(gen_a.enc(x_a))
        return x_ab.to(x_a.dtype), x_ba.to(x_b.dtype)

    def dis_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of both discriminators on translations with fresh noise.

        loss_dis_total = gan_w · (loss_dis_a + loss_dis_b); see `discriminator_loss`.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W).
            x_b: images of domain B, (N, input_dim_b, H, W).
            hyperparameters: read for gan_w, so that a script may change it as it trains; None uses the constructor's.
        """
        check_batches(x_a, x_b)
        noise = self.draw_noise(x_a, x_b)
        self._shared_noise = noise if self.config.share_fakes else None
        self.step_discriminators(x_a, x_b, noise, self.reader(hyperparameters))

    def gen_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of both generators with fresh noise; with share_fakes, with that of the `dis_update` before.

        loss_gen_total = gan_w · (adv_a + adv_b) + recon_x_w · (recon_x_a + recon_x_b)
        + recon_kl_w · (recon_kl_a + recon_kl_b) + recon_x_cyc_w · (cyc_x_a + cyc_x_b)
        + recon_kl_cyc_w · (recon_kl_cyc_aba + recon_kl_cyc_bab) + vgg_w · (vgg_a + vgg_b).
        recon_x and cyc_x are mean absolute differences; the KL terms are mean(h²), proportional to the divergence of
        N(h, I) from N(0, I). Arguments as in `dis_update`.
        """
        check_batches(x_a, x_b)
        weight = self.reader(hyperparameters)
        noise, self._shared_noise = self._shared_noise, None
        if noise is None or any(n.shape[0] != len(x) for n, x in zip(noise, (x_a, x_b), strict=True)):
            noise = self.draw_noise(x_a, x_b)
        self.step_generators(x_a, x_b, (*noise, *self._noise_of_cycles(x_a, x_b, weight)), weight)

    def update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """`dis_update`, then `gen_update`; with cuda_graph both in one graph, on the same draws."""
        if not self.replays:
            self.dis_update(x_a, x_b, hyperparameters)
            self.gen_update(x_a, x_b, hyperparameters)
            return
        check_batches(x_a, x_b)
        weight = self.reader(hyperparameters)
        noise = self.draw_noise(x_a, x_b)
        second = () if self.config.share_fakes else self.draw_noise(x_a, x_b)
        cycles = self._noise_of_cycles(x_a, x_b, weight)

        def both(x_a: Tensor, x_b: Tensor, n_a: Tensor, n_b: Tensor, *others: Tensor) -> None:
            self.step_discriminators(x_a, x_b, (n_a, n_b), weight)
            self.step_generators(x_a, x_b, (*(() if second else (n_a, n_b)), *others), weight)

        weights = tuple(weight(key) for key in _LOSS_WEIGHTS)
        self._codes.clear()  # a replay writes weights without leaving a trace
        self._generated.clear()
        self.replay(self._captured, both, (x_a, x_b, *noise, *second, *cycles), self.optimizers().values(), weights)

    def draw_noise(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """New noise from N(0, I) for the latent codes of x_a and of x_b, drawn in this order; see `VAEGen`.

        From torch's global generator, each of several processes draws for all of them and takes its share.
        """
        if generator is None:
            return self._shared_draw(self.gen_a, x_a), self._shared_draw(self.gen_b, x_b)
        return self.gen_a.draw_noise(x_a, generator), self.gen_b.draw_noise(x_b, generator)

    def _evaluation_pair(self) -> tuple[VAEGen, VAEGen]:
        generators = self.evaluation_generators()
        return cast(VAEGen, generators["a"]), cast(VAEGen, generators["b"])

    def _noise_of_cycles(self, x_a: Tensor, x_b: Tensor, weight: Weight) -> tuple[Tensor, ...]:
        """Noise for the latent codes of x_ba, by gen_a, and of x_ab; none where there are no cycles."""
        if weight("recon_x_cyc_w") == 0:
            return ()
        return self._shared_draw(self.gen_a, x_b), self._shared_draw(self.gen_b, x_a)

    def _shared_draw(self, gen: VAEGen, images: Tensor) -> Tensor:
        """Noise for `images`: this process's share of what is drawn for the images of all."""

        def sample(count: int) -> Tensor:
            return gen.draw_noise(images if count == len(images) else images[:1].expand(count, -1, -1, -1))

        return distributed.draw(sample, len(images), self.batch_parts(self.config))

    def step_discriminators(self, x_a: Tensor, x_b: Tensor, noise: tuple[Tensor, ...], weight: Weight) -> None:
        """`dis_update` with given noise of x_a and x_b: nothing in it is random or waits for the device."""

        def loss_of(x_a: Tensor, x_b: Tensor, n_a: Tensor, n_b: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            with self.autocast():
                x_ba, x_ab = self._fakes(x_a, x_b, n_a, n_b)
                fake_a, real_a = self.dis_a.forward_pair(x_ba, x_a)
                fake_b, real_b = self.dis_b.forward_pair(x_ab, x_b)
            loss_a = discriminator_loss(fake_a, real_a, self.dis_a.gan_type)
            loss_b = discriminator_loss(fake_b, real_b, self.dis_b.gan_type)
            total = weight("gan_w") * loss_a + weight("gan_w") * loss_b
            return total, {"a": loss_a.detach(), "b": loss_b.detach()}

        total, losses = self.descend("dis", (x_a, x_b, *noise), loss_of)
        self.publish("dis", total, losses)

    def step_generators(self, x_a: Tensor, x_b: Tensor, noise: tuple[Tensor, ...], weight: Weight) -> None:
        """`gen_update` with given noise of x_a, x_b and, for the cycles, of x_ba and x_ab."""

        def loss_of(x_a: Tensor, x_b: Tensor, *noise: Tensor) -> tuple[Tensor, dict[str, Loss]]:
            return self._gen_loss(x_a, x_b, noise, weight)

        total, losses = self.descend("gen", (x_a, x_b, *noise), loss_of)
        self.publish("gen", total, losses)

    def _gen_loss(
        self, x_a: Tensor, x_b: Tensor, noise: tuple[Tensor, ...], weight: Weight
    ) -> tuple[Tensor, dict[str, Loss]]:
        n_a, n_b, *noise_of_fakes = noise
        squares: dict[str, tuple[Tensor, str]] = {}
        with self.autocast():
            kept = self._generated.take((x_a, x_b, n_a, n_b), (self.gen_a, self.gen_b))
            made = _Generated(*kept) if kept is not None else self._generate(x_a, x_b, n_a, n_b)
            pairs = {"recon_x_a": (made.x_a_recon, x_a, "recon_x_w"), "recon_x_b": (made.x_b_recon, x_b, "recon_x_w")}
            if weight("recon_kl_w") > 0:
                squares = {"recon_kl_a": (made.h_a, "recon_kl_w"), "recon_kl_b": (made.h_b, "recon_kl_w")}
            if noise_of_fakes or weight("recon_kl_cyc_w") > 0:
                h_b_recon = self.run(self.gen_a.enc, made.x_ba)
                h_a_recon = self.run(self.gen_b.enc, made.x_ab)
                if weight("recon_kl_cyc_w") > 0:
                    squares["recon_kl_cyc_aba"] = (h_a_recon, "recon_kl_cyc_w")
                    squares["recon_kl_cyc_bab"] = (h_b_recon, "recon_kl_cyc_w")
                if noise_of_fakes:
                    n_b_recon, n_a_recon = noise_of_fakes
                    x_aba = self.run(self.gen_a.decode, _noisy(h_a_recon, n_a_recon))
                    x_bab = self.run(self.gen_b.decode, _noisy(h_b_recon, n_b_recon))
                    pairs["cyc_x_a"] = (x_aba, x_a, "recon_x_cyc_w")
                    pairs["cyc_x_b"] = (x_bab, x_b, "recon_x_cyc_w")
            with frozen(self.dis_a, self.dis_b):
                fake_a = self.dis_a(made.x_ba)
                fake_b = self.dis_b(made.x_ab)

        inputs, targets, keys = zip(*pairs.values(), strict=True)
        values, total = functional.weighted_l1(inputs, targets, [weight(key) for key in keys])
        losses: dict[str, Loss] = dict.fromkeys(_SWITCHED_OFF, 0)
        losses.update(zip(pairs, values.detach().unbind(), strict=True))
        others = {
            "adv_a": (weight("gan_w"), generator_loss(fake_a, self.dis_a.gan_type)),
            "adv_b": (weight("gan_w"), generator_loss(fake_b, self.dis_b.gan_type)),
        }
        for name, (hidden, key) in squares.items():
            others[name] = (weight(key), widen(hidden).square().mean())
        if weight("vgg_w") > 0:
            others["vgg_a"] = (weight("vgg_w"), self.perceptual_loss(made.x_ba, x_b))
            others["vgg_b"] = (weight("vgg_w"), self.perceptual_loss(made.x_ab, x_a))
        for name, (factor, value) in others.items():
            total = total + factor * value
            losses[name] = value.detach()
        return total, losses

    def _generate(self, x_a: Tensor, x_b: Tensor, n_a: Tensor, n_b: Tensor) -> _Generated:
        """Latent codes, reconstructions and translations, with their graph."""
        h_a, h_b = self._codes.with_graph((x_a, x_b), (self.gen_a.enc, self.gen_b.enc), run=self.run)
        z_a, z_b = _noisy(h_a, n_a), _noisy(h_b, n_b)
        if functional.exact_order() or z_a.shape != z_b.shape:
            x_a_recon, x_b_recon = self.run(self.gen_a.decode, z_a), self.run(self.gen_b.decode, z_b)
            x_ba, x_ab = self.run(self.gen_a.decode, z_b), self.run(self.gen_b.decode, z_a)
        else:  # in one batch for each network: all norms are of single samples
            x_a_recon, x_ba = self.run(self.gen_a.decode, torch.cat([z_a, z_b])).chunk(2)
            x_b_recon, x_ab = self.run(self.gen_b.decode, torch.cat([z_b, z_a])).chunk(2)
        return _Generated(h_a, h_b, x_a_recon, x_b_recon, x_ba, x_ab)

    def _fakes(self, x_a: Tensor, x_b: Tensor, n_a: Tensor, n_b: Tensor) -> tuple[Tensor, Tensor]:
        """x_ba and x_ab without graph, for the discriminators; what the generators' half can use again is kept."""
        whole = self.config.micro_batches == 1
        if self.config.share_fakes and whole:
            made = self._generate(x_a, x_b, n_a, n_b)
            self._generated.keep((x_a, x_b, n_a, n_b), (self.gen_a, self.gen_b), made)
            return made.x_ba.detach(), made.x_ab.detach()
        encoders = (self.gen_a.enc, self.gen_b.enc)
        h_a, h_b = self._codes.without_graph((x_a, x_b), encoders, keep=self.reuse_codes and whole, run=self.run)
        with torch.no_grad():
            return self.gen_a.decode(_noisy(h_b, n_b)), self.gen_b.decode(_noisy(h_a, n_a))

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Translate and reconstruct display images, in eval mode; without noise unless noise_at_test is on.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W).
            x_b: as many images of domain B.
            generator: of the noise, on the CPU; None is torch's global one.

        Returns:
            (x_a, x_a_recon, x_ab, x_b, x_b_recon, x_ba), each (N, C, H, W).

        Raises:
            ValueError: the batches differ in size.
        """
        if len(x_a) != len(x_b):
            raise ValueError(f"sample needs as many images of each domain; got {len(x_a)} and {len(x_b)}.")
        at_once = 1
        if not functional.exact_order():
            at_once = max(1, _PIXELS_PER_SAMPLE_BATCH // max(x[0, 0].numel() for x in (x_a, x_b)))
        n_a, n_b = self.draw_noise(x_a, x_b, distributed.apart(generator))
        parts: list[tuple[Tensor, ...]] = []
        gen_a, gen_b = self._evaluation_pair()
        with self.inference_autocast():
            for first in range(0, len(x_a), at_once):
                some = slice(first, first + at_once)
                h_a, h_b = gen_a.enc(x_a[some]), gen_b.enc(x_b[some])
                z_a, z_b = h_a, h_b
                if self.options.noise_at_test:
                    z_a, z_b = _noisy(h_a, n_a[some]), _noisy(h_b, n_b[some])
                parts.append((gen_a.decode(h_a), gen_b.decode(z_a), gen_b.decode(h_b), gen_a.decode(z_b)))
        x_a_recon, x_ab, x_b_recon, x_ba = (torch.cat(row).to(x_a.dtype) for row in zip(*parts, strict=True))
        return x_a, x_a_recon, x_ab, x_b, x_b_recon, x_ba


class VAETranslator(Translator):
    """One direction of a trained UNIT, decoding the mean of the latent code, or samples of it.

    With `noise_at_test` a style is the seed of the noise that is added to the code. Without it there are no styles, and
    an image has one output.

    Args:
        generators: a `VAEGen` of each domain, "a" and "b".
        config: their configuration.
        direction: "a2b" or "b2a".
        noise_at_test: whether to sample.
    """

    def __init__(
        self, generators: Mapping[str, nn.Module], config: Config, direction: str, noise_at_test: bool
    ) -> None:
        source, target = (cast(VAEGen, generators[domain]) for domain in direction.split("2"))
        multiple = 2**config.gen.n_downsample
        # The encoder's residual blocks pad a map of at least 2 by reflection.
        super().__init__(target, multiple, 2 * multiple, config.channels(direction), int(noise_at_test))
        self._source, self._target = source, target

    def random_styles(self, count: int, generator: torch.Generator) -> Tensor:
        """Seeds of noises, (count, 1, 1, 1) in int64; without `noise_at_test`, empty (count, 0, 1, 1)."""
        if self.style_dim == 0:
            return super().random_styles(count, generator)
        return torch.randint(2**62, (count, 1, 1, 1), generator=generator)

    def encode(self, images: Tensor) -> Tensor:
        return self._source.enc(images)

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        if self.style_dim == 0:
            return self._target.decode(content).expand(len(styles), -1, -1, -1)
        noises = [torch.randn(content.shape, generator=torch.Generator().manual_seed(int(seed))) for seed in styles]
        return self._target.decode(_noisy(content, torch.cat(noises).to(content.device)))


class _Generated(NamedTuple):
    """What the generators make of a batch and its noise."""

    h_a: Tensor
    h_b: Tensor
    x_a_recon: Tensor
    x_b_recon: Tensor
    x_ba: Tensor
    x_ab: Tensor


_SWITCHED_OFF = (
    "recon_kl_a", "recon_kl_b", "cyc_x_a", "cyc_x_b", "recon_kl_cyc_aba", "recon_kl_cyc_bab", "vgg_a", "vgg_b",
)  # fmt: skip
"""Generator losses that are 0 unless their weight is not."""


def _noisy(hidden: Tensor, noise: Tensor) -> Tensor:
    return hidden + noise.to(hidden.dtype)


def _share_latent_blocks(gen_a: VAEGen, gen_b: VAEGen, count: int) -> None:
    """Give gen_b the last `count` residual blocks of gen_a's encoder and the first `count` of its decoder."""
    encoders = [cast(ResBlocks, gen.enc.model[-1]).model for gen in (gen_a, gen_b)]
    decoders = [cast(ResBlocks, gen.dec.model[0]).model for gen in (gen_a, gen_b)]
    for index in range(count):
        encoders[1][-1 - index] = encoders[0][-1 - index]
        decoders[1][index] = decoders[0][index]
