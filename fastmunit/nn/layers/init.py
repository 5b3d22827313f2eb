"""Weight initialization by name, with random draws in the order of the public trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import init

_GAIN = math.sqrt(2)
_DRAWS: dict[str, Callable[[float], Callable[[Tensor], object] | None]] = {
    "gaussian": lambda gain: partial(init.normal_, mean=0.0, std=0.02),
    "xavier": lambda gain: partial(init.xavier_normal_, gain=gain),
    "kaiming": lambda gain: partial(init.kaiming_normal_, a=0, mode="fan_in"),
    "orthogonal": lambda gain: partial(init.orthogonal_, gain=gain),
    "default": lambda gain: None,
}


def weights_init(init_type: str, gain: float = _GAIN) -> Callable[[nn.Module], None]:
    """Return a function for `module.apply` that initializes convolutions and linear layers.

    Biases are set to 0, with "default", too. Layers under spectral norm have no `weight` and are not initialized, as in
    the public trainer.

    Args:
        init_type: "gaussian" (N(0, 0.02)), "xavier" (Glorot normal times gain), "kaiming" (He normal, fan in),
            "orthogonal" (times gain), or "default" (torch's own initialization).
        gain: Factor of "xavier" and "orthogonal".

    Raises:
        ValueError: If the name is unknown.
    """
    if init_type not in _DRAWS:
        raise ValueError(f"unknown init {init_type!r}: use one of {', '.join(_DRAWS)}.")
    draw = _DRAWS[init_type](gain)

    def initialize(module: nn.Module) -> None:
        weight = getattr(module, "weight", None)
        if type(module).__name__.startswith(("Conv", "Linear")) and isinstance(weight, Tensor):
            if draw is not None:
                draw(weight)
            if isinstance(module.bias, Tensor):
                init.zeros_(module.bias)

    return initialize


def without_values(build: Callable[[], dict[str, nn.Module]]) -> dict[str, nn.Module]:
    """Build networks on the CPU with uninitialized parameters, to be loaded later.

    No random numbers are drawn, so other threads that train keep their random stream. `torch.random.fork_rng` would
    take draws out of it. Buffers have the initial values of norms: variances are 1, all others are 0.

    Args:
        build: Function that returns the networks by name.
    """
    with torch.device("meta"):
        networks = build()
    allocate(networks.values())
    return networks


def allocate(networks: Iterable[nn.Module]) -> None:
    """Give networks on "meta" uninitialized parameters on the CPU, and buffers with the initial values of norms."""
    networks = list(networks)
    for network in networks:
        network.to_empty(device="cpu")
    for network in networks:
        for name, buffer in network.named_buffers():
            buffer.fill_(1 if name.rpartition(".")[2] == "running_var" else 0)
