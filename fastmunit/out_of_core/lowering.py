"""Chains of layers as maps that are computed region by region."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastmunit.errors import FastmunitError
from fastmunit.nn.fused.chain import Chain
from fastmunit.nn.fused.layers import Norm, has_hooks, is_global_average, is_nearest_upsampling
from fastmunit.nn.fused.steps import AdaINBlock, Call, Convolve, Keep, Step, Write, activation_args
from fastmunit.nn.layers.batch_norm import BatchNorm2d
from fastmunit.nn.layers.dropout import Dropout
from fastmunit.nn.layers.upsampling import upsample_bilinear
from fastmunit.out_of_core.drawn import Drawn, Masks
from fastmunit.out_of_core.maps import Map, Normalization, Pointwise, Product, Reduction, Written
from fastmunit.out_of_core.moments import NormKind
from fastmunit.out_of_core.windows import Convolved, Padded, TransposedConvolved, Upsampled, UpsampledConvolved

_POINTWISE = (nn.Tanh, nn.PReLU, nn.SELU, nn.ReLU, nn.LeakyReLU, nn.Identity)

_M = TypeVar("_M", bound=Map)


class Lowering:
    """The maps of a translation. Equal layers of equal maps are one map, so that styles share what they can.

    Args:
        product_dtype: Type of the results of convolutions.
        device: Device of the networks.
    """

    def __init__(self, product_dtype: torch.dtype, device: torch.device) -> None:
        self._product_dtype, self.device = product_dtype, device
        self._maps: dict[Hashable, Map] = {}
        self._kept: list[object] = []  # what a key names by its id must not be freed
        self._reductions: dict[Map, Reduction] = {}
        self._names: set[str] = set()

    def reduction(self, x: Map) -> Reduction:
        """Return the statistics of a map."""
        return self._reductions.setdefault(x, Reduction(x))

    @property
    def reductions(self) -> list[Reduction]:
        """All statistics, in the order of the layers."""
        return list(self._reductions.values())

    def once(self, key: Sequence[object], name: str, make: Callable[[], _M]) -> _M:
        """Return the map with a key, which is made and named if there is none.

        Args:
            key: What the map is computed from: maps, modules, tensors and values.
            name: Name of the layer.
            make: Function that makes the map.
        """
        parts = tuple(id(part) if isinstance(part, Tensor | nn.Module) else part for part in key)
        found = self._maps.get(parts)
        if found is None:
            self._kept.append(key)
            found = self._maps[parts] = make()
            found.name = f"{found.scope}/{name}" if found.scope else name
            assert found.name not in self._names, f"two maps are named {found.name}"
            self._names.add(found.name)
        return found  # type: ignore[return-value]

    def chain(self, chain: Chain, x: Map, name: str, scope: str = "", masks: Masks | None = None) -> Map:
        """Return the result of a chain.

        Args:
            chain: The chain.
            x: Its input.
            name: Name of the chain.
            scope: Key of the style that AdaIN parameters and masks come from.
            masks: Dropout masks of the style.

        Raises:
            FastmunitError: If a layer cannot be computed region by region.
        """
        walk = _Walk(self, name, scope, masks)
        return walk.run(chain.steps, x)

    def until_average(self, chain: Chain, x: Map, name: str) -> tuple[Map, Chain]:
        """Return the map that a chain averages over all pixels, and the rest of the chain after that."""
        for position, step in enumerate(chain.steps):
            if isinstance(step, Call) and is_global_average(step.function):
                before, after = Chain(chain.steps[:position]), Chain(chain.steps[position + 1 :])
                return self.chain(before, x, name), after
        raise FastmunitError("this style encoder has no average over all pixels, so it cannot run region by region.")

    def product_dtype(self, x: Map) -> torch.dtype:
        """Return the type of a convolution's result."""
        return self._product_dtype


class _Walk:
    """The steps of one chain, in order."""

    def __init__(self, lowering: Lowering, name: str, scope: str, masks: Masks | None) -> None:
        self._lowering, self._name = lowering, name
        self._scope, self._masks = scope, masks
        self._residuals: list[Map] = []
        self._position = 0

    def run(self, steps: Sequence[Step], x: Map) -> Map:
        for step in steps:
            if isinstance(step, AdaINBlock):
                x = self.run(step.steps, x)
            elif isinstance(step, Keep):
                self._residuals.append(x)
            elif isinstance(step, Convolve):
                x = self._convolved(step, x)
            elif isinstance(step, Write):
                x = self._written(step, x)
            else:
                x = self._called(step.function, x)
        return x

    def _once(self, kind: str, key: Sequence[object], make: Callable[[], _M]) -> _M:
        name = f"{self._name}.{self._position}.{kind}"
        self._position += 1
        return self._lowering.once((kind, *key), name, make)

    def _convolved(self, step: Convolve, x: Map) -> Map:
        conv = step.conv
        if not step.plain or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise _unsupported(conv)
        bias = None if step.left_out == "cancelled" else conv.bias
        dtype = self._lowering.product_dtype(x)
        mode = step.upsampled
        if mode is not None:
            return self._once("conv", (x, conv, mode), lambda: UpsampledConvolved(x, conv, bias, dtype, mode))
        if isinstance(conv, nn.ConvTranspose2d):
            return self._once("conv", (x, conv), lambda: TransposedConvolved(x, conv, bias, dtype))
        return self._once("conv", (x, conv, step.averaged), lambda: Convolved(x, conv, bias, dtype, step.averaged))

    def _written(self, step: Write, x: Map) -> Map:
        residual = self._residuals.pop() if step.adds else None
        # A bias that is "added" here is part of the convolution.
        if step.norm or step.activation or residual is not None:
            x = self._normalized(step, x, residual)
        self._residuals += [x] * step.keeps
        if step.pad.pixels:
            inner = x
            x = self._once("pad", (inner, step.pad), lambda: Padded(inner, *step.pad))
        return x

    def _normalized(self, step: Write, x: Map, residual: Map | None) -> Map:
        activation, slope = activation_args(step.activation)
        norm, scope = None, ""
        parameters: tuple[Tensor | None, Tensor | None] = (None, None)
        if step.norm is not None:
            norm, parameters = self._normalization(step.norm, x)
            scope = self._scope if step.norm.kind == "adain" else ""
        key = (x, residual, *parameters, step.norm and step.norm.kind, activation, slope, scope)
        return self._once("norm", key, lambda: Written(x, norm, activation, slope, residual, scope))

    def _normalization(self, norm: Norm, x: Map) -> tuple[Normalization, tuple[Tensor | None, Tensor | None]]:
        kind: NormKind = "layer" if norm.kind == "layer" else "instance"
        if norm.kind == "adain":
            weights, biases = norm.style_of(1)
            parameters: tuple[Tensor | None, Tensor | None] = (weights[0], biases[0])
        else:
            parameters = norm.parameters()
        return Normalization(self._lowering.reduction(x), kind, norm.module.eps, *parameters), parameters

    def _called(self, function: Any, x: Map) -> Map:
        if isinstance(function, nn.Module) and has_hooks(function):
            raise _unsupported(function)
        if function is upsample_bilinear:
            return self._once("up", (x, "bilinear"), lambda: Upsampled(x, "bilinear"))
        if isinstance(function, nn.Module) and is_nearest_upsampling(function):
            return self._once("up", (x, "nearest"), lambda: Upsampled(x, "nearest"))
        if isinstance(function, Dropout):
            return self._dropped(function, x)
        is_batch_norm = type(function) in (BatchNorm2d, nn.BatchNorm2d) and not function.training
        if type(function) in _POINTWISE or (is_batch_norm and function.track_running_stats):
            return self._once("call", (x, function), lambda: Pointwise(x, function))
        raise _unsupported(function)

    def _dropped(self, dropout: Dropout, x: Map) -> Map:
        if not dropout.active:
            return x
        assert self._masks is not None, "active dropout needs masks"
        mask = self._masks.layer((x.channels, x.height, x.width), dropout.rate, x.dtype)
        drawn = self._once("mask", (x, dropout, self._scope), lambda: Drawn(x, mask, x.dtype, self._scope))
        return self._once("dropout", (x, drawn), lambda: Product(x, drawn))


def _unsupported(layer: object) -> FastmunitError:
    name = type(layer).__name__ if isinstance(layer, nn.Module) else getattr(layer, "__name__", str(layer))
    return FastmunitError(
        f"the layer {name} cannot be computed region by region: give more --memory, so that the image is translated as "
        "a whole."
    )
