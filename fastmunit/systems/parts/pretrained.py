"""Model folders of systems and translators: `save_pretrained`, `from_pretrained`, `push_to_hub`."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.files import printable
from fastmunit.model_folder import hub, tensors
from fastmunit.model_folder.about import About
from fastmunit.model_folder.load import ModelFolder, find_folder
from fastmunit.model_folder.save import Model, write_folder
from fastmunit.model_folder.tensors import WeightType
from fastmunit.nn.layers.init import allocate
from fastmunit.systems import registry
from fastmunit.systems.parts import weights

if TYPE_CHECKING:
    from fastmunit.systems.base import System
    from fastmunit.systems.translators import Translator


class Shareable(ABC):
    """The methods that write a model folder or upload it.

    Attributes:
        about: Facts about the model, for its card, if any are known.
    """

    about: About | None = None

    @abstractmethod
    def _as_model(self) -> Model:
        """Return what a model folder holds, without facts for the card."""

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, about: About | None = None, dtype: WeightType | None = None
    ) -> None:
        """Write a model folder: model.safetensors, config.json and README.md, a model card.

        The configuration is written without paths and data_module. A system's folder holds all networks and averages,
        but no optimizers; a translator's holds only the networks that translate in its direction.

        Args:
            folder: New or empty folder, or an earlier model folder, which is replaced.
            about: Facts for the card, which replace those of `self.about` one by one.
            dtype: Type to store the weights in. None keeps theirs. "float16" halves the file.

        Raises:
            FastmunitError: If the folder holds other files or cannot be written, or a weight is NaN or infinite.
        """
        write_folder(folder, self._documented(about), dtype=dtype)

    def push_to_hub(
        self,
        name: str,
        *,
        about: About | None = None,
        dtype: WeightType | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload a model folder to the Hugging Face Hub (`pip install "fastmunit[hub]"`). Return its URL.

        Args:
            name: OWNER/NAME of the repository, which is created if it is missing.
            about: Facts for the card; see `save_pretrained`.
            dtype: Type to store the weights in; see `save_pretrained`.
            private: Create a private repository.
            token: Access token. None uses HF_TOKEN or the stored login.

        Raises:
            FastmunitError: If huggingface_hub is missing, the upload fails, or a weight is NaN or infinite.
        """
        with tempfile.TemporaryDirectory() as folder:
            write_folder(folder, self._documented(about), dtype=dtype, name=name)
            return hub.upload(folder, name, private=private, token=token, message="Upload a model by fastmunit")

    def _documented(self, about: About | None) -> Model:
        model = self._as_model()
        model.about = (self.about or About()).with_changes(about)
        return model


def model_of_system(system: System) -> Model:
    """Return all networks of a system, with the averages of its generators if it has any."""
    states = {"gen": _states(system.generators()), "dis": _states(system.discriminators())}
    averages = {} if system.averages is None else system.averages.values(system.generators())
    if averages:
        states["ema"] = {
            name: {key: averages.get(id(value), value) for key, value in state.items()}
            for name, state in states["gen"].items()
        }
    return Model("system", states, system.config, system.directions, _recipes(type(system)))


def model_of_generators(system: type[System], generators: Mapping[str, nn.Module], config: Config) -> Model:
    """Return the generators of a system, which translate in all directions."""
    return Model("generators", {"gen": _states(generators)}, config, system.directions, _recipes(system))


def model_of_translator(translator: Translator) -> Model:
    """Return the networks of a translator.

    Raises:
        CheckpointError: If no system has built it.
    """
    if translator.config is None or translator.direction is None:
        raise CheckpointError(
            "this translator has no configuration, so it cannot be saved: use one of fastmunit.load_translator or of "
            "a system's evaluation_translator."
        )
    system = registry.system_of(translator.config)
    states = {"gen": _states(translator.networks())}
    return Model("translator", states, translator.config, (translator.direction,), _recipes(system))


def load_system(cls: type[System], name: str | os.PathLike[str], options: Mapping[str, Any]) -> System:
    """Load a system from a model folder; see `System.from_pretrained`."""
    folder = find_folder(name)
    system = registry.system_of(folder.config)
    if not issubclass(system, cls):
        raise CheckpointError(
            f"{printable(folder.path)} holds a model of system {folder.config.system!r}, not {cls.name!r}: use "
            f"fastmunit.{system.__name__}.from_pretrained."
        )
    if folder.header.contents != "system":
        raise CheckpointError(
            f"{printable(folder.path)} holds only networks that translate, no discriminators: use "
            "fastmunit.load_translator."
        )
    loaded = system(folder.config, **options)
    weights.load_networks(folder.weights, loaded.generators(), "gen")
    weights.load_networks(folder.weights, loaded.discriminators(), "dis")
    if loaded.averages is not None and "ema" in tensors.kinds(folder.weights):
        loaded.averages.load(folder.weights, loaded.generators())
    loaded.about = folder.about
    return loaded


def load_generators(folder: ModelFolder, networks: Mapping[str, nn.Module]) -> None:
    """Load generators as they translate: the averaged weights if there are any.

    Raises:
        CheckpointError: If the folder is that of a translator, or its weights do not fit.
    """
    if folder.header.contents == "translator":
        raise CheckpointError(
            f"{printable(folder.path)} holds only the parts that translate {folder.header.direction}, not whole "
            "generators: use fastmunit.load_translator."
        )
    weights.load_networks(folder.weights, networks, "ema" if "ema" in tensors.kinds(folder.weights) else "gen")


def load_translator(
    folder: ModelFolder, config: Config, direction: str | None, device: str | torch.device
) -> Translator:
    """Load a translator from a model folder; see `Translator.from_pretrained`. `config` must have its networks."""
    own = folder.header.direction
    system = registry.system_of(config)
    if own is None:
        generators = system.load_generators(folder.weights, config, device)
        translator = system.directed_translator(generators, config, direction or "a2b")
    else:
        if direction not in (None, own):
            raise CheckpointError(
                f"{printable(folder.path)} translates {own} only, not {direction}: leave the direction out, or get a "
                "model of the other direction."
            )
        system.check(config)
        with torch.device("meta"):  # networks of the other direction stay there and take no memory
            generators = system.build_generators(config)
        parts = system.directed_translator(generators, config, own).networks()
        allocate(parts.values())
        weights.load_networks(folder.weights, parts, "gen")
        for part in parts.values():
            part.to(device)
        for network in generators.values():
            network.eval()
        translator = system.directed_translator(generators, config, own)
    translator.about = folder.about
    return translator


def _recipes(system: type[System]) -> tuple[str, ...]:
    """Return the names of a system's configurations. One of a third party may have none."""
    return tuple(getattr(system, name) for name in ("recipe", "demo_recipe") if hasattr(system, name))


def _states(networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of networks themselves, so that shared ones are recognized, without those of no effect."""
    return {
        name: {
            key: value for key, value in network.state_dict(keep_vars=True).items() if not weights.is_unused(name, key)
        }
        for name, network in networks.items()
    }
