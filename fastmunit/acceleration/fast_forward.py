"""The forward that takes the place of a module's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastmunit import functional
from fastmunit.acceleration.chain import Chain
from fastmunit.acceleration.layers import has_hooks

_OPTIONS = (
    "padding",
    "padding_mode",
    "kernel_size",
    "stride",
    "dilation",
    "groups",
    "scale_factor",
    "size",
    "mode",
    "track_running_stats",
)


@dataclass
class _Bypassed:
    """A module that is not called any more, as it was when the chain was made."""

    module: nn.Module
    kind: type[nn.Module]
    children: dict[str, nn.Module | None]
    options: dict[str, Any]

    def is_as_it_was(self) -> bool:
        module = self.module
        attributes = vars(module)
        return (
            type(module) is self.kind
            and not has_hooks(module)
            and module._modules == self.children
            and not has_foreign_forward(module)
            and all(attributes.get(name) == value for name, value in self.options.items())
        )


class FastForward:
    """Runs a chain of fused ops; the module's own forward where the chain does not stand for it.

    That is so for inputs that the ops do not take, where the reference implementation is in use, and after a change to
    a module that is not called any more: a hook, another child, another option. Copies and pickles of it belong to the
    copy of the module.
    """

    def __init__(self, module: nn.Module, chain: Chain, bypassed: Iterable[nn.Module]) -> None:
        self.module = module
        self.chain = chain
        self.bypassed = [
            _Bypassed(inner, type(inner), dict(inner._modules), {k: v for k, v in vars(inner).items() if k in _OPTIONS})
            for inner in bypassed
        ]
        self.children = dict(module._modules)

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
            and self.module._modules == self.children
            and all(bypassed.is_as_it_was() for bypassed in self.bypassed)
        )


def fast_forward_of(module: nn.Module) -> FastForward | None:
    """The `FastForward` of a module that has been accelerated."""
    forward = vars(module).get("forward")
    return forward if isinstance(forward, FastForward) else None


def has_foreign_forward(module: nn.Module) -> bool:
    """Whether a forward that is not ours was set on the module itself."""
    return "forward" in vars(module) and fast_forward_of(module) is None
