"""The parts that define a system: names, networks, random codes and loss terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.nn.layers.init import weights_init
from fastmunit.section import Section, explain
from fastmunit.systems.parts.cuda_graph import Inputs
from fastmunit.systems.parts.forward_cache import Origin
from fastmunit.systems.parts.parameter_count import Estimate, public_networks, require_parameters
from fastmunit.systems.parts.stepper import Weights
from fastmunit.systems.parts.terms import Losses
from fastmunit.systems.translators import Translator


class SystemOptions(Section):
    """Keys of `options:` in a configuration. A system with keys of its own has a subclass."""


class SystemDefinition(nn.Module, ABC):
    """The attributes and methods that a system must or may define. `System` runs what they return."""

    config: Config
    options: Any

    name: ClassVar[str]
    recipe: ClassVar[str]
    """Name of the configuration file that `--system` uses without `--config`."""
    demo_recipe: ClassVar[str]
    """Name of the configuration file of `fastmunit demo`."""
    Options: ClassVar[type[SystemOptions]] = SystemOptions
    free_options: ClassVar[frozenset[str]] = frozenset()
    """Options that may change when a run is resumed: they affect neither the set of weights nor their meaning."""
    any_size: ClassVar[bool] = False
    """True if the networks accept images of any size that is a multiple of the generators' downsampling factor."""
    paired: ClassVar[bool] = False
    """True if x_a[i] and x_b[i] must belong together."""
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")
    term_names: tuple[str, ...]
    """Names of the losses without "loss_", in order: "gen_" or "dis_", then the name of a term or "total".

    Scripts for the public trainer log every attribute that has "loss" in its name, so this name must not have it.
    """
    weight_keys: ClassVar[tuple[str, ...]]
    """Keys of the loss weights in a configuration."""
    rows: tuple[str, ...] = ("input", "reconstruction", "translation")
    """Titles of the rows of a sample grid, in each direction."""

    @classmethod
    def check(cls, config: Config) -> Any:
        """Return the system's own options in `config`.

        Raises:
            ConfigError: If an option is unknown or invalid, or the system needs pairs and the data are unpaired.
        """
        if config.cuda_graph is True and config.precision == "float16":
            raise ConfigError(
                "cuda_graph does not work with precision float16, whose loss scale is kept on the host: use bfloat16."
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
    def check_training(cls, config: Config) -> None:
        """Raise ConfigError if a valid configuration cannot be used for training."""

    @classmethod
    def parameter_estimate(cls, config: Config, options: Any) -> Estimate:
        """Return the approximate number of parameters of the networks per group of keys that decide it."""
        return public_networks(config)

    @classmethod
    def batch_parts(cls, config: Config) -> int:
        """Return the number of equal parts in which a batch is computed or used. A process gets its share of each."""
        return config.micro_batches

    @classmethod
    @abstractmethod
    def build_generators(cls, config: Config) -> dict[str, nn.Module]:
        """Return new networks for `generators`. Their weights have no meaning yet."""

    @classmethod
    @abstractmethod
    def translator(cls, generators: Mapping[str, nn.Module], config: Config, direction: str) -> Translator:
        """Return a translator for one of `directions`."""

    @abstractmethod
    def build(self) -> None:
        """Create all networks as attributes, the generators by `build_generators`."""

    def initialize(self) -> None:
        """Set the initial weights of all networks."""
        self.apply(weights_init(self.config.init))

    @abstractmethod
    def generators(self) -> dict[str, nn.Module]:
        """Return the networks of gen_*.pt by their names in the file."""

    @abstractmethod
    def discriminators(self) -> dict[str, nn.Module]:
        """Return the networks of dis_*.pt by their names in the file."""

    def compiled_networks(self) -> list[nn.Module]:
        """Return the networks that `compile: true` compiles. The forward pass of each is one graph."""
        return [*self.generators().values(), *self.discriminators().values()]

    @abstractmethod
    def draws(self, x_a: Tensor, x_b: Tensor, weights: Weights) -> Inputs:
        """Draw the random codes of an iteration and return the tensors of its halves, in the order of the halves.

        A system whose discriminators learn from the images that the generators' half returns leaves out "dis", and
        has `discriminator_inputs`.
        """

    def discriminator_inputs(self, x_a: Tensor, x_b: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of the discriminators' half after the generators' half has returned `outputs`."""
        raise NotImplementedError(
            f"{type(self).__name__}.draws returned no tensors for 'dis': return them, or define discriminator_inputs."
        )

    def shared_forward(self, tensors: Sequence[Tensor]) -> Origin | None:
        """Return the origin of the forward pass that both halves begin with, given the tensors of one of them.

        None if they have nothing in common. Otherwise the generators' half must use the results of the other half,
        whose graph has been kept by a `ForwardCache`, if `Origin.same` holds.
        """
        return None

    def fill_pools(self) -> list[Tensor]:
        """Fill what keeps images for later iterations with images of the training's size, and return these images.

        A plan of the training's memory calls it. Most systems keep none.
        """
        return []

    @abstractmethod
    def discriminator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        """Return the discriminators' loss. Nothing in it may draw from the CPU or wait for the device."""

    @abstractmethod
    def generator_terms(self, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        """Return the generators' loss. Nothing in it may draw from the CPU or wait for the device."""

    @abstractmethod
    def sample(self, x_a: Tensor, x_b: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Return the rows of the sample grid: those of a2b, input first, then those of b2a if the system has it.

        Everything random comes from `generator`, which is on the CPU. None is torch's global generator.
        """
