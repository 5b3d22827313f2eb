"""What a foreign module is made of: the layers, in the order in which its forward runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fastmunit.nn.fused.norm_act_pad import Pad

NormKind = Literal["instance", "adain", "layer"]


@dataclass
class PadLayer:
    """A pad that `functional.fused_norm` can write."""

    pad: Pad


@dataclass
class NormLayer:
    """Instance norm, AdaIN that has its parameters assigned as attributes, or MUNIT's layer norm."""

    module: Any  # a foreign module with attributes of its own
    kind: NormKind


@dataclass
class ActivationLayer:
    """ReLU or LeakyReLU."""

    module: nn.Module


@dataclass
class ConvolutionLayer:
    """torch's own convolution, without hooks."""

    module: nn.Conv2d


@dataclass
class UpsampleLayer:
    """Nearest upsampling by 2."""

    module: nn.Module


@dataclass
class OtherLayer:
    """Anything else: it is called as it is."""

    module: nn.Module


@dataclass
class ResidualBegin:
    """What comes in here is added at the `ResidualEnd` that belongs to it."""


@dataclass
class ResidualEnd:
    """The sum of a residual block."""


Layer = (
    PadLayer | NormLayer | ActivationLayer | ConvolutionLayer | UpsampleLayer | OtherLayer | ResidualBegin | ResidualEnd
)

_PADS = {nn.ReflectionPad2d: "reflect", nn.ReplicationPad2d: "replicate", nn.ZeroPad2d: "zero"}
_LARGEST_PAD = 3
_RESIDUAL_BLOCKS = ("ResBlock", "ResnetBlock", "ResidualBlock")
_CHAINS = ("ResBlocks", "ContentEncoder", "StyleEncoder", "Decoder")
_CONV_BLOCK_PARTS = ("pad", "conv", "norm", "activation")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether something is to happen when this module is called, so that it must be."""
    return any(getattr(module, name) for name in _HOOKS)


def norm_kind(module: nn.Module) -> NormKind | None:
    """Which norm a module claims to be, by its type or by its class name and attributes; None for no such norm."""
    if type(module) is nn.InstanceNorm2d:
        return None if module.track_running_stats else "instance"
    if type(module).__module__.startswith("torch.") or not isinstance(getattr(module, "eps", None), float):
        return None
    if _is_called(module, ("AdaptiveInstanceNorm2d",)):
        has_parameters = any(name in module._parameters for name in ("weight", "bias"))
        known = isinstance(getattr(module, "num_features", None), int) and hasattr(module, "weight")
        return "adain" if known and hasattr(module, "bias") and not has_parameters else None
    if _is_called(module, ("LayerNorm",)):
        trained = {name for name, value in module._parameters.items() if value is not None}
        return "layer" if trained in ({"gamma", "beta"}, set()) else None
    return None


def is_container(module: nn.Module) -> bool:
    """Whether a module claims to run others one after another: a Sequential, or a block of the public code."""
    return _parts(module) is not None


def layers_of(module: nn.Module, keep: Callable[[nn.Module], bool]) -> list[Layer]:
    """The layers of a module in the order in which it should run them.

    Args:
        module: whose own hooks do not matter: they run around its forward.
        keep: whether a module inside must be called as it is. So are those with hooks.
    """
    kind = norm_kind(module)
    if kind is not None:
        return [NormLayer(module, kind)]
    parts = _parts(module)
    if parts is None:
        return [_leaf(module)]
    inner = [layer for part in parts for layer in _layers_inside(part, keep)]
    return [ResidualBegin(), *inner, ResidualEnd()] if _is_called(module, _RESIDUAL_BLOCKS) else inner


def passed_over(module: nn.Module, keep: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    """The modules inside of one that its layers stand for: those that `OtherLayer` does not call."""
    for part in _parts(module) or ():
        if keep(part) or has_hooks(part):
            continue
        if norm_kind(part) is not None or is_container(part) or not isinstance(_leaf(part), OtherLayer):
            yield part
            yield from passed_over(part, keep)


def _layers_inside(module: nn.Module, keep: Callable[[nn.Module], bool]) -> list[Layer]:
    return [OtherLayer(module)] if keep(module) or has_hooks(module) else layers_of(module, keep)


def _is_called(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether the class, or one that it is derived from, has one of these names."""
    return any(cls.__name__ in names for cls in type(module).__mro__)


def _parts(module: nn.Module) -> list[nn.Module] | None:
    """The modules that a container should run one after another; None for what is no container."""
    if isinstance(module, nn.Sequential):
        return list(module) if type(module).forward is nn.Sequential.forward else None
    children = module._modules
    if _is_called(module, ("Conv2dBlock",)) and {"pad", "conv"} <= set(children) <= set(_CONV_BLOCK_PARTS):
        parts = [getattr(module, name, None) for name in _CONV_BLOCK_PARTS]
        if all(part is None or isinstance(part, nn.Module) for part in parts):
            return [part for part in parts if part is not None]
    if _is_called(module, _RESIDUAL_BLOCKS + _CHAINS) and len(children) == 1:
        (only,) = children.values()
        return [only] if isinstance(only, nn.Sequential) else None
    return None


def _leaf(module: nn.Module) -> Layer:
    kind = type(module)
    if kind in _PADS:
        sides = set(module.padding)  # type: ignore[arg-type]
        pixels = next(iter(sides))
        if len(sides) == 1 and 0 <= pixels <= _LARGEST_PAD:
            return PadLayer(Pad(pixels, _PADS[kind]))  # type: ignore[arg-type]
    if kind is nn.ReLU or kind is nn.LeakyReLU:
        return ActivationLayer(module)
    if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
        return ConvolutionLayer(module)
    if isinstance(module, nn.Upsample) and kind is nn.Upsample and module.mode == "nearest" and module.size is None:
        factor = module.scale_factor
        if all(value == 2 for value in (factor if isinstance(factor, tuple) else (factor,))):
            return UpsampleLayer(module)
    return OtherLayer(module)
