"""Weight initialisation by name, drawing in the order of the public trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """Return a function for `module.apply` that initialises convolutions and linear layers.

    gaussian: N(0, 0.02); xavier: Glorot normal times gain; kaiming: He normal, fan in; orthogonal times gain;
    default: torch's own. Biases become 0, under "default" too. Layers under spectral norm have no `weight` and are left
    alone, as the public trainer leaves them. Raises ValueError on another name.
    """
    if init_type not in _DRAWS:
        raise ValueError(f"unknown init {init_type!r}: use one of {', '.join(_DRAWS)}.")
    draw = _DRAWS[init_type](gain)

    def initialise(module: nn.Module) -> None:
        weight = getattr(module, "weight", None)
        if type(module).__name__.startswith(("Conv", "Linear")) and isinstance(weight, Tensor):
            if draw is not None:
                draw(weight)
            if isinstance(module.bias, Tensor):
                init.zeros_(module.bias)

    return initialise


def without_values(build: Callable[[], dict[str, nn.Module]]) -> dict[str, nn.Module]:
    """Return new networks on the CPU whose parameters are still to be loaded: they hold arbitrary values.

    Nothing is drawn: threads that train keep their random stream, which `torch.random.fork_rng` would take draws out
    of. Buffers have the values that norms start with: variances are 1, all others 0.

    Args:
        build: Makes the networks by name.
    """
    with torch.device("meta"):
        networks = build()
    for network in networks.values():
        network.to_empty(device="cpu")
    for network in networks.values():
        for name, buffer in network.named_buffers():
            buffer.fill_(1 if name.rpartition(".")[2] == "running_var" else 0)
    return networks
