"""Copies of networks for evaluation during training."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType

import torch
from torch import Tensor, nn


def evaluation_copies(networks: Mapping[str, nn.Module], values: Mapping[int, Tensor]) -> dict[str, nn.Module]:
    """Return copies of networks in eval mode, for use in any thread, even while the networks are being trained.

    The copies share the memory of the trained parameters, so they cost almost nothing. They have their own modules, so
    the mode of the originals does not change. They have their own buffers and untrained parameters, so a forward pass
    cannot write to the originals. Copies of compiled networks run uncompiled: `torch.compile` would compile every copy.

    With gradients enabled, the copies hold the trained parameters themselves, so that gradients reach them. Otherwise
    they hold detached views: autocast shares its low-precision copies of trained parameters between threads, and a copy
    made without gradients would cut the parameter off from the gradients of a training in another thread.

    Args:
        networks: Networks by name. The copies share the modules and tensors that the networks share.
        values: Replacements of parameters and buffers, by the id() of the original.
    """
    tensors: dict[int, Tensor] = {}
    modules: dict[int, nn.Module] = {}
    return {name: _copy(network, values, tensors, modules) for name, network in networks.items()}


def _copy(
    module: nn.Module, values: Mapping[int, Tensor], tensors: dict[int, Tensor], modules: dict[int, nn.Module]
) -> nn.Module:
    if id(module) in modules:
        return modules[id(module)]
    copied = module.__class__.__new__(module.__class__)
    modules[id(module)] = copied
    attributes = module.__dict__.copy()
    for kind in ("_parameters", "_buffers"):
        attributes[kind] = {
            name: None if tensor is None else tensors.setdefault(id(tensor), _value(tensor, values))
            for name, tensor in attributes[kind].copy().items()
        }
    attributes["_modules"] = {
        name: None if child is None else _copy(child, values, tensors, modules)
        for name, child in attributes["_modules"].copy().items()
    }
    attributes["training"] = False
    attributes.pop("_compiled_call_impl", None)
    for name, value in attributes.items():
        if isinstance(value, MethodType) and value.__self__ is module:  # a forward that was assigned to the module
            attributes[name] = MethodType(value.__func__, copied)
    copied.__dict__ = attributes
    return copied


def _value(tensor: Tensor, values: Mapping[int, Tensor]) -> Tensor:
    """Return the counterpart of a parameter or buffer in a copy."""
    trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
    if id(tensor) in values:
        value = values[id(tensor)].to(tensor)
    elif trained:
        if torch.is_grad_enabled():
            return tensor
        value = tensor.detach()
    else:
        value = tensor.detach()
    if not trained:
        value = value.clone()
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
