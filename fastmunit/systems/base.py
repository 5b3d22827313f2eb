"""The base class of all image translation systems."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from fastmunit import distributed, functional
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.model_folder.save import Model
from fastmunit.nn.fused.iteration_cache import IterationCache
from fastmunit.nn.layers.spectral_norm import SpectralNorm
from fastmunit.systems.parts import files, pretrained, resume_checks
from fastmunit.systems.parts.algorithm_search import AlgorithmSearch
from fastmunit.systems.parts.cuda_graph import Inputs, Results
from fastmunit.systems.parts.ema import GeneratorEMA
from fastmunit.systems.parts.evaluation_copy import evaluation_copies
from fastmunit.systems.parts.execution import Execution
from fastmunit.systems.parts.hyperparameters import Hyperparameters, as_config, read_weights
from fastmunit.systems.parts.optimization import Optimization
from fastmunit.systems.parts.perceptual import PerceptualLoss
from fastmunit.systems.parts.regularization import Regularization
from fastmunit.systems.parts.stepper import LossFunction, Stepper, Weights
from fastmunit.systems.translators import Translator

if TYPE_CHECKING:
    from typing_extensions import Self

Loss = Tensor | int


class System(Execution, Optimization, pretrained.Shareable):
    """An image translation system: networks, losses, update steps, optimizers, checkpoints.

    An iteration has two halves, "dis" and "gen": each is a step of one optimizer. This class runs them; a subclass
    returns the data: `build` makes the networks, `draws` the random codes, `discriminator_terms` and
    `generator_terms` the losses. It also defines `sample`, `build_generators`, `generators`, `discriminators` and
    `translator`.

    The losses are the attributes loss_NAME for each of `term_names`: 0-d tensors without graph, or the int 0 if the
    term is switched off or has not been computed yet.

    Args:
        hyperparameters: The mapping of a YAML file, or a `Config`. Unknown keys of a mapping are ignored with a
            warning; missing keys have the values of the public configurations.
        compat: Do what the public trainer does where fastmunit does better: on resuming, keep its schedule drift;
            compute the gradient of spectral norms from the u and v of the latest forward pass (such networks are not
            compiled).
        fused_adam: Run Adam as one op per optimizer instead of eight per parameter. The rounding differs.

    Attributes:
        steps_done: Number of steps that each half has finished. `resume` sets both to the number of iterations.

    Raises:
        ConfigError: If a value has the wrong type or range.
    """

    def __init__(self, hyperparameters: Hyperparameters, *, compat: bool = False, fused_adam: bool = True) -> None:
        super().__init__()
        self.config = as_config(hyperparameters)
        self.options = self.check(self.config)
        self.compat = compat
        self.fused_adam = fused_adam
        self.stepper = Stepper(self.config)
        self.algorithm_search = AlgorithmSearch(self.config.cudnn_search)
        self.build()
        self._require_trained_parameters()
        if self._networks_share_weights():
            if self.config.parallel_streams is True:
                raise ConfigError(
                    "parallel_streams: true runs networks at the same time, but these have weights in common: set it "
                    "to auto."
                )
            self.stepper.streams.disable()
        self.gen_opt = self.make_optimizer(self.generators().values(), self.config.learning_rate("gen"))
        self.dis_opt = self.make_optimizer(self.discriminators().values(), self.config.learning_rate("dis"))
        self.steps_done = dict.fromkeys(self.optimizers(), 0)
        self.initialize()
        self.make_schedulers(self.config)
        for module in self.modules():
            if isinstance(module, SpectralNorm):
                module.compat = compat
        self.vgg = PerceptualLoss(self.config.vgg_model_path) if self.config.vgg_w > 0 else None
        decay = self.config.ema_decay
        self.averages = GeneratorEMA(decay, warmup=self.config.ema_warmup) if decay > 0 else None
        self.choose_memory_format()
        if self.config.compile:
            self.compile_networks()
        self.regularization: Regularization | None = None
        if self.config.dis_augment or self.config.r1_w > 0:
            self.regularization = Regularization(self.config, list(self.discriminators()))
            self.term_names = (*self.term_names, *self.regularization.term_names)
        # The public script logs every attribute that has "loss" in its name.
        self._scales: dict[str, list[Tensor]] = {}
        for name in self.term_names:
            setattr(self, f"loss_{name}", 0)

    def resume_state(self) -> dict[str, Any]:
        """Return tensors and plain values that exact resume needs besides networks, optimizers and schedules."""
        state: dict[str, Any] = {"scalers": self.stepper.state()}
        if self.regularization is not None:
            state |= self.regularization.state()
            state["latest"] = {name: float(getattr(self, f"loss_{name}")) for name in self._kept_terms()}
        return state

    def load_resume_state(self, state: Mapping[str, Any]) -> list[str]:
        """Restore `resume_state` and return sentences about the parts that could not be restored.

        Raises:
            CheckpointError: If a part of the state is missing or has the wrong type.
        """
        scalers = resume_checks.part(state, "scalers", Mapping)
        latest = resume_checks.numbers(state.get("latest", {}))
        notes = [] if self.regularization is None else self.regularization.load_state(state)
        self.stepper.load_state(scalers, self.optimizers())
        for name in self._kept_terms():
            if name in latest:
                setattr(self, f"loss_{name}", torch.tensor(latest[name], device=self.device))
        return notes

    # Training.

    def step(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """Run one iteration: `update_learning_rate`, `update`, `update_averages`.

        Args:
            x_a: Images of domain A, (N, input_dim_a, H, W) in [-1, 1].
            x_b: Images of domain B, (N, input_dim_b, H, W) in [-1, 1].
            hyperparameters: Source of the loss weights, which a script may change during training. None uses the
                constructor's.

        Raises:
            ValueError: If the batches differ in size. Nothing has changed then.
        """
        check_batches(x_a, x_b)
        self.update_learning_rate()
        self.update(x_a, x_b, hyperparameters)
        self.update_averages()

    def update(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """Run both halves of an iteration and set the loss_* attributes. Arguments and errors are those of `step`."""
        check_batches(x_a, x_b)
        weights = read_weights(self.weight_keys, hyperparameters, self.config)
        inputs = self.draws(x_a, x_b, weights)
        if set(inputs) not in ({"gen"}, {"dis", "gen"}):
            raise ValueError(
                f"{type(self).__name__}.draws must return tensors for 'gen', or 'dis' and 'gen', got {[*inputs]}."
            )
        results = self.run(inputs, weights)
        if "dis" not in inputs:
            self.run({"dis": self.discriminator_inputs(x_a, x_b, results.outputs)}, weights)

    def run(self, inputs: Inputs, weights: Weights) -> Results:
        """Do what `run_halves` does, with cuDNN's search, and by replaying a CUDA graph if the system `replays`."""
        if self.regularization is not None:
            inputs = {half: self.regularization.draw(tensors) for half, tensors in inputs.items()}
        with self.algorithm_search.during(inputs):
            if self.replays:
                results = self._replay_halves(inputs, weights)
            else:
                with self.stepper.streams.active(self.device):
                    results = self.run_halves(inputs, weights)
        for half in inputs:
            self.steps_done[half] += 1
        return results

    def run_halves(self, inputs: Inputs, weights: Weights) -> Results:
        """Step the optimizer of each half of `inputs`, set its loss_* attributes, and return losses and outputs."""
        losses: dict[str, Tensor] = {}
        outputs: tuple[Tensor, ...] = ()
        cache = None if functional.exact_order() else IterationCache()
        for half, tensors in inputs.items():
            loss = self.stepper.descend(half, self.optimizers()[half], self._terms(half), tensors, weights, cache)
            if self.regularization is not None and half == "dis":
                loss = self.regularization.adapt(loss, len(tensors[0]) * distributed.world_size())
            losses |= {f"{half}_{name}": value for name, value in (*loss.terms.items(), ("total", loss.total))}
            outputs += loss.outputs
        self._publish(inputs, losses)
        return Results(losses, outputs)

    def _terms(self, half: str) -> LossFunction:
        """Return what computes the loss of a half."""
        terms = self.discriminator_terms if half == "dis" else self.generator_terms
        if self.regularization is None:
            return terms
        return partial(self.regularization.terms, half, terms, self.discriminators(), self._penalizes())

    def _penalizes(self) -> bool:
        """Return True if the next step of the discriminators has the R1 penalty."""
        return self.regularization is not None and self.regularization.penalizes(self.steps_done["dis"])

    def _kept_terms(self) -> list[str]:
        """Return the names of terms that not every iteration computes, and whose latest values are kept."""
        return [] if self.regularization is None else self.regularization.penalty_names

    def _replay_halves(self, inputs: Inputs, weights: Weights) -> Results:
        """Do what `run_halves` does by replaying a CUDA graph."""
        key = (tuple(weights.values()), self.training, functional.default_implementation())
        optimizers = [self.optimizers()[half] for half in inputs]
        own = inputs.values() if self.regularization is None else map(self.regularization.own, inputs.values())
        origin = self.shared_forward(*own) if len(inputs) == 1 else None
        body = partial(self.run_halves, weights=weights)
        eagerly = "dis" in inputs and self._penalizes()  # the R1 penalty of a few iterations needs no graph
        results = self.stepper.graphs.run(body, inputs, optimizers, key, origin, eagerly)
        self._publish(inputs, results.losses)
        return results

    def _publish(self, halves: Iterable[str], losses: Mapping[str, Tensor]) -> None:
        """Set the loss_* attributes of `halves`. Terms that are not in `losses` are switched off."""
        if unknown := {name.partition("/")[0] for name in losses} - set(self.term_names):
            raise ValueError(f"{type(self).__name__}: add {', '.join(sorted(unknown))} to term_names.")
        kept = self._kept_terms()
        for name in self.term_names:
            if name.partition("_")[0] in halves:
                setattr(self, f"loss_{name}", losses.get(name, getattr(self, f"loss_{name}") if name in kept else 0))
                scales = [loss for scale, loss in losses.items() if scale.startswith(f"{name}/")]
                if scales:
                    self._scales[f"loss_{name}"] = scales

    @property
    def replays(self) -> bool:
        """True if updates replay CUDA graphs: if `cuda_graph` is true, or is "auto" and replays are possible.

        "auto" excludes the CPU, float16, whose loss scale is kept on the host, and `compat`, which is for comparisons
        with the public trainer.
        """
        if self.config.cuda_graph == "auto":
            return self.device.type == "cuda" and self.config.precision != "float16" and not self.compat
        return self.config.cuda_graph

    def update_averages(self) -> None:
        """Move the averages of the generators towards their weights. Do nothing if ema_decay is 0.

        `step` calls it. A script that calls `dis_update` and `gen_update` itself calls it after them.
        """
        if self.averages is not None:
            self.averages.update(self.generators(), self.steps_done["gen"])

    def losses(self) -> dict[str, Loss]:
        """Return all loss_* attributes by name, as the last updates have set them."""
        return {f"loss_{name}": getattr(self, f"loss_{name}") for name in self.term_names}

    def scale_losses(self) -> dict[str, list[Tensor]]:
        """Return the losses of each scale of the discriminators, finest first, by the names of their sums.

        They are 0-d tensors without graph, as the last updates have computed them. "loss_dis_a" is the sum of the list
        with that name.
        """
        return {name: list(scales) for name, scales in self._scales.items()}

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's samples of a whole batch (batch_size, ...), for `step` and the updates.

        Without several processes that is the batch. See `fastmunit.distributed`.

        Raises:
            ConfigError: If the batch cannot be divided among the processes.
        """
        return distributed.share(batch, self.batch_parts(self.config))

    def _require_trained_parameters(self) -> None:
        """Raise ValueError if a network is in neither group of networks, so that no optimizer would train it."""
        networks = (*self.generators().values(), *self.discriminators().values())
        trained = {id(p) for network in networks for p in network.parameters()}
        rest = [name for name, p in self.named_parameters() if id(p) not in trained]
        if rest:
            raise ValueError(
                f"{type(self).__name__}: {rest[0]} is in no network that generators() or discriminators() returns, "
                "so it would be neither trained nor saved."
            )

    def _networks_share_weights(self) -> bool:
        """Return True if two networks have a parameter in common, so that they cannot run on different streams."""
        networks = (*self.generators().values(), *self.discriminators().values())
        parameters = [id(p) for network in networks for p in network.parameters()]
        return len(set(parameters)) < len(parameters)

    # Evaluation.

    def evaluation_generators(self) -> dict[str, nn.Module]:
        """Return the generators as they translate: in eval mode, with the averaged weights if there are any.

        They are copies that share memory with the trained networks. Use them right away, in any thread: a training
        is not disturbed. See `evaluation_copies`.
        """
        generators = self.generators()
        return evaluation_copies(generators, {} if self.averages is None else self.averages.values(generators))

    @torch.no_grad()
    def evaluation_translator(self, direction: str) -> Translator:
        """Return a translator with the `evaluation_generators`.

        Raises:
            ConfigError: If the system does not have that direction.
        """
        return self.directed_translator(self.evaluation_generators(), self.config, direction)

    @classmethod
    def directed_translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> Translator:
        """Return a translator that knows its direction.

        Raises:
            ConfigError: If the system does not have that direction.
        """
        if direction not in cls.directions:
            raise ConfigError(f"system {cls.name!r} translates {' and '.join(cls.directions)} only, not {direction}.")
        translator = cls.translator(generators, config, direction)
        translator.direction, translator.config = direction, config
        return translator

    # Files.

    @classmethod
    def load_generators(
        cls, checkpoint_file: str | os.PathLike[str], config: Config, device: str | torch.device = "cpu"
    ) -> dict[str, nn.Module]:
        """Build the generators from a gen_*.pt alone, in eval mode, on `device`. The global RNG is not used.

        Raises:
            CheckpointError: If the file is missing, truncated, of another kind, or does not fit `config`.
        """
        return files.load_generators(cls, checkpoint_file, config, device)

    @classmethod
    def load_translator(
        cls,
        checkpoint_file: str | os.PathLike[str],
        config: Config,
        direction: str | None = None,
        device: str | torch.device = "cpu",
    ) -> Translator:
        """Build a translator from a gen_*.pt, or from the model.safetensors of a model folder, on `device`.

        Args:
            checkpoint_file: The file.
            config: Its configuration.
            direction: "a2b" or "b2a". None is the direction of the folder; "a2b" if it has both.
            device: Device to compute on.

        Raises:
            CheckpointError: If the file is missing, damaged, of another kind, or does not fit `config`.
            ConfigError: If the system does not have that direction.
        """
        return files.load_translator(cls, checkpoint_file, config, direction, device)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Self:
        """Load a system from a model folder, with new optimizers. `System.from_pretrained` loads any system.

        Args:
            name: A folder that `save_pretrained` of a system has written, or OWNER/NAME or OWNER/NAME@REVISION of one
                on the Hugging Face Hub, which is downloaded.
            options: Keyword arguments of the constructor, such as compat.

        Raises:
            CheckpointError: If there is no such folder, its files are damaged, or it holds no system of this class.
            ConfigError: If the configuration is wrong.
        """
        return cast("Self", pretrained.load_system(cls, name, options))

    def _as_model(self) -> Model:
        return pretrained.model_of_system(self)

    def save(
        self, snapshot_dir: str | os.PathLike[str], iterations: int, resume_state: Mapping[str, Any] | None = None
    ) -> None:
        """Write gen_%08d.pt, dis_%08d.pt (numbered iterations + 1) and optimizer.pt, each whole or not at all.

        With ema_decay, ema_%08d.pt holds the averaged generators in the form of gen_%08d.pt.

        Args:
            snapshot_dir: Folder. It is created if it is missing.
            iterations: Zero-based number of the iteration just finished, as the public training script counts.
            resume_state: What `fastmunit.runs` adds as state_%08d.pt for exact resume. None removes such a file of
                the same number, because it would belong to other weights.

        Raises:
            FastmunitError: If a file cannot be written.
        """
        files.save(self, snapshot_dir, iterations, resume_state)

    def resume(self, checkpoint_dir: str | os.PathLike[str], hyperparameters: Hyperparameters | None = None) -> int:
        """Load the newest complete checkpoint, ours or the public trainer's, and return its iteration count.

        Everything is checked first: if it raises, networks and optimizers are unchanged.

        Args:
            checkpoint_dir: Folder that `save` wrote to.
            hyperparameters: Source of the schedule. None uses the constructor's.

        Raises:
            CheckpointError: If there is no complete checkpoint, if it was written with another configuration, or if
                one of its files is damaged or belongs to another run.
        """
        config = self.config if hyperparameters is None else as_config(hyperparameters)
        return files.resume(self, checkpoint_dir, config)


def check_batches(x_a: Tensor, x_b: Tensor) -> None:
    """Raise ValueError if a batch of domain A and one of domain B differ in size."""
    if len(x_a) != len(x_b):
        count = "1 image" if len(x_a) == 1 else f"{len(x_a)} images"
        raise ValueError(f"x_a has {count}, x_b {len(x_b)}: give batches of equal size.")


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Skip the weight gradients of `networks` inside the block. Gradients of their inputs are still computed."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
