"""Conversion of the state dicts of single networks."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from fastmunit.conversion.layouts import Layer, Network, Norm, PatchGAN
from fastmunit.conversion.recognize import COUNTER, STATISTICS
from fastmunit.errors import CheckpointError
from fastmunit.files import printable


def norm_of(network: Network) -> Norm:
    """Return the norm of a network. Generators have instance norm."""
    return network.norm if isinstance(network, PatchGAN) else "in"


def from_public(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], network: Network, latent_dim: int = 0
) -> dict[str, Tensor]:
    """Convert the state dict of a public network, which has been recognized as `network`, to ours.

    Args:
        path: File of the state dict, for messages.
        state: The public state dict.
        network: Its sizes.
        latent_dim: Length of the latent vector that our network takes. Its weights are 0.

    Raises:
        CheckpointError: If a value is NaN or infinite.
    """
    converted: dict[str, Tensor] = {}
    for layer in network.layers():
        weight = state[f"{layer.public}.weight"].float()
        bias = state.get(f"{layer.public}.bias")
        if latent_dim and layer.takes_latent:
            filters, _, *kernel = weight.shape
            weight = torch.cat([weight, weight.new_zeros(filters, latent_dim, *kernel)], dim=1)
        converted[f"{layer.ours}.weight"] = _exchanged(weight, layer)
        converted[f"{layer.ours}.bias"] = _no_bias(weight, layer) if bias is None else bias.float()
        if norm_of(network) == "bn" and layer.public_norm is not None:
            for name in ("weight", "bias", *STATISTICS):
                converted[f"{layer.our_norm}.{name}"] = state[f"{layer.public_norm}.{name}"].float()
            count = state.get(f"{layer.public_norm}.{COUNTER}", torch.tensor(0))
            converted[f"{layer.our_norm}.{COUNTER}"] = count.long()
    for name, value in converted.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(
                f"{printable(path)}: the values for {name} are NaN or infinite: its training had failed; use another "
                "file."
            )
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in converted.items()}


def to_public(state: Mapping[str, Tensor], network: Network) -> tuple[OrderedDict[str, Tensor], list[str]]:
    """Convert the state dict of one of our networks to the public names.

    Returns:
        The state dict in the order of the public network, and the properties that a public network cannot have.
    """
    converted: OrderedDict[str, Tensor] = OrderedDict()
    differences = []
    norm = norm_of(network)
    for layer in _in_public_order(network):
        weight, bias = state[f"{layer.ours}.weight"].float(), state[f"{layer.ours}.bias"].float()
        if layer.takes_latent:
            channels = layer.shape[1]
            if weight[:, channels:].any():
                differences.append(
                    f"{layer.ours} reads a latent vector of {weight.shape[1] - channels} values, public generators "
                    "read none"
                )
            weight = weight[:, :channels]
        converted[f"{layer.public}.weight"] = _exchanged(weight, layer)
        if layer.public_norm is None or norm == "in":
            converted[f"{layer.public}.bias"] = bias
        elif norm == "none" and bias.any():
            differences.append(f"{layer.ours} has a bias, but with norm none public discriminators have none there")
        if norm == "bn" and layer.public_norm is not None:
            own = {name: state[f"{layer.our_norm}.{name}"] for name in ("weight", "bias", *STATISTICS, COUNTER)}
            own["running_mean"] = own["running_mean"] - bias  # public convolutions have no bias before batch norm
            converted.update({f"{layer.public_norm}.{name}": value for name, value in own.items()})
    copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in converted.items()}
    return OrderedDict(copies), differences


def _exchanged(weight: Tensor, layer: Layer) -> Tensor:
    """Exchange the input channels from the skip connection and from the level below; the inverse is the same."""
    return weight.roll(weight.shape[0] // 2, 0) if layer.joins else weight


def _no_bias(weight: Tensor, layer: Layer) -> Tensor:
    """Return zeros for the bias of a convolution."""
    return weight.new_zeros(weight.shape[1 if layer.transposed else 0])


def _in_public_order(network: Network) -> list[Layer]:
    """Return the layers in the order of a public state dict, in which a U-Net's outer levels enclose the inner ones."""
    layers = network.layers()
    return [*(x for x in layers if not x.joins), *reversed([x for x in layers if x.joins])]
