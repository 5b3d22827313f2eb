"""Verifies that a chain of fused ops computes the same as a module's own forward, by running both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.acceleration.fused_forward import FusedForward, fused_forward_of
from fastmunit.acceleration.recognize import norm_kind
from fastmunit.nn.fused.chain import Chain
from fastmunit.nn.fused.layers import Convolution, Layer, Norm, Other, has_hooks
from fastmunit.nn.fused.steps import FUSED

Pick = Callable[[nn.Module, set[nn.Module]], tuple[Chain, list[nn.Module]]]

_SIZES = ((4, 5), (8, 9), (16, 18), (32, 36))
_TOLERANCE = 1e-9
_ANY_CHANNELS = 4


def difference(module: nn.Module, layers: Sequence[Layer], kept: Iterable[nn.Module], pick: Pick) -> str | None:
    """Compare a module with the chain that should replace it, on copies in float64 on the CPU.

    The comparison covers results, gradients of the input and of every parameter, buffers, and changes to the input, in
    train and eval mode, for random maps, weights and AdaIN parameters.

    Args:
        module: The module to replace.
        layers: Its layers.
        kept: Modules inside that are called unchanged.
        pick: Function of a copy of the module and the copies of `kept` that returns the chain, and the modules inside
            that the chain does not call.

    Returns:
        The reason why the two are not the same, or None if they are.
    """
    channels = _input_channels(layers)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs = _exact_copy(module)
            ours = copy.deepcopy(theirs)
            copies = dict(zip(module.modules(), ours.modules(), strict=True))
            chain, bypassed = pick(ours, {copies[inner] for inner in kept if inner in copies})
            originals = dict(zip(ours.modules(), theirs.modules(), strict=True))
            return _difference(theirs, chain, ours, [theirs, *(originals[inner] for inner in bypassed)], channels)
    except Exception as error:  # third-party code may raise anything on an unexpected input
        return f"it cannot be verified on a small random map: {type(error).__name__}: {_first_line(error)}"


_PLAIN = bool | int | float | str | tuple | torch.Size | torch.dtype | None
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def signature(module: nn.Module) -> Hashable:
    """Return a key that is equal for modules with the same classes, options, shapes and children.

    `difference` needs to run only once for them.
    """
    options = tuple(
        (name, value if isinstance(value, _PLAIN) else type(value) if isinstance(value, FusedForward) else id(value))
        for name, value in sorted(vars(module).items())
        if name not in _OF_EVERY_MODULE and not (isinstance(value, Tensor) and norm_kind(module) == "adain")
    )
    tensors = {**module._parameters, **module._buffers}
    shapes = tuple((name, None if tensor is None else tensor.shape) for name, tensor in tensors.items())
    children = tuple((name, None if child is None else signature(child)) for name, child in module._modules.items())
    return (type(module), options, shapes, children, id(module) if has_hooks(module) else None)


def _difference(
    theirs: nn.Module, chain: Chain, ours: nn.Module, bypassed: list[nn.Module], channels: int
) -> str | None:
    size = _smallest_size(theirs, channels)
    for training, n, (height, width) in ((True, 2, size), (False, 1, (size[0] + 4, size[1] + 4))):
        theirs.train(training), ours.train(training)
        x = torch.randn(n, channels, height, width, dtype=torch.float64)
        _assign_adain(theirs, ours, n)
        before = [_attributes(inner) for inner in bypassed]
        expected = _run(theirs, type(theirs).forward.__get__(theirs), x)
        changed = {name for inner, old in zip(bypassed, before, strict=True) for name in _changed(inner, old)}
        if changed:
            return f"its forward sets attributes ({', '.join(sorted(changed))})"
        actual = _run(ours, partial(chain.run, mode=FUSED), x)
        for what, value in expected.items():
            scale = max(float(value.abs().max()) if value.numel() else 0.0, 1e-300)
            if actual[what].shape != value.shape:
                return f"its own forward gives another {what}: {tuple(value.shape)}, not {tuple(actual[what].shape)}"
            error = float((actual[what] - value).abs().max()) / scale if value.numel() else 0.0
            if not error <= _TOLERANCE:
                return f"its own forward gives another {what} (by {error:.1e} of the largest)"
    return None


def _run(module: nn.Module, forward: Callable[[Tensor], Any], x: Tensor) -> dict[str, Tensor]:
    """Return everything that is observable of one forward and backward, by name."""
    torch.manual_seed(1)  # for dropout
    leaf = x.clone().requires_grad_()
    seen = leaf * 1
    y = forward(seen)
    if not isinstance(y, Tensor):
        raise TypeError(f"its result is a {type(y).__name__}, not a tensor")
    inputs = {"gradient of its input": leaf}
    inputs.update({f"gradient of {name}": p for name, p in module.named_parameters() if p.requires_grad})
    inputs.update({f"gradient of {name}": value for name, value in _adain_parameters(module)})
    weights = torch.randn(y.shape, dtype=y.dtype)
    gradients = torch.autograd.grad((y * weights).sum(), list(inputs.values()), allow_unused=True)
    values = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs.values(), gradients, strict=True)]
    flat = torch.cat([value.reshape(-1) for value in values])
    buffers = {f"buffer {name}": value.detach().clone().double() for name, value in module.named_buffers()}
    return {"result": y.detach(), "gradient": flat, "input afterwards": seen.detach(), **buffers}


def _exact_copy(module: nn.Module) -> nn.Module:
    """Return a copy in float64 on the CPU, with its own forward, random tensors near the module's, and no hooks."""
    memo: dict[int, Any] = {}
    for inner in module.modules():
        for value in vars(inner).values():
            if isinstance(value, Tensor):  # such as AdaIN parameters with a graph, which cannot be copied
                memo[id(value)] = _varied(value.detach().to("cpu", _exact(value.dtype), copy=True))
    twin: nn.Module = copy.deepcopy(module, memo).to("cpu", torch.float64)
    for inner in twin.modules():
        inner._forward_hooks.clear()
        inner._backward_hooks.clear()
        inner._backward_pre_hooks.clear()
        if fused_forward_of(inner) is not None:
            del inner.forward
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for buffer in twin.buffers():
            _varied(buffer)
    return twin


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def _varied(value: Tensor) -> Tensor:
    """Add random numbers, so that a forward that uses the value differs. They are positive: it may be a variance."""
    return value.add_(torch.rand_like(value), alpha=0.1) if value.is_floating_point() else value


def _adain_parameters(module: nn.Module) -> list[tuple[str, Tensor]]:
    norms = [(path, inner) for path, inner in module.named_modules() if norm_kind(inner) == "adain"]
    return [(f"{path}.{name}", getattr(inner, name)) for path, inner in norms for name in ("weight", "bias")]


def _assign_adain(theirs: nn.Module, ours: nn.Module, n: int) -> None:
    for norm, other in zip(theirs.modules(), ours.modules(), strict=True):
        if norm_kind(norm) == "adain":
            length = n * int(norm.num_features)  # type: ignore[arg-type]
            for name in ("weight", "bias"):
                value = torch.randn(length, dtype=torch.float64)
                for module in (norm, other):
                    setattr(module, name, value.clone().requires_grad_())


def _smallest_size(module: nn.Module, channels: int) -> tuple[int, int]:
    """Return the first of `_SIZES` that the module's own forward accepts."""
    twin = copy.deepcopy(module)
    for size in _SIZES:
        _assign_adain(twin, twin, 1)
        try:
            with torch.no_grad():
                type(twin).forward(twin, torch.randn(1, channels, *size, dtype=torch.float64))
            return size
        except Exception:
            if size == _SIZES[-1]:
                raise
    raise AssertionError("there are no sizes")


def _input_channels(layers: Sequence[Layer]) -> int:
    """Return the number of input channels, from the first layer that has one."""
    for layer in layers:
        match layer:
            case Convolution(module=nn.Conv2d() as conv):
                return conv.in_channels
            case Norm(module=norm):
                gamma = getattr(norm, "gamma", None)
                return int(getattr(norm, "num_features", _ANY_CHANNELS if gamma is None else len(gamma)))
            case Other(function=nn.Module() as other):
                for name in ("in_channels", "num_features"):
                    for inner in other.modules():
                        if isinstance(value := getattr(inner, name, None), int):
                            return value
    return _ANY_CHANNELS


def _attributes(module: nn.Module) -> dict[str, int]:
    return {name: id(value) for name, value in vars(module).items()}


def _changed(module: nn.Module, before: dict[str, int]) -> set[str]:
    after = _attributes(module)
    return {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
