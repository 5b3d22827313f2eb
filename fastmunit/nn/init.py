"""Weight initialisation by name, drawing in the order of the public trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import init

_DRAWS: dict[str, Callable[[Tensor], object] | None] = {
    "gaussian": partial(init.normal_, mean=0.0, std=0.02),
    "xavier": partial(init.xavier_normal_, gain=math.sqrt(2)),
    "kaiming": partial(init.kaiming_normal_, a=0, mode="fan_in"),
    "orthogonal": partial(init.orthogonal_, gain=math.sqrt(2)),
    "default": None,
}


def weights_init(init_type: str) -> Callable[[nn.Module], None]:
    """Return a function for `module.apply` that initialises convolutions and linear layers.

    gaussian: N(0, 0.02); xavier: Glorot normal, gain √2; kaiming: He normal, fan in; orthogonal: gain √2;
    default: torch's own. Biases become 0, under "default" too. Layers under spectral norm have no `weight` and are left
    alone, as the public trainer leaves them. Raises ValueError on another name.
    """
    if init_type not in _DRAWS:
        raise ValueError(f"unknown init {init_type!r}: use one of {', '.join(_DRAWS)}.")
    draw = _DRAWS[init_type]

    def initialise(module: nn.Module) -> None:
        weight = getattr(module, "weight", None)
        if type(module).__name__.startswith(("Conv", "Linear")) and isinstance(weight, Tensor):
            if draw is not None:
                draw(weight)
            if isinstance(module.bias, Tensor):
                init.zeros_(module.bias)

    return initialise
