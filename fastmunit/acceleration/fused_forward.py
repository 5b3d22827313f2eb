"""The forward that takes the place of a module's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from fastmunit import functional
from fastmunit.acceleration.chain import Chain
from fastmunit.acceleration.recognize import has_hooks

# What a chain reads at each call (AdaIN parameters, the forwards of modules inside), and what all modules have.
_NOT_OPTIONS = frozenset(vars(nn.Module())) | {"weight", "bias", "forward"}


class _AsItWas:
    """A module as it was when the chain was made: its class, its children and its options."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kind = type(module)
        self.children = dict(module._modules)
        self.options = {
            name: value
            for name, value in vars(module).items()
            if name not in _NOT_OPTIONS and not isinstance(value, Tensor)
        }

    def holds(self) -> bool:
        """Whether it still is so. Attributes that are tensors are known not to matter: see `check.py`."""
        module, attributes = self.module, vars(self.module)
        return (
            type(module) is self.kind
            and module._modules == self.children
            and all(
                (now := attributes.get(name)) is value or _is_equal(now, value) for name, value in self.options.items()
            )
        )


def _is_equal(value: Any, old: Any) -> bool:
    """For what has plain values; two other objects are two."""
    return type(value) is type(old) and isinstance(old, int | float | str | tuple) and bool(value == old)


class FastForward:
    """Runs a chain of fused ops; the module's own forward where the chain does not stand for it.

    That is so for inputs that the ops do not take, where the reference implementation is in use, and after a change to
    the module or to one inside that is not called any more: another child, another value of an attribute, a hook
    inside. Copies and pickles of it belong to the copy of the module.
    """

    def __init__(self, module: nn.Module, chain: Chain, bypassed: Iterable[nn.Module]) -> None:
        self.module = module
        self.chain = chain
        self.itself = _AsItWas(module)
        self.bypassed = [_AsItWas(inner) for inner in bypassed]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the chain on the one argument, or the own forward on whatever else there is."""
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and self.stands_for_the_module(args[0]):
            return self.chain.run(args[0])
        return type(self.module).forward(self.module, *args, **kwargs)

    def stands_for_the_module(self, x: Tensor) -> bool:
        """Whether the chain may run on x in place of the module's own forward."""
        return (
            self.chain.can_run(x)
            and functional.implementation_of("fused_norm", x) != "reference"
            and self.itself.holds()
            and all(inner.holds() and not _has_own_say(inner.module) for inner in self.bypassed)
        )


def fast_forward_of(module: nn.Module) -> FastForward | None:
    """The `FastForward` of a module that has been accelerated."""
    forward = vars(module).get("forward")
    return forward if isinstance(forward, FastForward) else None


def has_foreign_forward(module: nn.Module) -> bool:
    """Whether a forward that is not ours was set on the module itself."""
    return "forward" in vars(module) and fast_forward_of(module) is None


def _has_own_say(module: nn.Module) -> bool:
    """Whether something was put on a module that only a call of it runs."""
    return has_hooks(module) or has_foreign_forward(module)
