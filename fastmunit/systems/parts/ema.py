"""Exponential moving averages (EMA) of the generators' weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastmunit.systems.parts import weights as weight_files


class GeneratorEMA:
    """average ← decay · average + (1 - decay) · weight, for every floating-point tensor in the networks' states.

    The averages start at the weights of the first update. Source: Yazici et al. 2019, "The unusual effectiveness of
    averaging in GAN training". A warm-up lowers the decay of iteration t to at most (1 + t) / (10 + t), so that the
    average forgets the initial weights early. Source: the argument num_updates of TensorFlow's
    `tf.train.ExponentialMovingAverage`.

    Args:
        decay: Decay in (0, 1). 0.999 averages over about a thousand iterations.
        warmup: Use the warm-up.
    """

    def __init__(self, decay: float, *, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self._averages: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, generators: Mapping[str, nn.Module], iteration: int) -> None:
        """Move the averages towards the weights of the generators, which are given by name, after an iteration."""
        weights = _tensors(generators)
        if self._averages is None:
            self._averages = [weight.clone() for weight in weights]
        else:
            self._averages = [average.to(weight) for average, weight in zip(self._averages, weights, strict=True)]
            torch._foreach_lerp_(self._averages, weights, 1 - self._decay_in(iteration))

    def _decay_in(self, iteration: int) -> float:
        return min(self.decay, (1 + iteration) / (10 + iteration)) if self.warmup else self.decay

    def values(self, generators: Mapping[str, nn.Module]) -> dict[int, Tensor]:
        """Return the average of each parameter and buffer by its id(). Before the first update there are none."""
        if self._averages is None:
            return {}
        return {id(weight): average for weight, average in zip(_tensors(generators), self._averages, strict=True)}

    def state_dicts(self, generators: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
        """Return state dicts of the networks with the averages instead of the weights, by name."""
        averages = self.values(generators)
        return {
            name: {
                key: averages.get(id(value), value).to(value).detach().clone()
                for key, value in network.state_dict(keep_vars=True).items()
            }
            for name, network in generators.items()
        }

    def load(self, path: str | os.PathLike[str], generators: Mapping[str, nn.Module]) -> None:
        """Read the averages from an ema_*.pt. If the file does not exist, start over.

        Raises:
            CheckpointError: If the file does not fit the networks. The averages are unchanged then.
        """
        if not Path(path).is_file():
            self._averages = None
            return
        weights = _tensors(generators)
        own = [weight.detach().clone() for weight in weights]
        weight_files.load_networks(path, generators, "ema")
        with torch.no_grad():
            self._averages = [weight.detach().clone() for weight in weights]
            torch._foreach_copy_(weights, own)


def _tensors(generators: Mapping[str, nn.Module]) -> list[Tensor]:
    """Return the floating-point parameters and buffers of the networks, each once."""
    tensors = {
        id(tensor): tensor
        for network in generators.values()
        for tensor in (*network.parameters(), *network.buffers())
        if tensor.is_floating_point()
    }
    return list(tensors.values())
