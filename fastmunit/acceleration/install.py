"""The public function `fastmunit.accelerate`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import nn

from fastmunit.acceleration.fused_forward import FusedForward, fused_forward_of, has_patched_forward
from fastmunit.acceleration.recognize import bypassed_modules, is_container, layers_of, norm_kind
from fastmunit.acceleration.report import Entry, Report, describe
from fastmunit.acceleration.verify import difference, signature
from fastmunit.nn.fused.chain import Chain, plan
from fastmunit.nn.fused.layers import has_hooks
from fastmunit.nn.fused.steps import Convolve, Write

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)
_NAMES = ("AdaptiveInstanceNorm2d", "InstanceNorm2d", "LayerNorm", "Conv2dBlock", "ResBlock", "ResnetBlock")


def accelerate(module: object) -> Report:
    """Replace the hot paths of a third-party network by fused ops, in place.

    Supported are models in the structure of the public MUNIT and UNIT code (Conv2dBlock, ResBlock, ContentEncoder,
    Decoder, AdaptiveInstanceNorm2d with assigned weight and bias, LayerNorm, ...), a single norm, and any module with
    instance norms, AdaIN, or a Sequential of pads, convolutions, instance norms and (Leaky)ReLUs, as in CycleGAN.

    The forward of a module is replaced if the module is recognized by class name and structure, **and** if its own
    forward agrees with the fused one. To verify this, both run on copies in float64 with random weights, and their
    results and gradients are compared. Everything else is left unchanged, and the report contains the reason.

    Outputs and gradients are the same except for rounding. Modules, parameters, state_dict and optimizers stay the same
    objects; copies and pickles are accelerated, too. The bias of a convolution that is cancelled by a norm gets a
    gradient of exact zeros. The original forward runs inside `functional.use_implementation("reference")`, and after a
    change to a replaced part: a hook, another layer, another value of an attribute. A second call changes nothing.

    The fused ops have first derivatives only, so gradient penalties need the reference implementation.
    `nn.DataParallel` is not supported, because its replicas share attributes; DistributedDataParallel is.
    torch.jit.script and torch.export need a plain forward: call `restore` on the report first.

    Args:
        module: A module, or a trainer: an object whose attributes are modules.

    Returns:
        A report of replaced and unchanged modules. Its `restore()` reverts everything.

    Raises:
        TypeError: If `module` contains no module.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.InstanceNorm2d(8), torch.nn.ReLU())
        >>> report = fastmunit.accelerate(network)
        >>> len(report.replaced) > 0, report.left
        (True, [])
    """
    replaced: list[Entry] = []
    left: list[Entry] = []
    modules: list[nn.Module] = []
    refused: set[nn.Module] = set()
    checked: dict[Hashable, str | None] = {}
    for path, inner in _inside_first(_roots(module)):
        name = type(inner).__name__
        if fused_forward_of(inner) is None:
            reason = _install(inner, refused, checked)
            if reason is not None:
                refused.add(inner)
                left.append(Entry(path, name, reason))
        forward = fused_forward_of(inner)
        if forward is not None:
            modules.append(inner)
            replaced.append(Entry(path, name, describe(forward.chain)))
            if has_hooks(inner):
                left.append(Entry(path, name, "it has hooks, so it is not fused with its neighbors"))
    return Report(sorted(replaced, key=_path), sorted(left, key=_path), modules)


def _install(module: nn.Module, refused: set[nn.Module], checked: dict[Hashable, str | None]) -> str | None:
    """Replace a module's forward if that is faster. Return the reason why a norm or a block was left unchanged."""
    if type(module).__module__.startswith("fastmunit."):
        return "it is fastmunit's own" if type(module).__name__ in _NAMES else None
    if norm_kind(module) is None and not is_container(module):
        return _why_unknown(module)
    if has_patched_forward(module):
        return "its forward was set on the module itself"
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript has compiled it"
    chain, bypassed = _pick(module, refused)
    if not _is_faster(chain):
        return None
    if any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]):
        return "it is on the meta device, where it cannot be verified"
    kind = signature(module)
    if kind not in checked:
        checked[kind] = difference(module, layers_of(module, refused.__contains__), refused, _pick)
    if checked[kind] is None:
        module.forward = FusedForward(module, chain, bypassed)
    return checked[kind]


def _pick(module: nn.Module, refused: set[nn.Module]) -> tuple[Chain, list[nn.Module]]:
    """Return the chain of a module, and the modules inside that it does not call."""
    chain = plan(layers_of(module, refused.__contains__))
    return chain, list(bypassed_modules(module, refused.__contains__))


def _is_faster(chain: Chain) -> bool:
    """Return True if a norm, a pad or the convolution of an upsampled map is fused."""
    return any(write.norm is not None or write.pad.pixels for write in chain.of(Write)) or any(
        step.upsampled is not None for step in chain.of(Convolve)
    )


def _why_unknown(module: nn.Module) -> str | None:
    if isinstance(module, nn.modules.batchnorm._NormBase) and getattr(module, "track_running_stats", False):
        return "it keeps running statistics"
    if isinstance(module, _NORMS) or any(cls.__name__ in _NAMES for cls in type(module).__mro__):
        return "it is not a known layer or block"
    return None


def _roots(module: object) -> list[tuple[str, nn.Module]]:
    if isinstance(module, nn.Module):
        return [("", module)]
    roots = [(name, value) for name, value in getattr(module, "__dict__", {}).items() if isinstance(value, nn.Module)]
    if not roots:
        raise TypeError(
            f"accelerate: expected a module or an object with modules as attributes, got {type(module).__name__}"
        )
    return roots


def _inside_first(roots: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over all modules once, each after those inside it, with their first path."""
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
