"""Convolution, linear and residual blocks: pad, convolution, norm, activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

from torch import Tensor, nn

from fastmunit import functional
from fastmunit.functional import PadMode
from fastmunit.functional.recompute import replace_saved
from fastmunit.nn.fused.dead_bias import with_zero_gradients
from fastmunit.nn.fused.few_channel_conv import convolve
from fastmunit.nn.fused.norm_act_pad import Pad, PaddedMap, normalise, pad_map
from fastmunit.nn.layers.batch_norm import BatchNorm2d
from fastmunit.nn.layers.norm import AdaptiveInstanceNorm2d, InstanceNorm2d, LayerNorm
from fastmunit.nn.layers.spectral_norm import SpectralNorm


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
        if pad_type not in get_args(PadMode):
            raise ValueError(f"unknown pad_type {pad_type!r}: use reflect, replicate or zero.")
        zeros = pad_type == "zero"  # which the convolution puts there itself: the map before it is written without
        self.pad = Pad(0 if zeros else padding, pad_type)  # type: ignore[arg-type]
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

    def forward(self, x: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        return run_blocks([self], x, adain).interior

    def run(
        self, x: PaddedMap, adain: AdaINParameters | None, pad: Pad | None = None, residual: Tensor | None = None
    ) -> PaddedMap:
        """Run on a map that has this block's pad; add `residual`, and write the result with the pad of the next one."""
        bias = self._bias_for_the_op(x.padded)
        with replace_saved(x.padded, with_=x.recipe):
            y = self._convolve(x.padded, without_bias=bias is not None or len(self.cancelled_biases(x.padded)) > 0)
        style = self._style(adain)
        if style is not None and len(y) == 1 < len(style[0]):  # many styles of one content code
            y = y.expand(len(style[0]), -1, -1, -1)
        if residual is not None and len(residual) < len(y):
            residual = residual.expand_as(y)
        return normalise(y, self.norm, self.activation, style, residual, pad, bias=bias)

    def _bias_for_the_op(self, x: Tensor) -> Tensor | None:
        """The convolution's bias where bias, activation and pad are one op: its gradient comes out of the same pass."""
        if not is_plain(self.conv) or self.norm is not None or not isinstance(self.activation, nn.ReLU | nn.LeakyReLU):
            return None
        return None if functional.implementation_of("fused_norm", x) == "reference" else cast(nn.Conv2d, self.conv).bias

    def _convolve(self, x: Tensor, *, without_bias: bool) -> Tensor:
        if not is_plain(self.conv) or functional.exact_order():
            return self.conv(x)
        conv = cast(nn.Conv2d, self.conv)
        return convolve(conv, x, None if without_bias else conv.bias)

    def cancelled_biases(self, x: Tensor) -> list[Tensor]:
        """The convolution's bias where `run` on x leaves it out, as the norm would cancel it."""
        if not is_plain(self.conv) or type(self.norm) not in (InstanceNorm2d, AdaptiveInstanceNorm2d):
            return []
        bias = cast(nn.Conv2d, self.conv).bias
        return [] if bias is None or functional.implementation_of("fused_norm", x) == "reference" else [bias]

    def run_upsampled(self, x: PaddedMap, pad: Pad | None = None) -> PaddedMap:
        """Run on a map without pad, upsampled by 2 to its nearest pixels, and pad the result for the next block."""
        if not is_plain(self.conv):
            upsampled = nn.functional.interpolate(x.padded, scale_factor=2)
            return run_blocks([self], upsampled, pad=pad)
        unshuffled = functional.upsamples_unshuffled(x.padded)
        conv = cast(nn.Conv2d, self.conv)
        with replace_saved(x.padded, with_=x.recipe):
            y = functional.upsample_conv2d(x.padded, conv.weight, conv.bias, self.pad.mode, unshuffled=unshuffled)
        return normalise(y, self.norm, self.activation, pad=pad, pixel_shuffle=unshuffled)

    def _style(self, adain: AdaINParameters | None) -> tuple[Tensor, Tensor] | None:
        if not isinstance(self.norm, AdaptiveInstanceNorm2d):
            return None
        if adain is None:
            raise ValueError("this block normalises with AdaIN: pass its AdaIN parameters.")
        return adain.take(self.norm.num_features)


def is_plain(conv: nn.Module, kind: type[nn.Module] = nn.Conv2d) -> bool:
    """Whether a convolution may run without its module being called: it is torch's own, and nothing is hooked to it."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(conv) is kind and not any(getattr(conv, name) for name in hooks)


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
        self.pad = cast(Conv2dBlock, self.model[0]).pad

    def forward(self, x: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        return run_blocks([self], x, adain).interior

    def run(self, x: PaddedMap, adain: AdaINParameters | None, pad: Pad | None = None) -> PaddedMap:
        """Run on a map that has this block's pad, and write the result with the pad of the next one."""
        first, second = (cast(Conv2dBlock, layer) for layer in self.model)
        hidden = first.run(x, adain, second.pad)
        return second.run(hidden, adain, pad, residual=x.interior)

    def cancelled_biases(self, x: Tensor) -> list[Tensor]:
        """Those of both convolutions; see `Conv2dBlock.cancelled_biases`."""
        return [bias for layer in self.model for bias in cast(Conv2dBlock, layer).cancelled_biases(x)]


class ResBlocks(nn.Module):
    """A chain of `num_blocks` residual blocks."""

    def __init__(
        self, num_blocks: int, dim: int, norm: str = "in", activation: str = "relu", pad_type: str = "zero"
    ) -> None:
        super().__init__()
        self.model = nn.ModuleList([ResBlock(dim, norm, activation, pad_type) for _ in range(num_blocks)])

    def forward(self, x: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        return run_blocks([*self.model], x, adain).interior


def run_blocks(
    blocks: Sequence[nn.Module], x: Tensor, adain: AdaINParameters | None = None, pad: Pad | None = None
) -> PaddedMap:
    """Run Conv2dBlocks and ResBlocks one after another; each writes its result with the pad that the next one reads.

    Args:
        blocks: the chain.
        x: (N, C, H, W).
        adain: AdaIN parameters for all the blocks.
        pad: what follows the last block wants.
    """
    chain = [cast("Conv2dBlock | ResBlock", block) for block in blocks]
    pads = [block.pad for block in chain] + [pad or Pad()]
    current = pad_map(x, pads[0])
    for block, following in zip(chain, pads[1:], strict=True):
        current = block.run(current, adain, following)
    biases = [bias for block in chain for bias in block.cancelled_biases(x)]
    return _map_with_zero_gradients(current, biases)


def _map_with_zero_gradients(x: PaddedMap, biases: Sequence[Tensor]) -> PaddedMap:
    padded = with_zero_gradients(x.padded, biases)
    interior = padded if x.interior is x.padded else with_zero_gradients(x.interior, biases)
    return x._replace(padded=padded, interior=interior)
