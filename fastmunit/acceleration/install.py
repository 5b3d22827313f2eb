"""`fastmunit.accelerate`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import nn

from fastmunit.acceleration.chain import Chain, chain_of
from fastmunit.acceleration.fused_forward import FastForward, fast_forward_of, has_foreign_forward
from fastmunit.acceleration.recognize import has_hooks, is_container, layers_of, norm_kind, passed_over
from fastmunit.acceleration.report import Entry, Report
from fastmunit.acceleration.verify import difference, signature

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)
_NAMES = ("AdaptiveInstanceNorm2d", "InstanceNorm2d", "LayerNorm", "Conv2dBlock", "ResBlock", "ResnetBlock")


def accelerate(module: object) -> Report:
    """Replace the hot paths of a network that is not ours by fused ops, in place.

    It takes models in the structure of the public MUNIT and UNIT code (Conv2dBlock, ResBlock, ContentEncoder, Decoder,
    AdaptiveInstanceNorm2d with assigned weight and bias, LayerNorm …), a single norm, and any module that has instance
    norms, AdaIN, or a Sequential of pads, convolutions, instance norms and (leaky) ReLUs as CycleGAN's. What is
    replaced is the forward of modules that have been recognised by class name and structure **and** whose own forward
    was found to agree with the fused one: both are run on copies in float64, with random weights, and results and
    gradients compared. Everything else stays and is in the report with the reason.

    Outputs and gradients are the same but for rounding. Modules, parameters, state_dict and optimizers are those that
    were there; copies and pickles are accelerated too. The bias of a convolution whose norm cancels it gets a gradient
    of exact zeros. Inside `functional.use_implementation("reference")`, and after a change to a replaced part (a hook,
    another layer, another value of an attribute), the module's own forward runs. Calling it again changes nothing.

    The fused ops have first derivatives only: gradient penalties need the reference implementation. `nn.DataParallel`,
    whose replicas share attributes, does not go with them; DistributedDataParallel does. torch.jit.script and
    torch.export want a plain forward: `restore` it first.

    Args:
        module: a module, or a trainer: an object whose attributes are modules.

    Returns:
        What was replaced and what was left. Its `restore()` undoes everything.

    Raises:
        TypeError: there is no module in `module`.
    """
    replaced: list[Entry] = []
    left: list[Entry] = []
    modules: list[nn.Module] = []
    refused: set[nn.Module] = set()
    checked: dict[Hashable, str | None] = {}
    for path, inner in _inside_first(_roots(module)):
        name = type(inner).__name__
        if fast_forward_of(inner) is None:
            reason = _install(inner, refused, checked)
            if reason is not None:
                refused.add(inner)
                left.append(Entry(path, name, reason))
        forward = fast_forward_of(inner)
        if forward is not None:
            modules.append(inner)
            replaced.append(Entry(path, name, str(forward.chain)))
            if has_hooks(inner):
                left.append(Entry(path, name, "it has hooks, so it is not fused with its neighbours"))
    return Report(sorted(replaced, key=_path), sorted(left, key=_path), modules)


def _install(module: nn.Module, refused: set[nn.Module], checked: dict[Hashable, str | None]) -> str | None:
    """Replace a module's forward if there is something to gain; the reason why a norm or a block was left."""
    if type(module).__module__.startswith("fastmunit."):
        return "it is fastmunit's own" if type(module).__name__ in _NAMES else None
    if norm_kind(module) is None and not is_container(module):
        return _why_unknown(module)
    if has_foreign_forward(module):
        return "its forward was set on the module itself"
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript has compiled it"
    chain, bypassed = _pick(module, refused)
    if not chain.is_faster:
        return None
    if any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]):
        return "it is on the meta device, where it cannot be checked"
    kind = signature(module)
    if kind not in checked:
        checked[kind] = difference(module, layers_of(module, refused.__contains__), refused, _pick)
    if checked[kind] is None:
        module.forward = FastForward(module, chain, bypassed)
    return checked[kind]


def _pick(module: nn.Module, refused: set[nn.Module]) -> tuple[Chain, list[nn.Module]]:
    """The chain of a module, and the modules inside that it does not call."""
    chain = chain_of(layers_of(module, refused.__contains__))
    return chain, list(passed_over(module, refused.__contains__))


def _why_unknown(module: nn.Module) -> str | None:
    if isinstance(module, nn.modules.batchnorm._NormBase) and getattr(module, "track_running_stats", False):
        return "it keeps running statistics"
    if isinstance(module, _NORMS) or any(cls.__name__ in _NAMES for cls in type(module).__mro__):
        return "it is not one of the layers or blocks that are known"
    return None


def _roots(module: object) -> list[tuple[str, nn.Module]]:
    if isinstance(module, nn.Module):
        return [("", module)]
    roots = [(name, value) for name, value in getattr(module, "__dict__", {}).items() if isinstance(value, nn.Module)]
    if not roots:
        raise TypeError(
            f"accelerate takes a module or an object that has modules as attributes, not {type(module).__name__}"
        )
    return roots


def _inside_first(roots: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """All modules once, each after those inside it, by the path that comes first."""
    paths: dict[nn.Module, str] = {}
    for name, root in roots:
        for path, inner in root.named_modules(prefix=name):
            paths.setdefault(inner, path)
    seen: set[nn.Module] = set()

    def visit(module: nn.Module) -> Iterator[nn.Module]:
        if module not in seen:
            seen.add(module)
            for child in module.children():
                yield from visit(child)
            yield module

    for _, root in roots:
        for inner in visit(root):
            yield paths[inner], inner


def _path(entry: Entry) -> str:
    return entry.path
