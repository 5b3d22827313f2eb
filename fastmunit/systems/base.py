"""What all image translation systems have in common."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.utils.checkpoint
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from fastmunit import distributed, functional
from fastmunit.config import Config, unknown_keys
from fastmunit.errors import CheckpointError, ConfigError
from fastmunit.files import shown
from fastmunit.functional.recompute import recompute
from fastmunit.nn.layers.batch_norm import BatchNorm2d
from fastmunit.nn.layers.init import without_values
from fastmunit.nn.layers.spectral_norm import SpectralNorm
from fastmunit.section import Section, brief, explain
from fastmunit.systems.parts import optimizer_state, public_checkpoint, resume_checks, weights
from fastmunit.systems.parts.adam import Adam
from fastmunit.systems.parts.cuda_graph import CapturedIteration
from fastmunit.systems.parts.ema import GeneratorAverages
from fastmunit.systems.parts.evaluation_copy import evaluation_copies
from fastmunit.systems.parts.inference_autocast import inference_autocast
from fastmunit.systems.parts.lr_schedule import make_scheduler
from fastmunit.systems.parts.parameter_count import Estimate, public_networks, require_parameters
from fastmunit.systems.parts.perceptual import PerceptualLoss
from fastmunit.systems.translator import Translator

Hyperparameters = Mapping[str, Any] | Config
Loss = Tensor | int
Weight = Callable[[str], float]

_SHOWN_KEYS = 10
_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SystemOptions(Section):
    """Keys of `options:` in a configuration; a system with keys of its own has a subclass."""


class System(nn.Module):
    """One image translation system: networks, losses, update steps, optimizers, checkpoints.

    A subclass builds its networks, then `gen_opt` and `dis_opt` by `make_optimizer`, then calls `finish`, and gives
    `update`, `sample`, `build_generators`, `generators`, `discriminators` and `translator`. Losses are attributes
    loss_*: 0-d tensors without graph, or the int 0 where a term is switched off.

    Args:
        hyperparameters: the mapping of a YAML file, or a `Config`. Unknown keys of a mapping are ignored with a
            warning; missing ones have the values of the public recipes.
        compat: do as the public trainer does where fastmunit does better: on resuming, keep its schedule drift; take
            the gradient of spectral norms from the u and v of the latest forward (such networks are not compiled).
        fused_adam: run Adam as one op for each optimizer instead of eight for each parameter; roundings differ.

    Raises:
        ConfigError: a value has the wrong type or range.
    """

    name: ClassVar[str]
    recipe: ClassVar[str]
    """The shipped configuration that `--system` alone stands for."""
    demo_recipe: ClassVar[str]
    """The shipped configuration of `fastmunit demo`."""
    Options: ClassVar[type[SystemOptions]] = SystemOptions
    free_options: ClassVar[frozenset[str]] = frozenset()
    """Options that may change when a run is resumed: they decide neither which weights there are nor what they mean."""
    paired: ClassVar[bool] = False
    """Whether x_a[i] and x_b[i] must belong together."""
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")
    rows: tuple[str, ...] = ("input", "reconstruction", "translation")
    """What the rows of a sample grid show, in each direction."""

    gen_opt: torch.optim.Optimizer
    dis_opt: torch.optim.Optimizer

    def __init__(self, hyperparameters: Hyperparameters, *, compat: bool = False, fused_adam: bool = True) -> None:
        super().__init__()
        self.config = as_config(hyperparameters)
        self.options = self.check(self.config)
        self.compat = compat
        self.fused_adam = fused_adam
        self.vgg: PerceptualLoss | None = None
        self.averages: GeneratorAverages | None = None
        self.scalers: dict[str, torch.amp.GradScaler] = {}
        self._overlaps: dict[str, distributed.OverlappedAverage] = {}

    @classmethod
    def check(cls, config: Config) -> Any:
        """The system's own options as `config` gives them.

        Raises:
            ConfigError: an option is unknown or wrong, or the system needs pairs and the data are unpaired.
        """
        if config.cuda_graph is True and config.precision == "float16":
            raise ConfigError(
                "cuda_graph does not go with precision float16, whose loss scale is kept by the host: use bfloat16."
            )
        if cls.paired and config.pairs == "unpaired":
            raise ConfigError(
                f"system {cls.name!r} learns from pairs: set pairs to folders (equal names in trainA and trainB) or "
                "side_by_side (both in one image)."
            )
        try:
            options = cls.Options.model_validate(config.options)
        except ValidationError as error:
            raise ConfigError(explain(error, cls.Options, f"options of system {cls.name!r}")) from None
        require_parameters(cls.parameter_estimate(config, options))
        return options

    @classmethod
    def parameter_estimate(cls, config: Config, options: Any) -> Estimate:
        """Return how many parameters the networks would have, about, per group of keys that decide it."""
        return public_networks(config)

    @classmethod
    def batch_parts(cls, config: Config) -> int:
        """Return in how many equal parts a batch is computed or used: of each, a process takes its share."""
        return config.micro_batches

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's samples of a whole batch (batch_size, ...), for `step` and the updates.

        Without several processes that is the batch. See `fastmunit.distributed`.

        Raises:
            ConfigError: The batch does not divide by the processes.
        """
        return distributed.share(batch, self.batch_parts(self.config))

    def make_optimizer(self, modules: Iterable[nn.Module]) -> torch.optim.Adam:
        """Adam over the trained parameters of `modules`, each once, in order, with coupled weight decay."""
        config = self.config
        parameters = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return Adam(
            parameters.values(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True if self.fused_adam else None,
        )

    def finish(self) -> None:
        """What comes after networks, optimizers and initial weights: schedules, averages, scalers, perceptual loss."""
        self._make_schedulers(self.config)
        for module in self.modules():
            if isinstance(module, SpectralNorm):
                module.compat = self.compat
        if self.config.vgg_w > 0:
            self.vgg = PerceptualLoss(self.config.vgg_model_path)
        if self.config.ema_decay > 0:
            self.averages = GeneratorAverages(self.generators(), self.config.ema_decay)
        low_precision = self.config.precision != "float32"
        if self.config.memory_format == "channels_last" or (self.config.memory_format == "auto" and low_precision):
            for network in (*self.generators().values(), *self.discriminators().values()):
                network.to(memory_format=torch.channels_last)
        if self.config.compile:
            if distributed.is_active() and any(isinstance(module, BatchNorm2d) for module in self.modules()):
                raise ConfigError(
                    "dis.norm bn takes statistics of the images of all processes, which a compiled network cannot: set "
                    "compile to false, or dis.norm to none, in, ln or sn."
                )
            for network in self.compiled_networks():
                if self.compat and any(isinstance(module, SpectralNorm) for module in network.modules()):
                    continue  # a compiled graph keeps the u and v of each forward, which is the right gradient
                network.compile(fullgraph=True, dynamic=False)

    # What a system gives.

    def update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """Both halves of an iteration: step the generators and the discriminators, and set the loss_* attributes."""
        raise NotImplementedError

    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Rows of the sample grid: those of a2b, input first, then as many of b2a where the system goes both ways.

        Everything random comes from `generator`, a CPU one; None is torch's global generator.
        """
        raise NotImplementedError

    @classmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        """New networks for `generators`, without initial weights of any meaning."""
        raise NotImplementedError

    @classmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> Translator:
        """What translates one way with `generators`. Raises ConfigError for a direction the system does not have."""
        raise NotImplementedError

    def generators(self) -> dict[str, nn.Module]:
        """The networks of gen_*.pt, by their names in it."""
        raise NotImplementedError

    def discriminators(self) -> dict[str, nn.Module]:
        """The networks of dis_*.pt, by their names in it."""
        raise NotImplementedError

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers of optimizer.pt, by their names in it; NAME's schedule is the attribute NAME_scheduler."""
        return {"gen": self.gen_opt, "dis": self.dis_opt}

    def compiled_networks(self) -> list[nn.Module]:
        """What `compile: true` compiles: networks whose forward is one graph."""
        return [*self.generators().values(), *self.discriminators().values()]

    def resume_state(self) -> dict[str, Any]:
        """What exact resume needs beside networks, optimizers and schedules: tensors and plain types."""
        return {"scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()}}

    def load_resume_state(self, state: Mapping[str, Any]) -> list[str]:
        """Put `resume_state` back; returns sentences about what could not be.

        Raises:
            CheckpointError: a part of the state is missing or has the wrong type.
        """
        scalers = resume_checks.part(state, "scalers", Mapping)
        states = {name: resume_checks.scaler(scalers, name, self.optimizers()) for name in scalers}
        for name, scaler_state in states.items():
            self._scaler(name).load_state_dict(scaler_state)
        return []

    # What every system has.

    def step(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """One whole iteration: `update_learning_rate`, `update`, and the moving average of the generators if it is on.

        Args:
            x_a: images of domain A, (N, input_dim_a, H, W) in [-1, 1].
            x_b: images of domain B, (N, input_dim_b, H, W) in [-1, 1].
            hyperparameters: read for the loss weights, so that a script may change them as it trains; None uses the
                constructor's.

        Raises:
            ValueError: the batches differ in size; nothing has changed then.
        """
        check_batches(x_a, x_b)
        self.update_learning_rate()
        self.update(x_a, x_b, hyperparameters)
        self.update_averages()

    def losses(self) -> dict[str, Loss]:
        """Every loss_* attribute by name, as the last updates left it."""
        return {name: value for name, value in vars(self).items() if name.startswith("loss_")}

    def schedulers(self) -> dict[str, LRScheduler | None]:
        """The learning rate schedules by the names of their optimizers."""
        return {name: getattr(self, f"{name}_scheduler") for name in self.optimizers()}

    def update_learning_rate(self) -> None:
        """Step the schedules; call it at the start of an iteration, as the public training script does."""
        for scheduler in self.schedulers().values():
            if scheduler is None:
                continue
            if scheduler._step_count > 1:
                scheduler.step()
                continue
            with warnings.catch_warnings():
                # The public order is schedule first, optimizer second; torch warns about it at the first call.
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
                scheduler.step()

    def update_averages(self) -> None:
        """Move the averages of the generators towards their weights; nothing where ema_decay is 0.

        `step` calls it. A script that calls the two updates itself calls it after them.
        """
        if self.averages is not None:
            self.averages.update(self.generators())

    def descend(
        self,
        name: str,
        images: Sequence[Tensor],
        loss_of: Callable[..., tuple[Tensor, dict[str, Loss]]],
    ) -> tuple[Tensor, dict[str, Loss]]:
        """One step of an optimizer down the mean loss of a batch, taken in `micro_batches` parts.

        Args:
            name: the optimizer's in `optimizers`.
            images: tensors (N, …) whose samples belong together; `loss_of` gets a part of each.
            loss_of: total and terms, each a mean over samples.

        Returns:
            Total and terms of the whole batch, that of all processes, without graph.

        Raises:
            ValueError: the batch cannot be split into `micro_batches` equal parts.
        """
        optimizer = self.optimizers()[name]
        parts = self.config.micro_batches
        if any(len(tensor) % parts for tensor in images):
            raise ValueError(f"a batch of {len(images[0])} does not split into micro_batches = {parts} equal parts.")
        optimizer.zero_grad()
        scaler = self._scaler(name) if self.config.precision == "float16" else None
        totals, terms = [], []
        overlap = self._overlap(name)
        for number, part in enumerate(zip(*(tensor.chunk(parts) for tensor in images), strict=True), start=1):
            with recompute(self._recomputes()):
                total, values = loss_of(*(images if parts == 1 else part))
            mean = total if parts == 1 else total / parts
            with overlap.during_backward() if overlap is not None and number == parts else nullcontext():
                (mean if scaler is None else scaler.scale(mean)).backward()
            totals.append(total.detach())
            terms.append(values)
        total = totals[0] if parts == 1 else torch.stack(totals).mean()
        means = terms[0] if parts == 1 else {key: _mean([values[key] for values in terms]) for key in terms[0]}
        # Before the scaler looks at them, so that all processes find the same gradients infinite.
        self._average_over_processes([] if overlap is not None else _gradients(optimizer), [total, *means.values()])
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return total, means

    @property
    def replays(self) -> bool:
        """Whether `step` replays CUDA graphs here: where `cuda_graph` says so, or is auto and they can be had.

        Auto leaves out the CPU, float16, whose loss scale is kept by the host, and `compat`, which is for comparisons
        with the public trainer.
        """
        if self.config.cuda_graph == "auto":
            return self.device.type == "cuda" and self.config.precision != "float16" and not self.compat
        return self.config.cuda_graph

    def replay(
        self,
        captured: CapturedIteration,
        body: Callable[..., None],
        tensors: Sequence[Tensor],
        optimizers: Iterable[torch.optim.Optimizer],
        key: Hashable = None,
    ) -> None:
        """Run `body`, which steps `optimizers` and publishes losses, through `captured`; see `CapturedIteration.run`.

        The loss_* attributes are new tensors each time, as without a graph.
        """
        before = self.losses()

        def results() -> dict[str, Tensor]:
            new = {name: loss for name, loss in self.losses().items() if loss is not before.get(name)}
            return {name: loss for name, loss in new.items() if isinstance(loss, Tensor)}

        key = (key, self.training, functional.default_implementation())
        for name, loss in captured.run(body, tensors, optimizers, key, results).items():
            setattr(self, name, loss)

    def publish(self, half: str, total: Tensor, losses: Mapping[str, Loss]) -> None:
        """Set loss_{half}_total and loss_{half}_NAME for each of `losses`; half is "gen" or "dis"."""
        for name, loss in {**losses, "total": total}.items():
            setattr(self, f"loss_{half}_{name}", loss)

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast region of the configured precision; nothing for float32."""
        dtype = _DTYPES[self.config.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def inference_autocast(self) -> AbstractContextManager[object]:
        """Return what `autocast` is for inference, which may run in another thread than the training."""
        return inference_autocast(self.device.type, _DTYPES[self.config.precision])

    def run(self, network: Callable[..., Any], *inputs: Tensor) -> Any:
        """Call a network; with `checkpointing`, keep no more than `inputs` for backward, and run it again there."""
        if not (self.config.checkpointing and torch.is_grad_enabled()):
            return network(*inputs)
        implementation = functional.default_implementation()

        def run_again(*inputs: Tensor) -> Any:
            with recompute(False), functional.use_implementation(implementation):
                return network(*inputs)

        return torch.utils.checkpoint.checkpoint(run_again, *inputs, use_reentrant=False, preserve_rng_state=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def evaluation_generators(self) -> dict[str, nn.Module]:
        """Return the generators as they translate: in eval mode, with the averages where there are any.

        They are copies that share memory with the trained ones, for use now: in any thread, also during training,
        which they do not disturb. See `evaluation_copies`.
        """
        generators = self.generators()
        return evaluation_copies(generators, {} if self.averages is None else self.averages.values(generators))

    @torch.no_grad()
    def evaluation_translator(self, direction: str) -> Translator:
        """Return what translates one way with `evaluation_generators`. Raises ConfigError as `translator` does."""
        translator = self.translator(self.evaluation_generators(), self.config, direction)
        translator.direction = direction
        return translator

    def perceptual_loss(self, translated: Tensor, source: Tensor) -> Tensor:
        """Distance of the instance-normalised VGG-16 features of two images (N, 3, H, W); see `PerceptualLoss`."""
        if self.vgg is None:
            self.vgg = PerceptualLoss(self.config.vgg_model_path).to(self.device)
        return self.vgg(translated, source)

    def reader(self, hyperparameters: Hyperparameters | None) -> Weight:
        """How to read loss weights: from `hyperparameters`, and from the constructor's where those have none."""
        if isinstance(hyperparameters, Mapping):
            return lambda key: float(hyperparameters.get(key, getattr(self.config, key)))
        source = self.config if hyperparameters is None else hyperparameters
        return lambda key: float(getattr(source, key))

    @classmethod
    def load_generators(
        cls, checkpoint_file: str | os.PathLike[str], config: Config, device: str | torch.device = "cpu"
    ) -> dict[str, nn.Module]:
        """Build `generators` from a gen_*.pt alone, in eval mode, on `device`. The global RNG is not touched.

        Raises:
            CheckpointError: the file is missing, truncated, of another kind, or of other sizes than `config`.
        """
        cls.check(config)
        networks = without_values(lambda: cls.build_generators(config))
        public_checkpoint.verify_weights(checkpoint_file)
        weights.load_networks(checkpoint_file, networks, "gen")
        return {name: network.to(device).eval() for name, network in networks.items()}

    def save(
        self,
        snapshot_dir: str | os.PathLike[str],
        iterations: int,
        resume_state: Mapping[str, Any] | None = None,
    ) -> None:
        """Write gen_%08d.pt, dis_%08d.pt (numbered iterations + 1) and optimizer.pt, each whole or not at all.

        With ema_decay, ema_%08d.pt holds the averaged generators in the form of gen_%08d.pt.

        Args:
            snapshot_dir: folder, created when missing.
            iterations: zero-based number of the iteration just finished, as the public training script counts.
            resume_state: what `fastmunit.runs` adds as state_%08d.pt for exact resume. Without it, one of the same
                number is removed: it would be of other weights.

        Raises:
            FastmunitError: a file cannot be written.
        """
        states = {
            "gen": {name: network.state_dict() for name, network in self.generators().items()},
            "dis": {name: network.state_dict() for name, network in self.discriminators().items()},
        }
        if self.averages is not None:
            states = {"ema": self.averages.state_dicts(self.generators()), **states}
        public_checkpoint.save_snapshot(snapshot_dir, iterations + 1, states, self.optimizers(), resume_state)

    def resume(self, checkpoint_dir: str | os.PathLike[str], hyperparameters: Hyperparameters | None = None) -> int:
        """Load the newest complete snapshot, ours or the public trainer's, and return its iteration count.

        Everything is checked first: when it raises, networks and optimizers are as they were.

        Args:
            checkpoint_dir: the folder that `save` wrote to.
            hyperparameters: for the schedule; None uses the constructor's.

        Raises:
            CheckpointError: there is no complete snapshot, it was written with another configuration, or a file of it
                is damaged or of another run.
        """
        folder = Path(checkpoint_dir)
        config = self.config if hyperparameters is None else as_config(hyperparameters)
        iterations = public_checkpoint.latest(folder)
        if iterations is None:
            raise CheckpointError(
                f"{shown(folder)} has no gen_*.pt with its dis_*.pt: check the path or train without resume."
            )
        kinds = ["gen", "dis", "optimizer", *([] if self.averages is None else ["ema"])]
        public_checkpoint.verify(folder, iterations, kinds)
        networks = {"gen": self.generators(), "dis": self.discriminators()}
        states = {
            kind: weights.read_networks(public_checkpoint.snapshot_path(folder, kind, iterations), networks[kind], kind)
            for kind in networks
        }
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        moments = optimizer_state.read_optimizers(folder / public_checkpoint.OPTIMIZER_FILE, self.optimizers(), names)
        if self.averages is not None:
            self.averages.load(public_checkpoint.snapshot_path(folder, "ema", iterations), self.generators())
        for kind, state_dicts in states.items():
            for name, state_dict in state_dicts.items():
                networks[kind][name].load_state_dict(state_dict)
        for name, state in moments.items():
            self.optimizers()[name].load_state_dict(state)
        self._make_schedulers(config, iterations)
        return iterations

    def _recomputes(self) -> bool:
        """Whether layers keep their convolution's result alone: less memory for a percent of a step's time."""
        return self.config.recompute == "always" or (
            self.config.recompute == "auto" and self.config.precision == "float32"
        )

    def _make_schedulers(self, config: Config, iterations: int = 0) -> None:
        for name, optimizer in self.optimizers().items():
            setattr(self, f"{name}_scheduler", make_scheduler(optimizer, config, iterations, self.compat))

    def _average_over_processes(self, gradients: Sequence[Tensor], losses: Sequence[Loss]) -> None:
        """Replace gradients and losses by their means over the processes, whose shares of a batch are equal."""
        values = [loss for loss in losses if isinstance(loss, Tensor)]
        if self._sent_dtype is None:
            distributed.average([*gradients, *values])
        else:
            distributed.average(gradients, self._sent_dtype)
            distributed.average(values)

    @property
    def _sent_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.config.gradient_compression == "bfloat16" else None

    def _overlap(self, name: str) -> distributed.OverlappedAverage | None:
        """What averages gradients during backward, where that is wanted and possible: not in a captured iteration."""
        if not (self.config.overlap_communication and distributed.has_group()):
            return None
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        parameters = [p for group in self.optimizers()[name].param_groups for p in group["params"]]
        if name not in self._overlaps or not self._overlaps[name].averages(parameters):
            self._overlaps[name] = distributed.OverlappedAverage(parameters, self._sent_dtype)
        return self._overlaps[name]

    def _scaler(self, name: str) -> torch.amp.GradScaler:
        if name not in self.scalers:
            self.scalers[name] = torch.amp.GradScaler(self.device.type)
        return self.scalers[name]


def as_config(hyperparameters: Hyperparameters) -> Config:
    """A `Config` from what a script for the public trainer passes: unknown keys are dropped with a warning."""
    if isinstance(hyperparameters, Config):
        return hyperparameters
    unknown = unknown_keys(hyperparameters) if isinstance(hyperparameters, Mapping) else {}
    if not unknown:
        return Config.from_dict(hyperparameters)
    hints = [
        brief(key) + (f" (did you mean {nearest!r}?)" if nearest else "")
        for key, nearest in itertools.islice(unknown.items(), _SHOWN_KEYS)
    ]
    hints += [f"and {len(unknown) - _SHOWN_KEYS} more"] if len(unknown) > _SHOWN_KEYS else []
    warnings.warn(f"hyperparameters that fastmunit does not know are ignored: {', '.join(hints)}", stacklevel=4)
    known: dict[str, Any] = {}
    for key, value in hyperparameters.items():
        if key in unknown:
            continue
        if isinstance(value, Mapping):
            value = {inner: v for inner, v in value.items() if f"{key}.{inner}" not in unknown}
        known[key] = value
    return Config.from_dict(known)


def check_batches(x_a: Tensor, x_b: Tensor) -> None:
    """Raise ValueError where a batch of domain A and one of domain B differ in size."""
    if len(x_a) != len(x_b):
        raise ValueError(f"x_a has {_images(len(x_a))}, x_b {len(x_b)}: give batches of equal size.")


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Spare the weight gradients of `networks` inside the block; gradients to their inputs still flow."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _mean(values: Sequence[Loss]) -> Loss:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return torch.stack(tensors).mean() if tensors else 0
