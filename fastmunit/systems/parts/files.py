"""Saving, resuming and loading of systems."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.files import printable
from fastmunit.model_folder import tensors
from fastmunit.model_folder.load import find_folder
from fastmunit.nn.layers.init import without_values
from fastmunit.systems.parts import optimizer_state, pretrained, public_checkpoint, weights

if TYPE_CHECKING:
    from fastmunit.systems.base import System
    from fastmunit.systems.translators import Translator


def load_generators(
    system: type[System], path: str | os.PathLike[str], config: Config, device: str | torch.device
) -> dict[str, nn.Module]:
    """Build generators and load their weights; see `System.load_generators`."""
    system.check(config)
    networks = without_values(lambda: system.build_generators(config))
    if _in_model_folder(path):
        pretrained.load_generators(find_folder(path), networks)
    else:
        public_checkpoint.verify_weights(path)
        weights.load_networks(path, networks, "gen")
    return {name: network.to(device).eval() for name, network in networks.items()}


def load_translator(
    system: type[System],
    path: str | os.PathLike[str],
    config: Config,
    direction: str | None,
    device: str | torch.device,
) -> Translator:
    """Build a translator and load its weights; see `System.load_translator`."""
    if _in_model_folder(path):
        return pretrained.load_translator(find_folder(path), config, direction, device)
    generators = load_generators(system, path, config, device)
    return system.directed_translator(generators, config, direction or "a2b")


def _in_model_folder(path: str | os.PathLike[str]) -> bool:
    return Path(path).name == tensors.NAME


def save(
    system: System, folder: str | os.PathLike[str], iterations: int, resume_state: Mapping[str, Any] | None
) -> None:
    """Write a checkpoint; see `System.save`."""
    states = {
        "gen": {name: network.state_dict() for name, network in system.generators().items()},
        "dis": {name: network.state_dict() for name, network in system.discriminators().items()},
    }
    if system.averages is not None:
        states = {"ema": system.averages.state_dicts(system.generators()), **states}
    public_checkpoint.save_checkpoint(folder, iterations + 1, states, system.optimizers(), resume_state)


def resume(system: System, checkpoint_dir: str | os.PathLike[str], config: Config) -> int:
    """Load the newest complete checkpoint, with the schedule of `config`; see `System.resume`."""
    folder = Path(checkpoint_dir)
    iterations = public_checkpoint.latest(folder)
    if iterations is None:
        raise CheckpointError(
            f"{printable(folder)} has no gen_*.pt with its dis_*.pt: check the path or train without resume."
        )
    kinds = ["gen", "dis", "optimizer", *([] if system.averages is None else ["ema"])]
    public_checkpoint.verify(folder, iterations, kinds)
    networks = {"gen": system.generators(), "dis": system.discriminators()}
    states = {
        kind: weights.read_networks(public_checkpoint.checkpoint_path(folder, kind, iterations), networks[kind], kind)
        for kind in networks
    }
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    optimizers = system.optimizers()
    moments = optimizer_state.read_optimizers(folder / public_checkpoint.OPTIMIZER_FILE, optimizers, names)
    if system.averages is not None:
        system.averages.load(public_checkpoint.checkpoint_path(folder, "ema", iterations), system.generators())
    for kind, state_dicts in states.items():
        for name, state_dict in state_dicts.items():
            networks[kind][name].load_state_dict(state_dict)
    for name, state in moments.items():
        optimizers[name].load_state_dict(state)
    system.make_schedulers(config, iterations)
    system.steps_done = dict.fromkeys(optimizers, iterations)
    return iterations
