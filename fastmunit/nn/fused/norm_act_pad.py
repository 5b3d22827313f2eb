"""Maps with the pad that the next convolution reads, and the one op between two convolutions that writes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.functional import Activation, PadMode, Statistics
from fastmunit.functional.recompute import Recompute, recomputes
from fastmunit.nn.layers.norm import AdaptiveInstanceNorm2d, InstanceNorm2d, LayerNorm


class Pad(NamedTuple):
    """What the next convolution wants around its input: pixels a side, and what they show."""

    pixels: int = 0
    mode: PadMode = "zero"


class PaddedMap(NamedTuple):
    """A map (N, C, H, W), and the same with a pad around it (N, C, H + 2 pad, W + 2 pad).

    Where there is a recipe it gives `padded` again: for a layer to keep in place of it, see `functional/recompute.py`.
    """

    padded: Tensor
    interior: Tensor
    recipe: Recompute | None = None


class FusedForm(NamedTuple):
    """A norm and an activation as arguments of `functional.fused_norm`."""

    weight: Tensor | None
    bias: Tensor | None
    statistics: Statistics
    eps: float
    activation: Activation
    negative_slope: float


def fused_form(
    norm: nn.Module | None, activation: nn.Module | None, style: tuple[Tensor, Tensor] | None = None
) -> FusedForm | None:
    """How `functional.fused_norm` does this norm and activation; None where it does not know one of them.

    Args:
        norm: None, InstanceNorm2d, AdaptiveInstanceNorm2d or LayerNorm.
        activation: None, ReLU or LeakyReLU.
        style: (weight, bias), (N, C) each, of an AdaptiveInstanceNorm2d.
    """
    name: Activation
    slope = 0.0
    match activation:
        case None:
            name = "none"
        case nn.ReLU():
            name = "relu"
        case nn.LeakyReLU():
            name, slope = "leaky_relu", activation.negative_slope
        case _:
            return None
    match norm:
        case None:
            return FusedForm(None, None, "none", 0.0, name, slope)
        case InstanceNorm2d():
            return FusedForm(None, None, "instance", norm.eps, name, slope)
        case AdaptiveInstanceNorm2d() if style is not None:
            return FusedForm(*style, "instance", norm.eps, name, slope)
        case LayerNorm():
            return FusedForm(norm.gamma, norm.beta, "layer", norm.eps, name, slope)
        case _:
            return None


def pad_map(x: Tensor, pad: Pad) -> PaddedMap:
    """Pad a map (N, C, H, W)."""
    if pad.pixels == 0:
        return PaddedMap(x, x)
    return PaddedMap(functional.bias_act_pad(x, pad=pad.pixels, pad_mode=pad.mode)[0], x)


def normalise(
    x: Tensor,
    norm: nn.Module | None,
    activation: nn.Module | None,
    style: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
    pad: Pad | None = None,
    pixel_shuffle: bool = False,
    bias: Tensor | None = None,
) -> PaddedMap:
    """activation(norm(x)) + residual, padded: one op where `functional.fused_norm` knows both layers.

    Args:
        x: what the convolution gave, (N, C, H, W); with pixel_shuffle, (N, 4 C, H/2, W/2).
        norm: a norm layer or None.
        activation: an activation layer or None.
        style: (weight, bias) of an AdaptiveInstanceNorm2d.
        residual: (N, C, H, W), added last.
        pad: what the next convolution wants; None for nothing.
        pixel_shuffle: x comes from `functional.upsample_conv2d(..., unshuffled=True)`.
        bias: that of the convolution, (C,), where it was left out and there is no norm.
    """
    pad = pad or Pad()
    form = fused_form(norm, activation, style)
    if form is not None:
        return run_form(x, form if bias is None else form._replace(bias=bias), residual, pad, pixel_shuffle)
    if pixel_shuffle:
        x = nn.functional.pixel_shuffle(x, 2)
    if norm is not None:
        x = norm(x, *(style or ()))
    if activation is not None:
        x = activation(x)
    if residual is not None:
        x = x + residual.to(x.dtype)
    return pad_map(x, pad)


def run_form(
    x: Tensor, form: FusedForm, residual: Tensor | None = None, pad: Pad | None = None, pixel_shuffle: bool = False
) -> PaddedMap:
    """One `functional.fused_norm`, if there is anything for it to do. Arguments as in `normalise`."""
    pad = pad or Pad()
    changes = form.statistics != "none" or form.activation != "none" or form.weight is not None or form.bias is not None
    if not changes and residual is None and not pixel_shuffle:
        return pad_map(x, pad)
    run = partial(
        functional.fused_norm,
        statistics=form.statistics,
        activation=form.activation,
        negative_slope=form.negative_slope,
        pad=pad.pixels,
        pad_mode=pad.mode,
        eps=form.eps,
        pixel_shuffle=pixel_shuffle,
    )
    residual = None if residual is None else residual.to(x.dtype)
    padded, interior = run(x, form.weight, form.bias, residual=residual)
    recipe = _recipe(run, x, form) if residual is None and recomputes() and x.requires_grad else None
    return PaddedMap(padded, interior, recipe)


def _recipe(run: Callable[..., tuple[Tensor, Tensor]], x: Tensor, form: FusedForm) -> Recompute | None:
    """How to run the same kernel again on the same input; None on the reference path, which keeps what torch keeps."""
    implementation = functional.implementation_of("fused_norm", x, form.statistics)
    if implementation == "reference":
        return None
    kept = x.detach()
    weight, bias = (None if tensor is None else tensor.detach() for tensor in (form.weight, form.bias))

    def recipe() -> Tensor:
        with torch.no_grad():
            return run(kept, weight, bias, implementation=implementation)[0]

    return recipe
