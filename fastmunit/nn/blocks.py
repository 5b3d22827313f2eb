"""Convolution, linear and residual blocks: pad, convolution, norm, activation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.nn.norm import AdaptiveInstanceNorm2d, InstanceNorm2d, LayerNorm
from fastmunit.nn.spectral_norm import SpectralNorm

_PAD_MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}


def make_activation(name: str) -> nn.Module | None:
    """The activation called `name` in a configuration (relu, lrelu(0.2), prelu, selu, tanh); None for "none"."""
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
    """Hands out the columns of an MLP's output (N, num_adain_params) to AdaIN layers, in the order they are met.

    Each layer takes its first C columns as bias and the next C as weight.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.used = 0

    def take(self, num_features: int) -> tuple[Tensor, Tensor]:
        """Return (weight, bias), each (N, num_features), of the next layer."""
        start = self.used
        self.used = start + 2 * num_features
        bias = self.values[:, start : start + num_features]
        weight = self.values[:, start + num_features : self.used]
        return weight, bias


class Conv2dBlock(nn.Module):
    """Pad, convolution with bias, norm, activation.

    x: (N, in, H, W) to (N, out, H', W'). norm: none | bn | in | ln | adain | sn; pad_type: reflect | replicate | zero.
    Submodules are registered norm, activation, conv: the order of the public checkpoints. Raises ValueError on unknown
    names. Source: MUNIT paper, appendix B.2.
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
        pad_type: str = "zero",
    ) -> None:
        super().__init__()
        if pad_type not in _PAD_MODES:
            raise ValueError(f"unknown pad_type {pad_type!r}: use reflect, replicate or zero.")
        self.padding = padding
        self.pad_mode = _PAD_MODES[pad_type]
        self.norm: nn.Module | None
        match norm:
            case "bn":
                self.norm = nn.BatchNorm2d(output_dim)
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
        conv = nn.Conv2d(input_dim, output_dim, kernel_size, stride)
        self.conv: nn.Module = SpectralNorm(conv) if norm == "sn" else conv

    def forward(self, x: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        if self.padding:
            x = F.pad(x, (self.padding,) * 4, mode=self.pad_mode)
        x = self.conv(x)
        if isinstance(self.norm, AdaptiveInstanceNorm2d):
            if adain is None:
                raise ValueError("this block normalises with AdaIN: pass its AdaIN parameters.")
            x = self.norm(x, *adain.take(self.norm.num_features))
        elif self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class LinearBlock(nn.Module):
    """Linear layer with bias, norm, activation. x: (N, in) to (N, out). norm: none | bn | in | ln | sn."""

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
        x = self.fc(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class ResBlock(nn.Module):
    """x + conv-norm(conv-norm-activation(x)), 3x3 convolutions, no activation after the sum. He et al. 2016."""

    def __init__(self, dim: int, norm: str = "in", activation: str = "relu", pad_type: str = "zero") -> None:
        super().__init__()
        self.model = nn.ModuleList(
            [
                Conv2dBlock(dim, dim, 3, 1, 1, norm=norm, activation=activation, pad_type=pad_type),
                Conv2dBlock(dim, dim, 3, 1, 1, norm=norm, activation="none", pad_type=pad_type),
            ]
        )

    def forward(self, x: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        y = x
        for block in self.model:
            y = block(y, adain)
        return y + x


class ResBlocks(nn.Module):
    """A chain of `num_blocks` residual blocks."""

    def __init__(
        self, num_blocks: int, dim: int, norm: str = "in", activation: str = "relu", pad_type: str = "zero"
    ) -> None:
        super().__init__()
        self.model = nn.ModuleList([ResBlock(dim, norm, activation, pad_type) for _ in range(num_blocks)])

    def forward(self, x: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        for block in self.model:
            x = block(x, adain)
        return x
