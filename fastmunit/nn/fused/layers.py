"""Descriptions of layers, from which `fastmunit.nn.fused.chain.plan` builds a chain of fused ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from fastmunit.functional import PadMode

NormKind = Literal["instance", "adain", "layer"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Pad(NamedTuple):
    """Padding of a map: its width in pixels on each side, and its fill mode."""

    pixels: int = 0
    pad_mode: PadMode = "zero"


@dataclass
class Norm:
    """Instance norm, AdaIN or MUNIT's layer norm.

    Attributes:
        module: The norm layer. It has `eps`, and optionally `weight` and `bias` ("instance"), or `gamma` and `beta`
            ("layer").
        kind: "instance", "adain" or "layer".
        style: (weight, bias) of AdaIN, (N, C) each. If None, they are attributes of the module, (N * C,) each.
    """

    module: Any
    kind: NormKind
    style: tuple[Tensor, Tensor] | None = None

    def style_of(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return (weight, bias) of AdaIN, (N, C) each."""
        return self.style or (
            self.module.weight.reshape(batch_size, -1),
            self.module.bias.reshape(batch_size, -1),
        )

    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the weight and bias that the module learns. Those of AdaIN come from a style."""
        if self.kind == "adain":
            return None, None
        names = ("gamma", "beta") if self.kind == "layer" else ("weight", "bias")
        weight, bias = (getattr(self.module, name, None) for name in names)
        return weight, bias


@dataclass
class Activation:
    """ReLU or LeakyReLU."""

    module: nn.ReLU | nn.LeakyReLU


@dataclass
class Convolution:
    """A convolution. It is called as a module unless it is plain, see `is_plain`."""

    module: nn.Module


@dataclass
class Upsample:
    """Nearest-neighbor upsampling by 2."""

    module: nn.Module


@dataclass
class AveragePool:
    """Average pooling over 2x2 pixels, directly after a 3x3 convolution with padding 1."""


@dataclass
class Other:
    """Any other layer. It is called unchanged."""

    function: Callable[[Tensor], Tensor]


@dataclass
class ResidualStart:
    """Start of a residual block. Its input is added at the matching `ResidualEnd`."""


@dataclass
class ResidualEnd:
    """The sum at the end of a residual block."""


Layer = Pad | Norm | Activation | Convolution | Upsample | AveragePool | Other | ResidualStart | ResidualEnd


def has_hooks(module: nn.Module) -> bool:
    """Return True if hooks are registered on a module, so that it must be called for them to run."""
    return any(getattr(module, name) for name in _HOOKS)


def is_nearest_upsampling(module: nn.Module) -> bool:
    """Return True if a module is torch's nearest-neighbor upsampling by 2."""
    if not isinstance(module, nn.Upsample) or module.mode != "nearest" or module.size is not None:
        return False
    factor = module.scale_factor
    return all(value == 2 for value in (factor if isinstance(factor, tuple) else (factor,)))


def is_global_average(function: Callable[[Tensor], Tensor]) -> bool:
    """Return True if a layer is torch's average over all pixels, with nothing attached: it can run uncalled."""
    if type(function) is not nn.AdaptiveAvgPool2d or has_hooks(function) or "forward" in vars(function):
        return False
    return function.output_size in (1, (1, 1))


def is_plain(conv: nn.Module) -> bool:
    """Return True if `conv` is torch's own Conv2d or ConvTranspose2d without hooks: it can run without being called."""
    return type(conv) in (nn.Conv2d, nn.ConvTranspose2d) and not has_hooks(conv)
