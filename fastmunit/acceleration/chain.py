"""Layers grouped into steps of fused ops, and running them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.acceleration.recognize import (
    ActivationLayer,
    ConvolutionLayer,
    Layer,
    NormLayer,
    PadLayer,
    ResidualBegin,
    ResidualEnd,
    UpsampleLayer,
)
from fastmunit.functional import PadMode
from fastmunit.functional.recompute import replace_saved
from fastmunit.nn.fused.dead_bias import with_zero_gradients
from fastmunit.nn.fused.few_channel_conv import convolve
from fastmunit.nn.fused.norm_act_pad import FusedForm, Pad, PaddedMap, fused_form, run_form

_Kind = TypeVar("_Kind")


@dataclass
class _Running:
    """What a chain has at hand between two steps. The map `padded` is what the layers so far give."""

    map: PaddedMap
    residuals: list[Tensor] = field(default_factory=list)
    bias: Tensor | None = None
    pixel_shuffle: bool = False


@dataclass
class Call:
    """Call a module as it is."""

    module: nn.Module

    def run(self, state: _Running) -> None:
        """Replace the map by what the module makes of it."""
        y = self.module(state.map.padded)
        state.map = PaddedMap(y, y)


@dataclass
class Convolve:
    """A convolution, with its bias where it is not `left_out` for the op that follows: added there, or cancelled.

    With `upsampled`, the pad mode, that of the nearest upsampling by 2 and the pad before it too, computed on the
    low-resolution map; with `pixel_shuffle` for an op that puts the pixels in place.
    """

    module: nn.Conv2d
    left_out: Literal["added", "cancelled"] | None = None
    upsampled: PadMode | None = None
    pixel_shuffle: bool = False

    def run(self, state: _Running) -> None:
        """Convolve the map."""
        conv, x = self.module, state.map.padded
        bias = conv.bias if self.left_out is None else None
        with replace_saved(x, with_=state.map.recipe):
            if self.upsampled is None:
                y = convolve(conv, x, bias)
            else:
                state.pixel_shuffle = self.pixel_shuffle and functional.upsamples_unshuffled(x)
                y = functional.upsample_conv2d(x, conv.weight, bias, self.upsampled, unshuffled=state.pixel_shuffle)
        state.bias = conv.bias if self.left_out == "added" else None
        state.map = PaddedMap(y, y)


@dataclass
class Write:
    """Norm, activation, sum and pad as one op; `keeps` is how often its result without the pad is to be added later."""

    norm: NormLayer | None = None
    activation: nn.Module | None = None
    adds: bool = False
    keeps: int = 0
    pad: Pad = field(default_factory=Pad)

    def run(self, state: _Running) -> None:
        """Replace the map by the op's result."""
        residual = state.residuals.pop() if self.adds else None
        form = self._form(state.map.padded, state.bias)
        state.map = run_form(state.map.padded, form, residual, self.pad, state.pixel_shuffle)
        state.residuals += [state.map.interior] * self.keeps
        state.bias, state.pixel_shuffle = None, False

    def _form(self, x: Tensor, bias: Tensor | None) -> FusedForm:
        form = fused_form(None, self.activation)
        assert form is not None  # ReLU, LeakyReLU or none
        if self.norm is None:
            return form._replace(bias=bias)
        norm = self.norm.module
        match self.norm.kind:
            case "instance":
                form = form._replace(weight=norm.weight, bias=norm.bias, statistics="instance")
            case "adain":
                weight, bias = (tensor.reshape(len(x), -1) for tensor in (norm.weight, norm.bias))
                form = form._replace(weight=weight, bias=bias, statistics="instance")
            case "layer":
                gamma, beta = (getattr(norm, name, None) for name in ("gamma", "beta"))
                form = form._replace(weight=gamma, bias=beta, statistics="layer")
        return form._replace(eps=norm.eps)


@dataclass
class Keep:
    """Keep the map as it is, for a sum."""

    def run(self, state: _Running) -> None:
        """Put the map aside."""
        state.residuals.append(state.map.padded)


Step = Call | Convolve | Write | Keep


@dataclass
class Chain:
    """The steps that do what some layers do."""

    steps: list[Step]

    def run(self, x: Tensor) -> Tensor:
        """Run all steps on a map (N, C, H, W)."""
        state = _Running(PaddedMap(x, x))
        for step in self.steps:
            step.run(state)
        cancelled = [step.module.bias for step in self.of(Convolve) if step.left_out == "cancelled"]
        return with_zero_gradients(state.map.padded, [bias for bias in cancelled if bias is not None])

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """The steps of a kind."""
        return [step for step in self.steps if isinstance(step, kind)]

    def can_run(self, x: Tensor) -> bool:
        """Whether the fused ops take x, and AdaIN has parameters for it."""
        return (
            x.dim() == 4
            and x.is_floating_point()
            and not torch.jit.is_tracing()
            and all(_is_assigned(step.norm, len(x)) for step in self.of(Write) if step.norm is not None)
        )

    @property
    def is_faster(self) -> bool:
        """Whether anything is fused: a norm, a pad, or a convolution of an upsampled map."""
        writes = self.of(Write)
        return any(write.norm is not None or write.pad.pixels for write in writes) or any(
            step.upsampled is not None for step in self.of(Convolve)
        )

    def __str__(self) -> str:
        writes, convolutions = self.of(Write), self.of(Convolve)
        counts = {
            "norm": sum(write.norm is not None for write in writes),
            "activation": sum(write.activation is not None for write in writes),
            "pad": sum(write.pad.pixels > 0 for write in writes),
            "sum": sum(write.adds for write in writes),
        }
        parts = [
            f"{_counted(len(writes), 'fused op')} for " + ", ".join(_counted(n, k) for k, n in counts.items() if n)
        ]
        upsampled = sum(step.upsampled is not None for step in convolutions)
        if upsampled:
            parts.append(f"{_counted(upsampled, 'upsampling convolution')} on the low-resolution map")
        cancelled = sum(step.left_out == "cancelled" for step in convolutions)
        if cancelled:
            parts.append(f"{_counted(cancelled, 'cancelled bias', 'cancelled biases')} left out")
        return "; ".join(parts)


def _counted(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def _is_assigned(norm: NormLayer, n: int) -> bool:
    if norm.kind != "adain":
        return True
    expected = (n * norm.module.num_features,)
    return all(
        isinstance(value, Tensor) and value.shape == expected for value in (norm.module.weight, norm.module.bias)
    )


def chain_of(layers: Sequence[Layer]) -> Chain:
    """Group layers into steps; see `Write` for what becomes one op."""
    steps: list[Step] = []
    position = 0
    while position < len(layers):
        layer = layers[position]
        upsampling = _upsampling(layers, position)
        if upsampling is not None:
            step, used = upsampling
            position += used
            _leave_bias_out(step, layers, position)
            step.pixel_shuffle = _write(layers, position, fresh=True)[1] > 0
            steps.append(step)
        elif isinstance(layer, ConvolutionLayer):
            position += 1
            step = Convolve(layer.module)
            _leave_bias_out(step, layers, position)
            steps.append(step)
        else:
            fresh = bool(steps) and isinstance(steps[-1], Convolve)
            write, used = _write(layers, position, fresh)
            if used:
                steps.append(write)
            elif isinstance(layer, ResidualBegin):
                steps.append(Keep())
            else:
                assert not isinstance(layer, PadLayer | NormLayer | ResidualEnd | ConvolutionLayer)
                steps.append(Call(layer.module))
            position += used or 1
    return Chain(steps)


def _write(layers: Sequence[Layer], start: int, fresh: bool) -> tuple[Write, int]:
    """The op that begins at a layer, and of how many layers it is; 0 where it is not worth an op of ours.

    Args:
        layers: all layers.
        start: where it begins.
        fresh: whether a convolution has just made the map. An activation that writes in place may be taken in then:
            nobody else sees that map.
    """
    write, position = Write(), start

    def next_is(kind: type[_Kind]) -> _Kind | None:
        layer = layers[position] if position < len(layers) else None
        return layer if isinstance(layer, kind) else None

    if norm := next_is(NormLayer):
        write.norm = norm
        position += 1
    if (activation := next_is(ActivationLayer)) and (fresh or write.norm is not None):
        write.activation = activation.module
        position += 1
    if next_is(ResidualEnd):
        write.adds = True
        position += 1
    before_begins = position
    while next_is(ResidualBegin):
        write.keeps += 1
        position += 1
    pad = next_is(PadLayer)
    if pad is not None:
        position += 1
        # The result without the pad is a view of the one with it. A module that wrote into that would change the sum.
        if write.keeps and not next_is(ConvolutionLayer):
            pad = None
    if pad is not None:
        write.pad = pad.pad
    else:
        write.keeps, position = 0, before_begins
    worth_it = write.norm is not None or write.adds or write.pad.pixels > 0
    return (write, position - start) if worth_it or pad is not None else (Write(), 0)


def _leave_bias_out(step: Convolve, layers: Sequence[Layer], following: int) -> None:
    """Choose what becomes of a convolution's bias, from the op that follows it."""
    write, used = _write(layers, following, fresh=True)
    if step.module.bias is None or not used:
        return
    if write.norm is None and write.activation is not None:
        step.left_out = "added"
    elif write.norm is not None and write.norm.kind != "layer":
        step.left_out = "cancelled"


def _upsampling(layers: Sequence[Layer], start: int) -> tuple[Convolve, int] | None:
    """Upsampling, pad and k x k convolution that keeps the size as one step, and of how many layers it is."""
    if not isinstance(layers[start], UpsampleLayer):
        return None
    after = layers[start + 1 : start + 3]
    pad: PadLayer | None = None
    match after:
        case [ConvolutionLayer(module=conv), *_]:
            pass
        case [PadLayer() as pad, ConvolutionLayer(module=conv)]:
            pass
        case _:
            return None
    k = conv.kernel_size[0]
    own = conv.padding if isinstance(conv.padding, tuple) else None
    size, mode = (pad.pad.pixels, pad.pad.mode) if pad is not None else (own[0] if own else -1, "zero")
    fits = (
        conv.kernel_size == (k, k)
        and k % 2 == 1
        and k >= 3
        and size == k // 2
        and own == ((0, 0) if pad is not None else (size, size))
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
    )
    return (Convolve(conv, upsampled=mode), 3 if pad is not None else 2) if fits else None
