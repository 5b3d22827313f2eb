"""MUNIT: one input, many plausible outputs, learned without paired data."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from fastmunit import functional
from fastmunit.config import Config, unknown_keys
from fastmunit.errors import CheckpointError
from fastmunit.models import checkpoint
from fastmunit.models.codes import ContentCodes
from fastmunit.models.losses import discriminator_loss, generator_loss
from fastmunit.models.perceptual import PerceptualLoss
from fastmunit.models.schedule import make_scheduler
from fastmunit.nn.discriminator import MsImageDis
from fastmunit.nn.generator import AdaINGen
from fastmunit.nn.init import weights_init
from fastmunit.nn.norm import InstanceNorm2d

Hyperparameters = Mapping[str, Any] | Config
Loss = Tensor | int


class MUNIT(nn.Module):
    """Drop-in for the public `MUNIT_Trainer`: networks, losses, update steps, optimizers, checkpoints.

    One iteration is `update_learning_rate(); dis_update(x_a, x_b); gen_update(x_a, x_b)`. Images are (N, C, H, W) in
    [-1, 1]. After each update the loss_* attributes hold 0-d tensors (the int 0 where a term is switched off).
    The same seed gives the same initial weights and style draws as the public code; styles are drawn on the CPU.
    Source: Huang, Liu, Belongie, Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018, equation 5.

    Args:
        hyperparameters: the mapping of a public YAML file, or a `Config`. Unknown keys of a mapping are ignored with a
            warning; missing ones have the values of the public recipes.
        compat: on resuming, keep the public trainer's schedule drift (see `make_scheduler`).
        reuse_codes: encode the contents once an iteration where `dis_update` and `gen_update` get the same tensors and
            the encoders have not changed in between; the results are the same to the last bit. Switch it off for a
            script that writes weights through `parameter.data` between the two, which leaves no trace.
        fused_adam: run Adam as one op for each optimizer instead of eight for each parameter; roundings differ.

    Raises:
        ConfigError: a value has the wrong type or range.
        CheckpointError: vgg_w > 0 and no VGG-16 weights can be found.
    """

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
        super().__init__()
        config = as_config(hyperparameters)
        self.config = config
        self.compat = compat
        self.reuse_codes = reuse_codes
        self._codes = ContentCodes()
        self.style_dim = config.gen.style_dim

        self.gen_a = AdaINGen(config.input_dim_a, config.gen)
        self.gen_b = AdaINGen(config.input_dim_b, config.gen)
        self.dis_a = MsImageDis(config.input_dim_a, config.dis)
        self.dis_b = MsImageDis(config.input_dim_b, config.dis)
        self.instancenorm = InstanceNorm2d(512)
        display_styles = (config.display_size, self.style_dim, 1, 1)
        self.register_buffer("s_a", torch.randn(display_styles), persistent=False)
        self.register_buffer("s_b", torch.randn(display_styles), persistent=False)

        dis_parameters = [*self.dis_a.parameters(), *self.dis_b.parameters()]
        gen_parameters = [*self.gen_a.parameters(), *self.gen_b.parameters()]
        self.dis_opt = _make_adam(dis_parameters, config, fused_adam)
        self.gen_opt = _make_adam(gen_parameters, config, fused_adam)
        self.dis_scheduler: LRScheduler | None = make_scheduler(self.dis_opt, config)
        self.gen_scheduler: LRScheduler | None = make_scheduler(self.gen_opt, config)

        self.apply(weights_init(config.init))
        self.dis_a.apply(weights_init("gaussian"))
        self.dis_b.apply(weights_init("gaussian"))
        self.vgg = PerceptualLoss(config.vgg_model_path) if config.vgg_w > 0 else None

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

    def losses(self) -> dict[str, Loss]:
        """Every loss_* attribute by name, as the last updates left it."""
        return {name: value for name, value in vars(self).items() if name.startswith("loss_")}

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
        with self._evaluating(), self.autocast():
            c_a, _ = self.gen_a.encode(x_a)
            c_b, _ = self.gen_b.encode(x_b)
            x_ba = self.gen_a.decode(c_b, self.s_a)
            x_ab = self.gen_b.decode(c_a, self.s_b)
        return x_ab.to(x_a.dtype), x_ba.to(x_b.dtype)

    def update_learning_rate(self) -> None:
        """Step both schedulers; call it at the start of an iteration, as the public training script does."""
        for scheduler in (self.dis_scheduler, self.gen_scheduler):
            if scheduler is None:
                continue
            if scheduler._step_count > 1:
                scheduler.step()
                continue
            with warnings.catch_warnings():
                # The public order is schedule first, optimizer second; torch warns about it at the first call.
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
                scheduler.step()

    def dis_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of both discriminators on freshly drawn styles.

        loss_dis_total = gan_w · (loss_dis_a + loss_dis_b); see `discriminator_loss`.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W).
            x_b: images of domain B, (N, input_dim_b, H, W).
            hyperparameters: read for gan_w, so that a script may change it as it trains; None uses the constructor's.
        """
        weight = _reader(hyperparameters, self.config)
        self.dis_opt.zero_grad()
        s_a, s_b = self.draw_styles(x_a, x_b)
        with self.autocast():
            c_a, c_b = self._contents_without_graph(x_a, x_b)
            with torch.no_grad():
                x_ba = self.gen_a.decode(c_b, s_a)
                x_ab = self.gen_b.decode(c_a, s_b)
            fake_a, real_a = self._judge_both(self.dis_a, x_ba, x_a)
            fake_b, real_b = self._judge_both(self.dis_b, x_ab, x_b)
        loss_dis_a = discriminator_loss(fake_a, real_a, self.dis_a.gan_type)
        loss_dis_b = discriminator_loss(fake_b, real_b, self.dis_b.gan_type)
        total = weight("gan_w") * loss_dis_a + weight("gan_w") * loss_dis_b
        total.backward()
        self.dis_opt.step()
        self.loss_dis_a = loss_dis_a.detach()
        self.loss_dis_b = loss_dis_b.detach()
        self.loss_dis_total = total.detach()

    def gen_update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One step of both generators on freshly drawn styles.

        loss_gen_total = gan_w · (adv_a + adv_b) + recon_x_w · (recon_x_a + recon_x_b) + recon_s_w · (…s…)
        + recon_c_w · (…c…) + recon_x_cyc_w · (cycrecon_x_a + cycrecon_x_b) + vgg_w · (vgg_a + vgg_b);
        every reconstruction term is a mean absolute difference. The content codes that are reconstructed receive
        gradients too. Arguments as in `dis_update`.
        """
        weight = _reader(hyperparameters, self.config)
        self.gen_opt.zero_grad()
        s_a, s_b = self.draw_styles(x_a, x_b)
        cycle = weight("recon_x_cyc_w") > 0
        with self.autocast():
            c_a, c_b = self._contents(x_a, x_b)
            s_a_prime, s_b_prime = self.gen_a.enc_style(x_a), self.gen_b.enc_style(x_b)
            if functional.default_implementation() == "reference" or c_a.shape != c_b.shape:
                x_a_recon = self.gen_a.decode(c_a, s_a_prime)
                x_b_recon = self.gen_b.decode(c_b, s_b_prime)
                x_ba = self.gen_a.decode(c_b, s_a)
                x_ab = self.gen_b.decode(c_a, s_b)
            else:  # in one batch for each network: all norms are of single samples
                x_a_recon, x_ba = self.gen_a.decode(torch.cat([c_a, c_b]), torch.cat([s_a_prime, s_a])).chunk(2)
                x_b_recon, x_ab = self.gen_b.decode(torch.cat([c_b, c_a]), torch.cat([s_b_prime, s_b])).chunk(2)
            c_b_recon, s_a_recon = self.gen_a.encode(x_ba)
            c_a_recon, s_b_recon = self.gen_b.encode(x_ab)
            x_aba = self.gen_a.decode(c_a_recon, s_a_prime) if cycle else None
            x_bab = self.gen_b.decode(c_b_recon, s_b_prime) if cycle else None
            with _frozen(self.dis_a), _frozen(self.dis_b):
                fake_a = self.dis_a(x_ba)
                fake_b = self.dis_b(x_ab)

        pairs = {
            "recon_x_a": (x_a_recon, x_a, "recon_x_w"),
            "recon_x_b": (x_b_recon, x_b, "recon_x_w"),
            "recon_s_a": (s_a_recon, s_a, "recon_s_w"),
            "recon_s_b": (s_b_recon, s_b, "recon_s_w"),
            "recon_c_a": (c_a_recon, c_a, "recon_c_w"),
            "recon_c_b": (c_b_recon, c_b, "recon_c_w"),
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
            others["vgg_a"] = (weight("vgg_w"), self._perceptual(x_ba, x_b))
            others["vgg_b"] = (weight("vgg_w"), self._perceptual(x_ab, x_a))
        for name, (factor, value) in others.items():
            total = total + factor * value
            losses[name] = value.detach()
        total.backward()
        self.gen_opt.step()
        for name, loss in losses.items():
            setattr(self, f"loss_gen_{name}", loss)
        self.loss_gen_total = total.detach()

    @torch.no_grad()
    def sample(self, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, ...]:
        """Translate and reconstruct display images, one at a time, in eval mode.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W), N at most display_size.
            x_b: as many images of domain B.

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
        new_s_a, new_s_b = self.draw_styles(x_a, x_b)
        columns: list[tuple[Tensor, ...]] = []
        with self._evaluating(), self.autocast():
            for i in range(len(x_a)):
                one_a, one_b = x_a[i : i + 1], x_b[i : i + 1]
                c_a, s_a_prime = self.gen_a.encode(one_a)
                c_b, s_b_prime = self.gen_b.encode(one_b)
                columns.append(
                    (
                        self.gen_a.decode(c_a, s_a_prime),
                        self.gen_b.decode(c_a, self.s_b[i : i + 1]),
                        self.gen_b.decode(c_a, new_s_b[i : i + 1]),
                        self.gen_b.decode(c_b, s_b_prime),
                        self.gen_a.decode(c_b, self.s_a[i : i + 1]),
                        self.gen_a.decode(c_b, new_s_a[i : i + 1]),
                    )
                )
        outputs = [torch.cat(column).to(x_a.dtype) for column in zip(*columns, strict=True)]
        return (x_a, *outputs[:3], x_b, *outputs[3:])

    def save(self, snapshot_dir: str | os.PathLike[str], iterations: int) -> None:
        """Write gen_%08d.pt, dis_%08d.pt (numbered iterations + 1) and optimizer.pt, each whole or not at all.

        Args:
            snapshot_dir: folder, created when missing.
            iterations: zero-based number of the iteration just finished, as the public training script counts.

        Raises:
            FastmunitError: a file cannot be written.
        """
        checkpoint.save_snapshot(
            snapshot_dir,
            iterations + 1,
            {"a": self.gen_a, "b": self.gen_b},
            {"a": self.dis_a, "b": self.dis_b},
            {"gen": self.gen_opt, "dis": self.dis_opt},
        )

    def resume(self, checkpoint_dir: str | os.PathLike[str], hyperparameters: Hyperparameters | None = None) -> int:
        """Load the newest complete snapshot, ours or the public trainer's, and return its iteration count.

        Args:
            checkpoint_dir: the folder that `save` wrote to.
            hyperparameters: for the schedule; None uses the constructor's.

        Raises:
            CheckpointError: there is no complete snapshot, or it was written with another configuration.
        """
        folder = Path(checkpoint_dir)
        iterations = checkpoint.latest(folder)
        if iterations is None:
            raise CheckpointError(
                f"{folder} has no gen_*.pt with its dis_*.pt: check the path or train without resume."
            )
        checkpoint.load_networks(
            checkpoint.snapshot_path(folder, "gen", iterations), {"a": self.gen_a, "b": self.gen_b}, "gen"
        )
        checkpoint.load_networks(
            checkpoint.snapshot_path(folder, "dis", iterations), {"a": self.dis_a, "b": self.dis_b}, "dis"
        )
        checkpoint.load_optimizers(folder / checkpoint.OPTIMIZER_FILE, {"gen": self.gen_opt, "dis": self.dis_opt})
        config = self.config if hyperparameters is None else as_config(hyperparameters)
        self.dis_scheduler = make_scheduler(self.dis_opt, config, iterations, self.compat)
        self.gen_scheduler = make_scheduler(self.gen_opt, config, iterations, self.compat)
        return iterations

    def step(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One whole iteration: `update_learning_rate`, `dis_update`, `gen_update`. Arguments as in `dis_update`."""
        self.update_learning_rate()
        self.dis_update(x_a, x_b, hyperparameters)
        self.gen_update(x_a, x_b, hyperparameters)

    def _contents_without_graph(self, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Content codes for the discriminators; with their graph they are kept for `_contents`."""
        encoders = (self.gen_a.enc_content, self.gen_b.enc_content)
        with torch.set_grad_enabled(self.reuse_codes and torch.is_grad_enabled()):
            c_a, c_b = encoders[0](x_a), encoders[1](x_b)
        self._codes.keep((x_a, x_b), encoders, self._context(), (c_a, c_b))
        return c_a.detach(), c_b.detach()

    def _contents(self, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Content codes for the generators, from `_contents_without_graph` where they are still right."""
        encoders = (self.gen_a.enc_content, self.gen_b.enc_content)
        kept = self._codes.take((x_a, x_b), encoders, self._context())
        if kept is not None:
            return kept[0], kept[1]
        return encoders[0](x_a), encoders[1](x_b)

    def _context(self) -> tuple[object, ...]:
        device_type = self.s_a.device.type
        return (
            self.training,
            functional.default_implementation(),
            torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type),
        )

    def _judge_both(self, dis: MsImageDis, fake: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs for fake and real images, in one batch off the reference path where no norm tells batches apart.

        Batch norm does by its statistics, spectral norm by its power iteration, a step for each call.
        """
        together = self.config.dis.norm in ("none", "in", "ln") and fake.shape == real.shape
        if functional.default_implementation() == "reference" or not together:
            return dis(fake), dis(real)
        outputs = [output.chunk(2) for output in dis(torch.cat([fake, real.to(fake.dtype)]))]
        return [fake for fake, _ in outputs], [real for _, real in outputs]

    def draw_styles(self, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """New styles s_a and s_b from N(0, I), (N, style_dim, 1, 1) each, drawn on the CPU in this order."""
        s_a = torch.randn(x_a.size(0), self.style_dim, 1, 1).to(self.s_a)
        s_b = torch.randn(x_b.size(0), self.style_dim, 1, 1).to(self.s_b)
        return s_a, s_b

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast region of the configured precision; nothing for float32."""
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.s_a.device.type, dtype=torch.bfloat16)

    def _perceptual(self, translated: Tensor, source: Tensor) -> Tensor:
        if self.vgg is None:
            self.vgg = PerceptualLoss(self.config.vgg_model_path).to(self.s_a.device)
        return self.vgg(translated, source)


def as_config(hyperparameters: Hyperparameters) -> Config:
    """A `Config` from what a script for the public trainer passes: unknown keys are dropped with a warning."""
    if isinstance(hyperparameters, Config):
        return hyperparameters
    unknown = unknown_keys(hyperparameters)
    if not unknown:
        return Config.from_dict(hyperparameters)
    hints = [f"{key!r}" + (f" (did you mean {nearest!r}?)" if nearest else "") for key, nearest in unknown.items()]
    warnings.warn(f"hyperparameters that fastmunit does not know are ignored: {', '.join(hints)}", stacklevel=3)
    known: dict[str, Any] = {}
    for key, value in hyperparameters.items():
        if key in unknown:
            continue
        if isinstance(value, Mapping):
            value = {inner: v for inner, v in value.items() if f"{key}.{inner}" not in unknown}
        known[key] = value
    return Config.from_dict(known)


def _make_adam(parameters: list[nn.Parameter], config: Config, fused: bool) -> torch.optim.Adam:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(
        trained, lr=config.lr, betas=betas, weight_decay=config.weight_decay, fused=True if fused else None
    )


def _reader(hyperparameters: Hyperparameters | None, config: Config) -> Callable[[str], float]:
    if isinstance(hyperparameters, Mapping):
        return lambda key: float(hyperparameters.get(key, getattr(config, key)))
    source = config if hyperparameters is None else hyperparameters
    return lambda key: float(getattr(source, key))


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Spare the weight gradients of `network` inside the block; gradients to its input still flow."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
