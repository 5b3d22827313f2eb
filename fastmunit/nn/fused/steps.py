"""Steps of a chain: fused ops, and calls of layers that are not fused."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.functional import PadMode
from fastmunit.functional.recompute import RecomputableMap, recomputable_fused_norm, replace_saved
from fastmunit.fused_norm_options import PADS
from fastmunit.nn.fused.averaged_conv import convolve_and_average
from fastmunit.nn.fused.dead_bias import with_zero_gradients
from fastmunit.nn.fused.few_channel_conv import convolve, is_read_in_blocks
from fastmunit.nn.fused.iteration_cache import (
    active_cache,
    gives_zeros,
    shared_image,
    shared_in_own_dtype,
    shared_values,
    shared_weight,
)
from fastmunit.nn.fused.layers import Activation, Norm, Pad, is_global_average
from fastmunit.nn.fused.weight_forms import as_product


class Mode(NamedTuple):
    """Settings of a forward pass, decided once for all its steps.

    Attributes:
        exact: Run the operations of the public code in its order. Convolutions are called as modules and never
            rearranged, and batches are not concatenated.
        fused: `fused_norm` runs a kernel, so that biases of convolutions can be left to it.
    """

    exact: bool
    fused: bool


FUSED = Mode(exact=False, fused=True)
"""The mode when kernels run."""


def mode_of(x: Tensor) -> Mode:
    """Return the mode of a forward pass on x: the choice of `functional.use_implementation`."""
    return Mode(functional.exact_order(), functional.implementation_of("fused_norm", x) != "reference")


@dataclass
class State:
    """Intermediate results of a forward pass between two steps.

    Attributes:
        map: Result of the steps so far.
        mode: Mode of the forward pass.
        residuals: Maps to add at the ends of residual blocks, innermost last.
        bias: Bias that the last convolution left to the next op.
        pixel_shuffle: True if `map` is pixel-unshuffled.
        low_resolution_pad: True if `map` has the pad that the upsampling convolution after it needs.
        cancelled: Biases left out so far because a norm cancels them.
    """

    map: RecomputableMap
    mode: Mode
    residuals: list[Tensor] = field(default_factory=list)
    bias: Tensor | None = None
    pixel_shuffle: bool = False
    low_resolution_pad: bool = False
    cancelled: list[Tensor] = field(default_factory=list)

    def result(self) -> Tensor:
        """Return the map, and give the biases that were left out gradients of zero."""
        return with_zero_gradients(self.map.padded, self.cancelled)


@dataclass
class Call:
    """A call of a layer that is not fused. An average over all pixels is computed without the call."""

    function: Any

    def run(self, state: State) -> None:
        """Replace the map by the layer's result."""
        x = state.map.padded
        if is_global_average(self.function) and not state.mode.exact:
            # The module computes the same mean, then changes strides in place, which costs copies in backward.
            y = x.mean((2, 3), keepdim=True)
        else:
            y = self.function(x)
        state.map = RecomputableMap(y, y, None)


@dataclass
class Keep:
    """The start of a residual block: keeps the map for the sum at its end."""

    def run(self, state: State) -> None:
        """Push the map onto the residuals."""
        state.residuals.append(state.map.padded)


@dataclass
class Convolve:
    """A convolution, with its bias unless it is left out.

    Attributes:
        conv: The module. It is called if it is not `plain`.
        plain: True if the convolution may be computed without a call of the module.
        left_out: The bias is "added" by the next op, or "cancelled" by it.
        upsampled: Fill mode of the padding after a nearest-neighbor upsampling by 2, which this step includes. None if
            there is no upsampling.
        shuffled: The next op can apply the pixel shuffle of an upsampling convolution.
        averaged: Average the result over 2x2 pixels.
    """

    conv: Any
    plain: bool
    left_out: Literal["added", "cancelled"] | None = None
    upsampled: PadMode | None = None
    shuffled: bool = False
    averaged: bool = False

    def run(self, state: State) -> None:
        """Replace the map by the convolution's result."""
        x, bias = state.map.padded, self.take_bias(state)
        with replace_saved(x, with_=state.map.recompute):
            if self.upsampled is not None:
                y = self._upsample(self.upsampled, x, bias, state)
            elif state.mode.exact or not self.plain:
                y = F.avg_pool2d(self.conv(x), 2) if self.averaged else self.conv(x)
            else:
                y = convolve_and_average(self.conv, x, bias) if self.averaged else _convolve(self.conv, x, bias)
        state.map = RecomputableMap(y, y, None)

    def weights(self, mode: Mode) -> list[Tensor]:
        """Return the weight unless it is read in another form, and the bias unless it is left out."""
        as_it_is = self.upsampled is None and not self.averaged and not is_read_in_blocks(self.conv)
        weights = [self.conv.weight] if as_it_is else []
        added = self.conv.bias is not None and (self.left_out is None or not mode.fused)
        return [*weights, self.conv.bias] if added else weights

    def cancels_bias(self, mode: Mode) -> bool:
        """Return True if the convolution has a bias that is left out because the next op cancels it."""
        return self.conv.bias is not None and self.left_out == "cancelled" and mode.fused

    def _upsample(self, pad_mode: PadMode, x: Tensor, bias: Tensor | None, state: State) -> Tensor:
        """Return the result for an upsampled map, which is pixel-unshuffled if the next op shuffles it."""
        if not functional.upsamples_unshuffled(x):
            return functional.upsample_conv2d(x, self.conv.weight, bias, pad_mode)
        weight, dtype, memory_format = self.conv.weight, functional.compute_dtype(x), functional.dense_format(x)
        make = partial(
            functional.phase_kernels,
            weight,
            pad_mode=pad_mode,
            dtype=dtype,
            memory_format=memory_format,
            unshuffled=True,
        )
        ready = None
        if active_cache() is not None:
            parameter = None if bias is None else self.conv.bias
            key = ("phases", pad_mode, dtype, memory_format, id(parameter))
            # The parameter is a part of the value, so that a write to it is noticed.
            ready, _ = shared_values(weight, key, lambda: (make(bias), parameter))
        kernels = make(bias, ready=ready)
        y = functional.phase_conv2d(x, kernels, padded=state.low_resolution_pad)
        state.pixel_shuffle, state.low_resolution_pad = self.shuffled, False
        return y if self.shuffled else F.pixel_shuffle(y, 2)

    def take_bias(self, state: State) -> Tensor | None:
        """Return the bias that the convolution itself adds. Hand over a bias that is left out."""
        bias: Tensor | None = self.conv.bias if self.plain else None
        if bias is None or self.left_out is None or not state.mode.fused:
            return None if bias is None else shared_weight(bias)
        if self.left_out == "added":
            state.bias = shared_in_own_dtype(bias)
        elif not gives_zeros(bias):
            state.cancelled.append(bias)
        return None


def _convolve(conv: Any, x: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(conv, nn.ConvTranspose2d):
        padding: Any = conv.padding
        return F.conv_transpose2d(x, shared_weight(conv.weight), bias, conv.stride, padding, conv.output_padding)
    return convolve(conv, x, bias)


@dataclass
class Write:
    """Norm, activation, sum and padding in one `functional.fused_norm`.

    Attributes:
        norm: The norm, if there is one.
        activation: The activation, if there is one.
        adds: Add the innermost residual.
        keeps: Number of residual blocks that begin at the result: it is kept, without its padding, for their sums.
        pad: Padding of the result.
        upsampling: Upsampling convolution that reads the result, which a kernel pads for it.
        convolved: Only a plain convolution reads the result.
    """

    norm: Norm | None = None
    activation: Activation | None = None
    adds: bool = False
    keeps: int = 0
    pad: Pad = Pad()  # noqa: RUF009 - a NamedTuple is immutable
    upsampling: Convolve | None = None
    convolved: bool = False

    def run(self, state: State) -> None:
        """Replace the map by the op's result."""
        x = state.map.padded
        pixels, pad_mode = self.take_pad(state)
        residual = state.residuals.pop() if self.adds else None
        if self.norm or self.activation or residual is not None or state.pixel_shuffle:
            weight, bias, statistics, eps = _affine(self.norm, state.bias, x.shape[0])
            activation, negative_slope = activation_args(self.activation)
            if weight is not None and weight.dim() == 2 and x.shape[0] == 1 < weight.shape[0]:
                x = x.expand(weight.shape[0], -1, -1, -1)  # one content code for several styles
            if residual is not None:
                residual = (residual.expand_as(x) if residual.shape[0] < x.shape[0] else residual).to(x.dtype)
            state.map = recomputable_fused_norm(
                x,
                weight,
                bias,
                statistics=statistics,
                activation=activation,
                negative_slope=negative_slope,
                residual=residual,
                pad=pixels,
                pad_mode=pad_mode,
                eps=eps,
                pixel_shuffle=state.pixel_shuffle,
            )
        elif pixels:
            if self.convolved and not state.mode.exact:
                x = as_product(x)  # so that an image is converted once for all widths of padding
            padded = shared_image(
                x, ("pad", pixels, pad_mode), lambda: functional.bias_act_pad(x, pad=pixels, pad_mode=pad_mode)[0]
            )
            state.map = RecomputableMap(padded, x, None)
        state.residuals += [state.map.interior] * self.keeps
        state.bias, state.pixel_shuffle = None, False

    def parameters(self) -> list[Tensor]:
        """Return the weight and bias of the norm, if it has them."""
        return [] if self.norm is None else [p for p in self.norm.parameters() if p is not None]

    def take_pad(self, state: State) -> Pad:
        """Return the padding of the result, and note in the state if it is for an upsampling convolution."""
        following = self.upsampling
        if following is None or following.upsampled is None or not state.mode.fused:
            return self.pad
        pad = Pad(*functional.low_resolution_padding(following.conv.kernel_size[0], following.upsampled))
        if pad.pixels not in PADS or not functional.upsamples_unshuffled(state.map.padded):
            return self.pad
        state.low_resolution_pad = True
        return pad


def _affine(
    norm: Norm | None, bias: Tensor | None, batch_size: int
) -> tuple[Tensor | None, Tensor | None, functional.Statistics, float]:
    """Return weight, bias, statistics and eps as arguments of `fused_norm`."""
    if norm is None:
        return None, bias, "none", 0.0
    if norm.kind == "adain":
        return *norm.style_of(batch_size), "instance", norm.module.eps
    weight, bias = (None if p is None else shared_in_own_dtype(p) for p in norm.parameters())
    return weight, bias, norm.kind, norm.module.eps


def activation_args(activation: Activation | None) -> tuple[functional.Activation, float]:
    """Return the name and the negative slope of an activation as arguments of `fused_norm`."""
    if activation is None:
        return "none", 0.0
    module = activation.module
    return ("leaky_relu", module.negative_slope) if isinstance(module, nn.LeakyReLU) else ("relu", 0.0)


@dataclass
class AdaINBlock:
    """A residual block with AdaIN, which runs `functional.adain_residual_block`.

    Attributes:
        steps: Convolution, op, convolution and op of the block.
        pad_mode: Fill mode of the padding inside the block.
    """

    steps: tuple[Convolve, Write, Convolve, Write]
    pad_mode: PadMode

    def run(self, state: State) -> None:
        """Replace the map by the block's result."""
        first, first_op, second, second_op = self.steps
        x, residual = state.map.padded, state.residuals.pop()
        assert first_op.norm is not None
        assert second_op.norm is not None
        activation, negative_slope = activation_args(first_op.activation)
        result_pad = second_op.take_pad(state)
        with replace_saved(x, with_=state.map.recompute):
            padded, interior = functional.adain_residual_block(
                (x, residual),
                (
                    (shared_weight(first.conv.weight), first.take_bias(state)),
                    (shared_weight(second.conv.weight), second.take_bias(state)),
                ),
                (first_op.norm.style_of(x.shape[0]), second_op.norm.style_of(x.shape[0])),
                activation=activation,
                negative_slope=negative_slope,
                pad=result_pad.pixels,
                pad_mode=self.pad_mode,
                result_pad_mode=result_pad.pad_mode,
                eps=first_op.norm.module.eps,
            )
        state.map = RecomputableMap(padded, interior, None)
        state.residuals += [interior] * second_op.keeps


Step = Call | Keep | Convolve | Write | AdaINBlock
