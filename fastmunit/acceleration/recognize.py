"""Recognizes the layers of a third-party module, in the order in which its forward should run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from fastmunit.nn.fused.layers import (
    Activation,
    Convolution,
    Layer,
    Norm,
    NormKind,
    Other,
    Pad,
    ResidualEnd,
    ResidualStart,
    Upsample,
    has_hooks,
    is_nearest_upsampling,
)

_PADS = {nn.ReflectionPad2d: "reflect", nn.ReplicationPad2d: "replicate", nn.ZeroPad2d: "zero"}
_MAX_PAD = 3
_RESIDUAL_BLOCKS = ("ResBlock", "ResnetBlock", "ResidualBlock")
_CHAINS = ("ResBlocks", "ContentEncoder", "StyleEncoder", "Decoder")
_CONV_BLOCK_PARTS = ("pad", "conv", "norm", "activation")


def norm_kind(module: nn.Module) -> NormKind | None:
    """Return the kind of norm that a module seems to be, by type or by class name and attributes; None if no norm."""
    if type(module) is nn.InstanceNorm2d:
        return None if module.track_running_stats else "instance"
    if type(module).__module__.startswith("torch.") or not isinstance(getattr(module, "eps", None), float):
        return None
    if _has_name(module, ("AdaptiveInstanceNorm2d",)):
        has_parameters = any(name in module._parameters for name in ("weight", "bias"))
        known = isinstance(getattr(module, "num_features", None), int) and hasattr(module, "weight")
        return "adain" if known and hasattr(module, "bias") and not has_parameters else None
    if _has_name(module, ("LayerNorm",)):
        trained = {name for name, value in module._parameters.items() if value is not None}
        return "layer" if trained in ({"gamma", "beta"}, set()) else None
    return None


def is_container(module: nn.Module) -> bool:
    """Return True if a module seems to run others in sequence: a Sequential, or a block of the public code."""
    return _parts(module) is not None


def layers_of(module: nn.Module, keep: Callable[[nn.Module], bool]) -> list[Layer]:
    """Return the layers of a module in the order in which it should run them.

    Args:
        module: The module. Its own hooks are ignored, because they run around its forward.
        keep: Function that returns True if a module inside must be called unchanged. Modules with hooks always are.
    """
    kind = norm_kind(module)
    if kind is not None:
        return [Norm(module, kind)]
    parts = _parts(module)
    if parts is None:
        return [_leaf(module)]
    inner = [layer for part in parts for layer in _layers_inside(part, keep)]
    return [ResidualStart(), *inner, ResidualEnd()] if _has_name(module, _RESIDUAL_BLOCKS) else inner


def bypassed_modules(module: nn.Module, keep: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    """Iterate over the modules inside a module that its layers replace, so that they are no longer called."""
    for part in _parts(module) or ():
        if keep(part) or has_hooks(part):
            continue
        if norm_kind(part) is not None or is_container(part) or not isinstance(_leaf(part), Other):
            yield part
            yield from bypassed_modules(part, keep)


def _layers_inside(module: nn.Module, keep: Callable[[nn.Module], bool]) -> list[Layer]:
    return [Other(module)] if keep(module) or has_hooks(module) else layers_of(module, keep)


def _has_name(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Return True if the module's class, or one of its base classes, has one of these names."""
    return any(cls.__name__ in names for cls in type(module).__mro__)


def _parts(module: nn.Module) -> list[nn.Module] | None:
    """Return the modules that a container should run in sequence; None if the module is no container."""
    if isinstance(module, nn.Sequential):
        return list(module) if type(module).forward is nn.Sequential.forward else None
    children = module._modules
    if _has_name(module, ("Conv2dBlock",)) and {"pad", "conv"} <= set(children) <= set(_CONV_BLOCK_PARTS):
        parts = [getattr(module, name, None) for name in _CONV_BLOCK_PARTS]
        if all(part is None or isinstance(part, nn.Module) for part in parts):
            return [part for part in parts if part is not None]
    if _has_name(module, _RESIDUAL_BLOCKS + _CHAINS) and len(children) == 1:
        (only,) = children.values()
        return [only] if isinstance(only, nn.Sequential) else None
    return None


def _leaf(module: nn.Module) -> Layer:
    kind = type(module)
    if kind in _PADS:
        sides = set(module.padding)  # type: ignore[arg-type]
        pixels = next(iter(sides))
        if len(sides) == 1 and 0 <= pixels <= _MAX_PAD:
            return Pad(pixels, _PADS[kind])  # type: ignore[arg-type]
    if isinstance(module, nn.ReLU | nn.LeakyReLU) and kind in (nn.ReLU, nn.LeakyReLU):
        return Activation(module)
    if kind is nn.Conv2d:
        return Convolution(module)
    if kind is nn.Upsample and is_nearest_upsampling(module):
        return Upsample(module)
    return Other(module)
