"""Convolution, linear and residual blocks: pad, convolution, norm, activation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.functional import PadMode
from fastmunit.nn.fused.chain import Chain, plan
from fastmunit.nn.fused.iteration_cache import shared_weight
from fastmunit.nn.fused.layers import (
    Activation,
    Convolution,
    Layer,
    Norm,
    Other,
    Pad,
    ResidualEnd,
    ResidualStart,
    Upsample,
    has_hooks,
    is_nearest_upsampling,
)
from fastmunit.nn.layers.batch_norm import BatchNorm2d
from fastmunit.nn.layers.norm import AdaptiveInstanceNorm2d, InstanceNorm2d, LayerNorm
from fastmunit.nn.layers.spectral_norm import SpectralNorm


def make_activation(name: str) -> nn.Module | None:
    """Return the activation with this name in a configuration: relu, lrelu (slope 0.2), prelu, selu, tanh or none.

    Raises:
        ValueError: If the name is unknown.
    """
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "lrelu":
            return nn.LeakyReLU(0.2, inplace=True)
        case "prelu":
            return nn.PReLU()
        case "selu":
            return nn.SELU(inplace=True)
        case "tanh":
            return nn.Tanh()
        case "none":
            return None
    raise ValueError(f"unknown activation {name!r}: use relu, lrelu, prelu, selu, tanh or none.")


class AdaINParameters:
    """The output of an MLP (N, num_adain_params), handed out to AdaIN layers in the order of the layers.

    Each layer takes its first C columns as bias and the next C columns as weight.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.used = 0
        self._parts: tuple[Tensor, ...] = ()

    def take(self, num_features: int) -> tuple[Tensor, Tensor]:
        """Return (weight, bias) of the next layer, each (N, num_features)."""
        start = self.used
        self.used = start + 2 * num_features
        if start % num_features == 0:  # layers of equal size share one split, whose backward is one op
            if not self._parts or self._parts[0].shape[1] != num_features:
                self._parts = self.values.split(num_features, dim=1)
            bias, weight = self._parts[start // num_features : self.used // num_features]
        else:
            bias = self.values[:, start : start + num_features]
            weight = self.values[:, start + num_features : self.used]
        return weight, bias


class Block(nn.Module):
    """Base class of blocks that run as part of a chain of fused ops."""

    def layers(self, adain: AdaINParameters | None = None) -> list[Layer]:
        """Return the layers of the block in order. AdaIN layers take their parameters from `adain`."""
        raise NotImplementedError

    def forward(self, x: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        return plan(self.layers(adain)).run(x)


def chain_of(blocks: Iterable[nn.Module], adain: AdaINParameters | None = None) -> Chain:
    """Return a chain of fused ops that runs blocks one after another.

    It is planned for each forward pass, so that it follows changes to the blocks and holds the AdaIN parameters.

    Args:
        blocks: Blocks, nearest-neighbor upsampling by 2, and other modules. The latter, and blocks with hooks, are
            called.
        adain: AdaIN parameters for all the blocks.
    """
    return plan([layer for block in blocks for layer in _layers_of(block, adain)])


def _layers_of(module: nn.Module, adain: AdaINParameters | None) -> list[Layer]:
    if isinstance(module, Block):
        return [_call_of(module, adain)] if has_hooks(module) else module.layers(adain)
    if type(module) is nn.Conv2d:
        return [Convolution(module)]
    return [Upsample(module) if is_nearest_upsampling(module) else Other(module)]


def _call_of(block: Block, adain: AdaINParameters | None) -> Layer:
    """Return a call of a block, for its hooks to run. It takes its AdaIN parameters now, as `layers` would."""
    own = adain
    if adain is not None:
        start = adain.used
        block.layers(adain)
        own = AdaINParameters(adain.values[:, start : adain.used])
    return Other(lambda x: block(x, own))


class Conv2dBlock(Block):
    """Pad, convolution with bias, norm, activation.

    x: (N, in, H, W) to (N, out, H', W'). The submodules are registered in the order norm, activation, conv, as in the
    public checkpoints. Source: MUNIT paper, appendix B.2.

    Args:
        input_dim: Channels of the input.
        output_dim: Channels of the output.
        kernel_size: Size of the square kernel.
        stride: Stride of the convolution.
        padding: Padding in pixels on each side.
        norm: none, bn, in, ln, adain or sn.
        activation: A name that `make_activation` accepts.
        pad_mode: Fill mode of the padding: reflect, replicate or zero.

    Raises:
        ValueError: If a name is unknown.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        norm: str = "none",
        activation: str = "relu",
        pad_mode: str = "zero",
    ) -> None:
        super().__init__()
        if pad_mode not in get_args(PadMode):
            raise ValueError(f"unknown pad_mode {pad_mode!r}: use reflect, replicate or zero.")
        zeros = pad_mode == "zero"  # added by the convolution itself, so that the map before it needs no padding
        self.pad = Pad(0 if zeros else padding, pad_mode)  # type: ignore[arg-type]
        self.norm: nn.Module | None
        match norm:
            case "bn":
                self.norm = BatchNorm2d(output_dim)
            case "in":
                self.norm = InstanceNorm2d(output_dim)
            case "ln":
                self.norm = LayerNorm(output_dim)
            case "adain":
                self.norm = AdaptiveInstanceNorm2d(output_dim)
            case "none" | "sn":
                self.norm = None
            case _:
                raise ValueError(f"unknown norm {norm!r}: use none, bn, in, ln, adain or sn.")
        self.activation = make_activation(activation)
        conv = nn.Conv2d(input_dim, output_dim, kernel_size, stride, padding if zeros else 0)
        self.conv: nn.Module = SpectralNorm(conv) if norm == "sn" else conv

    def layers(self, adain: AdaINParameters | None = None) -> list[Layer]:
        pad: list[Layer] = [self.pad] if self.pad.pixels else []
        return [*pad, Convolution(self.conv), *norm_and_activation(self.norm, self.activation, adain)]


def norm_and_activation(
    norm: nn.Module | None, activation: nn.Module | None, adain: AdaINParameters | None = None
) -> list[Layer]:
    """Return a norm and an activation as layers of a chain. AdaIN takes its parameters from `adain`."""
    layers: list[Layer] = []
    if type(norm) is InstanceNorm2d:
        layers.append(Norm(norm, "instance"))
    elif type(norm) is LayerNorm:
        layers.append(Norm(norm, "layer"))
    elif type(norm) is AdaptiveInstanceNorm2d:
        if adain is None:
            raise ValueError("this block normalizes with AdaIN: pass its AdaIN parameters.")
        layers.append(Norm(norm, "adain", adain.take(norm.num_features)))
    elif norm is not None:
        layers.append(Other(norm))
    if isinstance(activation, nn.ReLU | nn.LeakyReLU):
        layers.append(Activation(activation))
    elif activation is not None:
        layers.append(Other(activation))
    return layers


class LinearBlock(nn.Module):
    """Linear layer with bias, norm, activation. x: (N, in) to (N, out).

    Args:
        input_dim: Size of the input.
        output_dim: Size of the output.
        norm: none, bn, in, ln or sn.
        activation: A name that `make_activation` accepts.

    Raises:
        ValueError: If a name is unknown.
    """

    def __init__(self, input_dim: int, output_dim: int, norm: str = "none", activation: str = "relu") -> None:
        super().__init__()
        fc = nn.Linear(input_dim, output_dim)
        self.fc: nn.Module = SpectralNorm(fc) if norm == "sn" else fc
        self.norm: nn.Module | None
        match norm:
            case "bn":
                self.norm = nn.BatchNorm1d(output_dim)
            case "in":
                self.norm = nn.InstanceNorm1d(output_dim)
            case "ln":
                self.norm = LayerNorm(output_dim)
            case "none" | "sn":
                self.norm = None
            case _:
                raise ValueError(f"unknown norm {norm!r}: use none, bn, in, ln or sn.")
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = linear(self.fc, x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def weights(self) -> list[Tensor]:
        """Return the weight and the bias of a plain linear layer."""
        return linear_weights(self.fc)


def linear_weights(fc: nn.Module) -> list[Tensor]:
    """Return the weight and the bias of a linear layer that `linear` need not call, and no others."""
    return [fc.weight, fc.bias] if type(fc) is nn.Linear and not has_hooks(fc) else []


def linear(fc: nn.Module, x: Tensor) -> Tensor:
    """Return fc(x), computed with the copies of weights that the iteration's cache has opened."""
    weights = linear_weights(fc)
    return F.linear(x, *map(shared_weight, weights)) if weights else fc(x)


class ResBlock(Block):
    """x + conv-norm(conv-norm-activation(x)), 3x3 convolutions, no activation after the sum. He et al. 2016."""

    def __init__(self, dim: int, norm: str = "in", activation: str = "relu", pad_mode: str = "zero") -> None:
        super().__init__()
        self.model = nn.ModuleList(
            [
                Conv2dBlock(dim, dim, 3, 1, 1, norm=norm, activation=activation, pad_mode=pad_mode),
                Conv2dBlock(dim, dim, 3, 1, 1, norm=norm, activation="none", pad_mode=pad_mode),
            ]
        )

    def layers(self, adain: AdaINParameters | None = None) -> list[Layer]:
        inner = [layer for block in self.model for layer in _layers_of(block, adain)]
        return [ResidualStart(), *inner, ResidualEnd()]


class ResBlocks(Block):
    """A sequence of `num_blocks` residual blocks."""

    def __init__(
        self, num_blocks: int, dim: int, norm: str = "in", activation: str = "relu", pad_mode: str = "zero"
    ) -> None:
        super().__init__()
        self.model = nn.ModuleList([ResBlock(dim, norm, activation, pad_mode) for _ in range(num_blocks)])

    def layers(self, adain: AdaINParameters | None = None) -> list[Layer]:
        return [layer for block in self.model for layer in _layers_of(block, adain)]


def append_latent(x: Tensor, z: Tensor | None, latent_dim: int) -> Tensor:
    """Concatenate a latent vector to the channels of a map at every pixel.

    Args:
        x: (N, C, H, W).
        z: (N, latent_dim), or (1, latent_dim) for any N; None if latent_dim is 0.
        latent_dim: Length of the vector. With 0, x is returned.

    Raises:
        ValueError: If z is missing, not expected, or of another shape.
    """
    expected = f"(N, {latent_dim}) or (N, {latent_dim}, 1, 1)" if latent_dim else "None"
    if (z is None) != (latent_dim == 0):
        raise ValueError(f"expected z to be {expected}, got {None if z is None else tuple(z.shape)}.")
    if z is None:
        return x
    count = x.shape[0]  # len() would fix the size of the batch in an exported graph
    if z.shape[0] not in (1, count) or z.shape[1:2] != (latent_dim,) or z.numel() != z.shape[0] * latent_dim:
        raise ValueError(f"expected z to be {expected}, got {tuple(z.shape)} for a batch of {count}.")
    planes = z.to(x.dtype).view(-1, latent_dim, 1, 1).expand(count, -1, *x.shape[2:])
    return torch.cat([x, planes], dim=1)
