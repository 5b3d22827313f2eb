"""The base class of MUNIT and UNIT: two auto-encoders that exchange their content codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastmunit import distributed, functional
from fastmunit.config import Config
from fastmunit.functional.streams import in_parallel
from fastmunit.nn.layers.init import weights_init
from fastmunit.nn.layers.norm import InstanceNorm2d
from fastmunit.nn.networks.discriminators import MsImageDis
from fastmunit.systems.base import System, check_batches, frozen
from fastmunit.systems.parts.crop_size import check_crop
from fastmunit.systems.parts.cuda_graph import Inputs
from fastmunit.systems.parts.forward_cache import ForwardCache, Origin, origin_of
from fastmunit.systems.parts.hyperparameters import Hyperparameters, as_config, read_weights
from fastmunit.systems.parts.losses import discriminator_adversarial, generator_adversarial
from fastmunit.systems.parts.stepper import Weights
from fastmunit.systems.parts.terms import Losses, Term, weighted_sum

_PIXELS_PER_SAMPLE_BATCH = 1 << 19

Codes = tuple[Tensor, ...]
"""Arguments of a generator's decode."""


class Generated(NamedTuple):
    """The codes and images of one pass through both generators.

    Attributes:
        c_a: Content code of x_a.
        c_b: Content code of x_b.
        codes_a: Codes from which x_a is reconstructed.
        codes_b: Codes from which x_b is reconstructed.
        x_a_recon: Reconstruction of x_a.
        x_b_recon: Reconstruction of x_b.
        x_ba: Translation of x_b.
        x_ab: Translation of x_a.
    """

    c_a: Tensor
    c_b: Tensor
    codes_a: Codes
    codes_b: Codes
    x_a_recon: Tensor
    x_b_recon: Tensor
    x_ba: Tensor
    x_ab: Tensor


class CoupledAutoencoders(System):
    """Two auto-encoders with one discriminator per domain. x_ba decodes the content of x_b by the generator of A.

    One iteration is `update_learning_rate(); dis_update(x_a, x_b); gen_update(x_a, x_b)`, or `step(x_a, x_b)`. Both
    replay CUDA graphs if the system `replays`; the gradients of one half are then lost when the other half runs. Images
    are (N, C, H, W) in [-1, 1]. The initial weights and the random codes are those of the public code for the same
    seed.

    Args:
        hyperparameters: The mapping of a public YAML file, or a `Config`. Unknown keys of a mapping are ignored with a
            warning; missing keys have the values of the public configurations.
        compat: On resuming, keep the public trainer's schedule drift (see `make_scheduler`); compute the gradients of
            spectral norms as it does (see `SpectralNorm`).
        reuse_codes: Encode the contents once per iteration if `dis_update` and `gen_update` get the same tensors and
            the encoders have not changed in between. The results are the same to the last bit. Switch it off for a
            script that writes weights through `parameter.data` between the two, which leaves no trace.
        fused_adam: Run Adam as one op per optimizer instead of eight per parameter. The rounding differs.

    Raises:
        ConfigError: If a value has the wrong type or range.
        CheckpointError: If vgg_w > 0 and no VGG-16 weights can be found.
    """

    any_size = True

    gen_a: Any
    gen_b: Any

    def __init__(
        self,
        hyperparameters: Hyperparameters,
        *,
        compat: bool = False,
        reuse_codes: bool = True,
        fused_adam: bool = True,
    ) -> None:
        super().__init__(as_config(hyperparameters), compat=compat, fused_adam=fused_adam)
        self.reuse_codes = reuse_codes
        self._contents, self._generated = ForwardCache(), ForwardCache()
        self._shared_draws: tuple[Tensor, Tensor] | None = None

    @classmethod
    def check_training(cls, config: Config) -> None:
        check_crop(config)

    def build(self) -> None:
        config = self.config
        generators = self.build_generators(config)
        self.gen_a, self.gen_b = generators["a"], generators["b"]
        self.dis_a = MsImageDis(config.input_dim_a, config.dis)
        self.dis_b = MsImageDis(config.input_dim_b, config.dis)
        self.instancenorm = InstanceNorm2d(512)

    def initialize(self) -> None:
        super().initialize()
        self.dis_a.apply(weights_init("gaussian"))
        self.dis_b.apply(weights_init("gaussian"))

    def generators(self) -> dict[str, nn.Module]:
        return {"a": self.gen_a, "b": self.gen_b}

    def discriminators(self) -> dict[str, nn.Module]:
        return {"a": self.dis_a, "b": self.dis_b}

    # Methods that MUNIT and UNIT define.

    @abstractmethod
    def draw(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw a random code from N(0, I) per image: for x_a, then for x_b.

        From torch's global generator (None), each of several processes draws for all of them and takes its share.
        """

    def draw_cycles(self, x_a: Tensor, x_b: Tensor, weights: Weights) -> tuple[Tensor, ...]:
        """Draw the additional random codes of the generators' half."""
        return ()

    @abstractmethod
    def content_encoders(self) -> tuple[nn.Module, nn.Module]:
        """Return the content encoders of both domains."""

    @abstractmethod
    def translation_codes(self, c_a: Tensor, c_b: Tensor, draws: Sequence[Tensor]) -> tuple[Codes, Codes]:
        """Return the codes of x_ba, for gen_a, and of x_ab, for gen_b."""

    @abstractmethod
    def reconstruction_codes(
        self, x_a: Tensor, x_b: Tensor, c_a: Tensor, c_b: Tensor, translations: tuple[Codes, Codes]
    ) -> tuple[Codes, Codes]:
        """Return the codes of x_a_recon, for gen_a, and of x_b_recon, for gen_b."""

    @abstractmethod
    def terms(self, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor], generated: Generated, w: Weights) -> list[Term]:
        """Return the table of the generators' loss without the adversarial and the perceptual terms."""

    @abstractmethod
    def sample_draws(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """Return the random codes of a sample grid."""

    @abstractmethod
    def sample_rows(
        self, gen_a: Any, gen_b: Any, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the rows of a sample grid without the inputs: those of a2b, then as many of b2a."""

    # Training.

    def dis_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """Step both discriminators on translations with new random codes.

        loss_dis_total = gan_w · (loss_dis_a + loss_dis_b); see `discriminator_loss`.

        Args:
            x_a: Images of domain A, (N, input_dim_a, H, W).
            x_b: Images of domain B, (N, input_dim_b, H, W).
            hyperparameters: Source of gan_w, which a script may change during training. None uses the constructor's.

        Raises:
            ValueError: If the batches differ in size.
        """
        check_batches(x_a, x_b)
        draws = self.draw(x_a, x_b)
        self._shared_draws = draws if self.config.share_fakes else None
        weights = read_weights(self.weight_keys, hyperparameters, self.config)
        self.run({"dis": (x_a, x_b, *draws)}, weights)

    def gen_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """Step both generators on translations with new random codes.

        With share_fakes, use the codes of the preceding `dis_update`. For the loss see `generator_terms`. Arguments and
        errors are those of `dis_update`.
        """
        check_batches(x_a, x_b)
        draws, self._shared_draws = self._shared_draws, None
        if draws is None or any(len(drawn) != len(x) for drawn, x in zip(draws, (x_a, x_b), strict=True)):
            draws = self.draw(x_a, x_b)
        weights = read_weights(self.weight_keys, hyperparameters, self.config)
        self.run({"gen": (x_a, x_b, *draws, *self.draw_cycles(x_a, x_b, weights))}, weights)

    def draws(self, x_a: Tensor, x_b: Tensor, weights: Weights) -> Inputs:
        self._shared_draws = None
        self._contents.clear()
        self._generated.clear()
        first = self.draw(x_a, x_b)
        second = first if self.config.share_fakes else self.draw(x_a, x_b)
        return {"dis": (x_a, x_b, *first), "gen": (x_a, x_b, *second, *self.draw_cycles(x_a, x_b, weights))}

    def shared_forward(self, tensors: Sequence[Tensor]) -> Origin | None:
        if self.config.micro_batches > 1:
            return None
        if self.config.share_fakes:
            return origin_of(tensors[:4], (self.gen_a, self.gen_b))
        return origin_of(tensors[:2], self.content_encoders()) if self.reuse_codes else None

    def discriminator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        x_a, x_b, *draws = tensors
        with self.autocast():
            x_ba, x_ab = self._translate(x_a, x_b, draws)
            loss_a, loss_b = in_parallel(
                partial(discriminator_adversarial, self.dis_a),
                (x_ba, x_a),
                partial(discriminator_adversarial, self.dis_b),
                (x_ab, x_b),
            )
        return weighted_sum([Term("a", weights["gan_w"], loss_a), Term("b", weights["gan_w"], loss_b)])

    def generator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        """Return gan_w · (adv_a + adv_b) + the `terms` of the system + vgg_w · (vgg_a + vgg_b)."""
        x_a, x_b, *draws = tensors
        with self.autocast():
            kept = self._generated.reuse(tensors[:4], (self.gen_a, self.gen_b))
            generated = self._generate(x_a, x_b, draws) if kept is None else Generated(*kept)
            terms = self.terms(x_a, x_b, draws, generated, weights)
            with frozen(self.dis_a, self.dis_b):
                adv_a, adv_b = in_parallel(
                    partial(generator_adversarial, self.dis_a),
                    (generated.x_ba,),
                    partial(generator_adversarial, self.dis_b),
                    (generated.x_ab,),
                )
        terms = [Term("adv_a", weights["gan_w"], adv_a), Term("adv_b", weights["gan_w"], adv_b), *terms]
        if weights["vgg_w"] > 0:
            terms.append(Term("vgg_a", weights["vgg_w"], self.perceptual_loss(generated.x_ba, x_b)))
            terms.append(Term("vgg_b", weights["vgg_w"], self.perceptual_loss(generated.x_ab, x_a)))
        return weighted_sum(terms)

    def _translate(self, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return x_ba and x_ab without graph. Keep what the generators' half can reuse."""
        whole = self.config.micro_batches == 1
        if self.config.share_fakes and whole:
            generated = self._generate(x_a, x_b, draws)
            self._generated.keep((x_a, x_b, *draws), (self.gen_a, self.gen_b), generated)
            return generated.x_ba.detach(), generated.x_ab.detach()
        encoders = self.content_encoders()
        with torch.set_grad_enabled(self.reuse_codes and whole and torch.is_grad_enabled()):
            encode_a, encode_b = map(self.checkpointed, encoders)
            c_a, c_b = in_parallel(encode_a, (x_a,), encode_b, (x_b,))
        self._contents.keep((x_a, x_b), encoders, (c_a, c_b))
        with torch.no_grad():
            codes_ba, codes_ab = self.translation_codes(c_a.detach(), c_b.detach(), draws)
            return in_parallel(self.gen_a.decode, codes_ba, self.gen_b.decode, codes_ab)

    def _generate(self, x_a: Tensor, x_b: Tensor, draws: Sequence[Tensor]) -> Generated:
        """Reconstruct and translate both batches, with graph."""
        encoders = self.content_encoders()
        encode_a, encode_b = map(self.checkpointed, encoders)
        kept = self._contents.reuse((x_a, x_b), encoders)
        c_a, c_b = in_parallel(encode_a, (x_a,), encode_b, (x_b,)) if kept is None else kept
        codes_ba, codes_ab = translations = self.translation_codes(c_a, c_b, draws)
        codes_a, codes_b = self.reconstruction_codes(x_a, x_b, c_a, c_b, translations)
        decode_a, decode_b = self.checkpointed(self.gen_a.decode), self.checkpointed(self.gen_b.decode)
        if functional.exact_order() or c_a.shape != c_b.shape:
            x_a_recon, x_b_recon = decode_a(*codes_a), decode_b(*codes_b)
            x_ba, x_ab = decode_a(*codes_ba), decode_b(*codes_ab)
        else:  # in one batch per network: all norms are of single samples
            (x_a_recon, x_ba), (x_b_recon, x_ab) = in_parallel(
                partial(_both, decode_a), (*codes_a, *codes_ba), partial(_both, decode_b), (*codes_b, *codes_ab)
            )
        return Generated(c_a, c_b, codes_a, codes_b, x_a_recon, x_b_recon, x_ba, x_ab)

    # Evaluation.

    def _evaluation_pair(self) -> tuple[Any, Any]:
        generators = self.evaluation_generators()
        return generators["a"], generators["b"]

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Reconstruct and translate display images in eval mode.

        Args:
            x_a: Images of domain A, (N, input_dim_a, H, W).
            x_b: The same number of images of domain B.
            generator: CPU generator of the random codes. None is torch's global generator.

        Returns:
            For each direction the rows that `rows` names, each (N, C, H, W): first x_a, x_a_recon and the x_ab, then
            x_b, x_b_recon and the x_ba.

        Raises:
            ValueError: If the batches differ in size.
        """
        if len(x_a) != len(x_b):
            raise ValueError(
                f"sample needs the same number of images of each domain, got {len(x_a)} of A and {len(x_b)} of B."
            )
        draws = self.sample_draws(x_a, x_b, distributed.apart(generator))
        batch = 1
        if not functional.exact_order():
            batch = max(1, _PIXELS_PER_SAMPLE_BATCH // max(x[0, 0].numel() for x in (x_a, x_b)))
        gen_a, gen_b = self._evaluation_pair()
        parts = []
        with self.inference_autocast():
            for part in zip(*(tensor.split(batch) for tensor in (x_a, x_b, *draws)), strict=True):
                parts.append(self.sample_rows(gen_a, gen_b, part[0], part[1], part[2:]))
        rows = [torch.cat(row).to(x_a.dtype) for row in zip(*parts, strict=True)]
        half = len(rows) // 2
        return (x_a, *rows[:half], x_b, *rows[half:])


def _both(decode: Callable[..., Tensor], *codes: Tensor) -> tuple[Tensor, Tensor]:
    """Decode in one batch the codes of one image per sample and those of another, which follow them.

    The second codes are converted to the dtypes of the first, in which a decoder reads random codes anyway.
    """
    half = len(codes) // 2
    joined = [torch.cat([code, other.to(code.dtype)]) for code, other in zip(codes[:half], codes[half:], strict=True)]
    first, second = decode(*joined).chunk(2)
    return first, second
