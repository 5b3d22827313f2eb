"""The layers of the networks that both layouts have, with their names in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Norm = Literal["in", "bn", "none"]

_MAX_WIDTH = 8  # maximum channels of U-Nets and PatchGANs, in multiples of those of their first layer


@dataclass(frozen=True)
class Layer:
    """A convolution, and the norm after it.

    Attributes:
        public: Name of the convolution in a public file.
        ours: Name of the convolution in our networks.
        shape: Shape of its weight in a public file.
        public_norm: Name of the norm after it in a public file; None if there is no norm.
        transposed: True for a transposed convolution.
        joins: True if the first half of the input channels comes from a skip connection in a public network, and the
            second half in ours.
        takes_latent: True if our convolution also takes the latent vector, as its last input channels.
    """

    public: str
    ours: str
    shape: tuple[int, int, int, int]
    public_norm: str | None = None
    transposed: bool = False
    joins: bool = False
    takes_latent: bool = False

    @property
    def our_norm(self) -> str:
        """Name of the norm in our networks."""
        return f"{self.ours.removesuffix('conv')}norm"


@dataclass(frozen=True)
class ResNet:
    """The sizes of a residual generator."""

    input_dim: int
    output_dim: int
    dim: int
    n_downsample: int
    n_res: int
    dropout: bool
    """True if its blocks have a layer of dropout, which shifts names in public files."""

    def layers(self) -> list[Layer]:
        """Return the layers from input to output. Public names count the layers of padding, norm and activation."""
        levels, dim = self.n_downsample, self.dim
        layers = [Layer("model.1", "model.0.conv", (dim, self.input_dim, 7, 7), "model.2", takes_latent=True)]
        for level in range(levels):
            index = 4 + 3 * level
            shape = (2 * dim, dim, 3, 3)
            layers.append(Layer(f"model.{index}", f"model.{1 + level}.conv", shape, f"model.{index + 1}"))
            dim *= 2
        second = 6 if self.dropout else 5
        for number in range(self.n_res):
            public = f"model.{4 + 3 * levels + number}.conv_block"
            ours = f"model.{1 + levels + number}.model"
            for position, index in enumerate((1, second)):
                name = f"{ours}.{position}.conv"
                layers.append(Layer(f"{public}.{index}", name, (dim, dim, 3, 3), f"{public}.{index + 1}"))
        for level in range(levels):
            index, ours = 4 + 3 * levels + self.n_res + 3 * level, f"model.{1 + levels + self.n_res + level}.conv"
            shape = (dim, dim // 2, 3, 3)
            layers.append(Layer(f"model.{index}", ours, shape, f"model.{index + 1}", transposed=True))
            dim //= 2
        last = 5 + 6 * levels + self.n_res
        ours = f"model.{1 + 2 * levels + self.n_res}.conv"
        return [*layers, Layer(f"model.{last}", ours, (self.output_dim, dim, 7, 7))]


@dataclass(frozen=True)
class UNet:
    """The sizes of a U-Net."""

    input_dim: int
    output_dim: int
    dim: int
    num_downs: int

    def layers(self) -> list[Layer]:
        """Return the layers, level by level from the outside. In public files, each level is inside the one before."""
        layers: list[Layer] = []
        last = self.num_downs - 1
        outer_in, outer_out = self.input_dim, self.output_dim
        for level in range(self.num_downs):
            width = self.dim * min(2**level, _MAX_WIDTH)
            prefix = unet_prefix(level)
            down, up = (0, 3) if level == 0 else (1, 3) if level == last else (1, 5)
            down_norm = f"{prefix}2" if 0 < level < last else None
            up_norm = f"{prefix}{up + 1}" if level else None
            inner = width if level == last else 2 * width
            layers.append(
                Layer(
                    f"{prefix}{down}",
                    f"downs.{level}.conv",
                    (width, outer_in, 4, 4),
                    down_norm,
                    takes_latent=level == 0,
                )
            )
            layers.append(
                Layer(
                    f"{prefix}{up}",
                    f"ups.{level}.conv",
                    (inner, outer_out, 4, 4),
                    up_norm,
                    transposed=True,
                    joins=level < last,
                )
            )
            outer_in = outer_out = width
        return layers


@dataclass(frozen=True)
class PatchGAN:
    """The sizes and the norm of a PatchGAN discriminator."""

    input_dim: int
    dim: int
    n_layer: int
    norm: Norm

    def layers(self) -> list[Layer]:
        """Return the layers from input to output."""
        layers = [Layer("model.0", "cnns.0.0.conv", (self.dim, self.input_dim, 4, 4))]
        width = self.dim
        for level in range(1, self.n_layer + 1):
            wider, index = self.dim * min(2**level, _MAX_WIDTH), 3 * level - 1
            shape = (wider, width, 4, 4)
            layers.append(Layer(f"model.{index}", f"cnns.0.{level}.conv", shape, f"model.{index + 1}"))
            width = wider
        last = self.n_layer + 1
        return [*layers, Layer(f"model.{3 * last - 1}", f"cnns.0.{last}.conv", (1, width, 4, 4))]


Generator = ResNet | UNet
Network = ResNet | UNet | PatchGAN


def unet_prefix(level: int) -> str:
    """Return what public names of the layers of a U-Net's level begin with."""
    return "model.model." if level == 0 else "model.model.1.model." + "3.model." * (level - 1)
