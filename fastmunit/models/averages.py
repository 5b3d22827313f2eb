"""Exponential moving averages of generators: smoother translations than those of the last weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fastmunit.models import checkpoint


class GeneratorAverages:
    """average ← decay · average + (1 - decay) · weight, for every floating-point tensor of the networks' states.

    Starts at the weights of the first update. Source: Yazici et al. 2019, "The unusual effectiveness of averaging in
    GAN training".

    Args:
        generators: networks by name.
        decay: in (0, 1); 0.999 averages over about a thousand iterations.
    """

    def __init__(self, generators: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self._averages: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, generators: Mapping[str, nn.Module]) -> None:
        """Move the averages towards the weights."""
        weights = _tensors(generators)
        if self._averages is None:
            self._averages = [weight.clone() for weight in weights]
        else:
            torch._foreach_lerp_(self._averages, weights, 1 - self.decay)

    @contextmanager
    def applied(self, generators: Mapping[str, nn.Module]) -> Iterator[None]:
        """Let the networks compute with the averages inside the block; nothing before the first update."""
        if self._averages is None:
            yield
            return
        weights = _tensors(generators)
        kept = [weight.data for weight in weights]
        try:
            for weight, average in zip(weights, self._averages, strict=True):
                weight.data = average
            yield
        finally:
            for weight, own in zip(weights, kept, strict=True):
                weight.data = own

    def state_dicts(self, generators: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
        """State dicts of the networks with the averages in them, by name."""
        with self.applied(generators):
            return {
                name: {key: value.detach().clone() for key, value in network.state_dict().items()}
                for name, network in generators.items()
            }

    def load(self, path: str | os.PathLike[str], generators: Mapping[str, nn.Module]) -> None:
        """Read the averages from an ema_*.pt; where there is none, they start anew.

        Raises:
            CheckpointError: the file does not fit the networks.
        """
        self._averages = None
        if not Path(path).is_file():
            return
        weights = _tensors(generators)
        own = [weight.detach().clone() for weight in weights]
        checkpoint.load_networks(path, generators, "ema")
        with torch.no_grad():
            self._averages = [weight.detach().clone() for weight in weights]
            torch._foreach_copy_(weights, own)


def _tensors(generators: Mapping[str, nn.Module]) -> list[Tensor]:
    """Floating-point parameters and buffers of the networks, each once."""
    found = {
        id(tensor): tensor
        for network in generators.values()
        for tensor in (*network.parameters(), *network.buffers())
        if tensor.is_floating_point()
    }
    return list(found.values())
