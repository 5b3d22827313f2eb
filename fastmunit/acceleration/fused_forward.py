"""The forward that replaces a module's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit.nn.fused.chain import Chain
from fastmunit.nn.fused.layers import Norm, has_hooks
from fastmunit.nn.fused.steps import FUSED, Write, mode_of

# Attributes that a chain reads in each call (AdaIN parameters, forwards of modules inside), and what every module has.
_NOT_OPTIONS = frozenset(vars(nn.Module())) | {"weight", "bias", "forward"}


class _ModuleSnapshot:
    """Class, children and options of a module at the time when its chain was planned."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kind = type(module)
        self.children = dict(module._modules)
        self.options = {
            name: value
            for name, value in vars(module).items()
            if name not in _NOT_OPTIONS and not isinstance(value, Tensor)
        }

    def unchanged(self) -> bool:
        """Return True if the module is still the same. Tensor attributes are not compared: see `verify.py`."""
        module, attributes = self.module, vars(self.module)
        return (
            type(module) is self.kind
            and module._modules == self.children
            and all(
                (now := attributes.get(name)) is value or _is_equal(now, value) for name, value in self.options.items()
            )
        )


def _is_equal(value: Any, old: Any) -> bool:
    """Compare plain values. Other objects are equal only if they are identical."""
    return type(value) is type(old) and isinstance(old, int | float | str | tuple) and bool(value == old)


class FusedForward:
    """A forward that runs a chain of fused ops, or the module's original forward if the chain no longer matches it.

    The original forward runs for inputs that the ops do not support, when the reference implementation is in use, and
    after a change to the module or to a module inside that is bypassed: another child, another value of an attribute,
    a hook inside. A copy or pickle belongs to the copy of the module.
    """

    def __init__(self, module: nn.Module, chain: Chain, bypassed: Iterable[nn.Module]) -> None:
        self.module = module
        self.chain = chain
        self.snapshot = _ModuleSnapshot(module)
        self.bypassed = [_ModuleSnapshot(inner) for inner in bypassed]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the chain on a single tensor argument if it is valid, else the original forward."""
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and self.is_valid_for(args[0]):
            return self.chain.run(args[0], FUSED)
        return type(self.module).forward(self.module, *args, **kwargs)

    def is_valid_for(self, x: Tensor) -> bool:
        """Return True if the chain computes on x what the module's original forward computes."""
        return (
            x.dim() == 4
            and x.is_floating_point()
            and not torch.jit.is_tracing()
            and all(_is_assigned(write.norm, len(x)) for write in self.chain.of(Write) if write.norm is not None)
            and mode_of(x) == FUSED
            and self.snapshot.unchanged()
            and all(inner.unchanged() and not _has_hooks_or_patched_forward(inner.module) for inner in self.bypassed)
        )


def _is_assigned(norm: Norm, batch_size: int) -> bool:
    """Return True unless the norm is an AdaIN without parameters for a batch of this size."""
    if norm.kind != "adain":
        return True
    expected = (batch_size * norm.module.num_features,)
    return all(
        isinstance(value, Tensor) and value.shape == expected for value in (norm.module.weight, norm.module.bias)
    )


def fused_forward_of(module: nn.Module) -> FusedForward | None:
    """Return the `FusedForward` of an accelerated module, or None."""
    forward = vars(module).get("forward")
    return forward if isinstance(forward, FusedForward) else None


def has_patched_forward(module: nn.Module) -> bool:
    """Return True if someone else has set a forward on the module instance."""
    return "forward" in vars(module) and fused_forward_of(module) is None


def _has_hooks_or_patched_forward(module: nn.Module) -> bool:
    return has_hooks(module) or has_patched_forward(module)
