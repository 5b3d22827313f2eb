"""The fusion engine: groups layers into steps of fused ops, and runs them.

`plan` decides what is fused, for the networks of this package and for those that `fastmunit.accelerate` recognizes:

- norm, activation, residual sum and the padding of the next convolution are one `functional.fused_norm`;
- the bias of a convolution is added by that op, or left out if the norm cancels it;
- upsampling and the convolution after it run on the low-resolution map;
- two convolutions with AdaIN and a residual sum are one `functional.adain_residual_block`;
- in backward, the input of a convolution is recomputed instead of stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from fastmunit.functional import PadMode
from fastmunit.functional.recompute import RecomputableMap
from fastmunit.nn.fused.iteration_cache import active_cache
from fastmunit.nn.fused.layers import (
    Activation,
    AveragePool,
    Convolution,
    Layer,
    Norm,
    Other,
    Pad,
    ResidualEnd,
    ResidualStart,
    Upsample,
    is_plain,
)
from fastmunit.nn.fused.steps import AdaINBlock, Call, Convolve, Keep, Mode, State, Step, Write, mode_of
from fastmunit.nn.fused.weight_copies import PassWeights

_Kind = TypeVar("_Kind")


@dataclass
class Chain:
    """Steps that compute the same as the layers they were planned from."""

    steps: list[Step]

    def run(self, x: Tensor, mode: Mode | None = None) -> Tensor:
        """Run all steps on a map (N, C, H, W). The default mode is `mode_of(x)`."""
        state = State(RecomputableMap(x, x, None), mode or mode_of(x))
        with opened_weights([self], state.mode):
            self.advance(state)
        return state.result()

    def advance(self, state: State) -> None:
        """Run all steps as the next part of a longer forward pass."""
        for step in self.steps:
            step.run(state)

    def weights(self, mode: Mode) -> PassWeights:
        """Return the weights that plain convolutions and norms of the chain read as they are, or leave out."""
        steps = [step for step in self.of(Convolve) if step.plain]
        cast = [weight for step in steps for weight in step.weights(mode)]
        cancelled = [step.conv.bias for step in steps if step.cancels_bias(mode)]
        added = [step.conv.bias for step in steps if step.left_out == "added"] if mode.fused else []
        scales = [parameter for step in self.of(Write) for parameter in step.parameters()]
        return PassWeights(cast, cancelled, [weight for weight in (*added, *scales) if weight is not None])

    def of(self, kind: type[_Kind]) -> Iterator[_Kind]:
        """Iterate over the steps of one kind, including those of AdaIN blocks."""
        for step in self.steps:
            for inner in step.steps if isinstance(step, AdaINBlock) else (step,):
                if isinstance(inner, kind):
                    yield inner


def opened_weights(
    chains: Sequence[Chain], mode: Mode, others: Sequence[Tensor] = ()
) -> AbstractContextManager[object]:
    """Return a context in which networks read what an iteration's cache, if there is one, opens for their weights.

    Args:
        chains: Chains of a network.
        mode: Mode of the forward pass.
        others: Further weights that the network reads with `shared_weight`.
    """
    cache = active_cache()
    if cache is None or mode.exact:
        return nullcontext()
    groups = zip(*(chain.weights(mode) for chain in chains), strict=True)
    cast, left_out, uncast = ([weight for weights in group for weight in weights] for group in groups)
    return cache.opened([*cast, *others], left_out, uncast)


def plan(layers: Sequence[Layer]) -> Chain:
    """Group layers into steps."""
    steps: list[Step] = []
    position = 0
    while position < len(layers):
        previous = steps[-1] if steps else None
        after = previous if isinstance(previous, Convolve) else None
        step: Step
        step, used = _write(layers, position, after)
        if not used:
            step, used = _other(layers, position)
        steps.append(step)
        position += used
        if isinstance(step, Write) and step.adds:
            block = _adain_block(steps[-4:])
            if block is not None:
                steps[-4:] = [block]
    return Chain(steps)


def _write(layers: Sequence[Layer], start: int, after: Convolve | None) -> tuple[Write, int]:
    """Return the op that begins at a layer and the number of its layers, which is 0 if no op should begin there.

    Args:
        layers: All layers.
        start: Index of the first layer of the op.
        after: The convolution directly before, if there is one. An activation may be part of the op although the
            module works in place: only a map that a convolution has just written is seen by nobody else.
    """
    write, position = Write(), start
    norm = _layer(layers, position, Norm)
    if norm is not None:
        write.norm = norm
        position += 1
    activation = _layer(layers, position, Activation)
    if activation is not None and (after is not None or norm is not None):
        write.activation = activation
        position += 1
    if _layer(layers, position, ResidualEnd) is not None:
        write.adds = True
        position += 1
    end = position
    while _layer(layers, end, ResidualStart) is not None:
        end += 1
    pad = _layer(layers, end, Pad)
    # The result without padding is a view of the padded one, so a called module that writes in place would change it.
    if pad is not None and (end == position or _layer(layers, end + 1, Convolution) is not None):
        write.pad, write.keeps, position = pad, end - position, end + 1
        following = _layer(layers, position, Convolution)
        write.convolved = write.keeps == 0 and following is not None and is_plain(following.module)
    elif end == position > start:
        write.upsampling, _ = _upsampling_convolution(layers, position)
    if after is not None and position > start:
        # Before an activation that is not fused, x is shuffled first. That keeps the bits of earlier versions.
        after.shuffled = after.upsampled is not None and _layer(layers, position, Other) is None
        _leave_bias(after, write)
    return write, position - start


def _leave_bias(convolve: Convolve, write: Write) -> None:
    """Leave the bias of a convolution to the op after it, if that adds or cancels biases."""
    if write.norm is None and write.activation is not None:
        convolve.left_out = "added"
    elif write.norm is not None and write.norm.kind != "layer":
        convolve.left_out = "cancelled"


def _other(layers: Sequence[Layer], start: int) -> tuple[Step, int]:
    """Return the step that begins at a layer, and the number of its layers."""
    layer = layers[start]
    if isinstance(layer, Upsample):
        convolve, used = _upsampling_convolution(layers, start)
        return (Call(layer.module), 1) if convolve is None else (convolve, used)
    if isinstance(layer, Convolution):
        averaged = _layer(layers, start + 1, AveragePool) is not None
        return Convolve(layer.module, is_plain(layer.module), averaged=averaged), 2 if averaged else 1
    if isinstance(layer, ResidualStart):
        return Keep(), 1
    if isinstance(layer, Activation):
        return Call(layer.module), 1
    assert isinstance(layer, Other), f"{layer} has no step of its own"
    return Call(layer.function), 1


def _upsampling_convolution(layers: Sequence[Layer], start: int) -> tuple[Convolve | None, int]:
    """Return the upsampling convolution that begins at a layer, if one does, and the number of its layers."""
    if _layer(layers, start, Upsample) is None:
        return None, 0
    pad = _layer(layers, start + 1, Pad)
    used = 2 if pad is None else 3
    following = _layer(layers, start + used - 1, Convolution)
    if following is None or not is_plain(following.module):
        return None, 0
    upsampled = _upsampling_mode(following.module, pad)
    if upsampled is None:
        return None, 0
    return Convolve(following.module, plain=True, upsampled=upsampled), used


def _upsampling_mode(conv: Any, pad: Pad | None) -> PadMode | None:
    """Return the fill mode if `functional.upsample_conv2d` can compute upsampling, pad and convolution, else None."""
    k = conv.kernel_size[0]
    pixels, mode = pad or Pad()
    fits = type(conv) is nn.Conv2d and k >= 3 and pixels == (k // 2 if pad else 0) and _fits(conv, k, k // 2 - pixels)
    return mode if fits else None


def _adain_block(steps: list[Step]) -> AdaINBlock | None:
    """Return four steps as one, if they are a residual block that `functional.adain_residual_block` computes."""
    if len(steps) < 4:
        return None
    first, first_op, second, second_op = steps
    if not (
        isinstance(first, Convolve)
        and isinstance(first_op, Write)
        and isinstance(second, Convolve)
        and isinstance(second_op, Write)
        and _is_adain(first_op)
        and _is_adain(second_op)
        and not first_op.adds
        and first_op.keeps == 0
        and second_op.activation is None
        and first_op.norm.module.eps == second_op.norm.module.eps  # type: ignore[union-attr]
        and _keeps_size(first, first_op.pad.pixels)
        and _keeps_size(second, first_op.pad.pixels)
        and first.conv.kernel_size == second.conv.kernel_size
    ):
        return None
    pad_mode = first_op.pad.pad_mode if first_op.pad.pixels else "zero"
    if second_op.pad.pixels and second_op.pad.pad_mode != pad_mode:
        return None
    return AdaINBlock((first, first_op, second, second_op), pad_mode)


def _is_adain(write: Write) -> bool:
    return write.norm is not None and write.norm.kind == "adain"


def _keeps_size(convolve: Convolve, pad: int) -> bool:
    """Return True for a plain k x k convolution, k odd, that is padded by k // 2: by `pad` or by itself."""
    conv = convolve.conv
    return (
        convolve.plain
        and type(conv) is nn.Conv2d
        and convolve.upsampled is None
        and not convolve.averaged
        and _fits(conv, conv.kernel_size[0], conv.kernel_size[0] // 2 - pad)
    )


def _fits(conv: nn.Conv2d, k: int, padding: int) -> bool:
    """Return True for a k x k convolution with stride 1, k odd, and this padding of zeros."""
    return (
        conv.kernel_size == (k, k)
        and k % 2 == 1
        and conv.padding == (padding, padding)
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
    )


def _layer(layers: Sequence[Layer], position: int, kind: type[_Kind]) -> _Kind | None:
    """Return the layer at a position if it exists and has this kind, else None."""
    layer = layers[position] if position < len(layers) else None
    return layer if isinstance(layer, kind) else None
