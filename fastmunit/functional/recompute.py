"""Recomputation in backward: padded maps are computed again from the convolution before them instead of stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastmunit.functional.fused_norm import FusedNormKeywords, fused_norm
from fastmunit.functional.implementation import choose
from fastmunit.fused_norm_options import Statistics

if TYPE_CHECKING:
    from typing_extensions import Unpack

Recompute = Callable[[], Tensor]

_enabled: ContextVar[bool] = ContextVar("fastmunit_recompute", default=True)


@contextmanager
def recompute(enabled: bool) -> Iterator[None]:
    """Choose whether networks that run inside recompute their maps in backward (the default) or store them.

    A layer of padding, convolution, norm and activation stores the result of its convolution for backward in any case.
    Norm, activation and padding are recomputed from it. This halves the memory, or better, and costs a few percent of
    the time of a convolution. The gradients are the same to the last bit.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def recomputes() -> bool:
    """Return True if maps are recomputed in backward. torch.compile decides by itself what to store."""
    return not torch.compiler.is_compiling() and torch.is_grad_enabled() and _enabled.get()


class RecomputableMap(NamedTuple):
    """The results of a `fused_norm`, and a function that computes `padded` again, or None if it must be stored."""

    padded: Tensor
    interior: Tensor
    recompute: Recompute | None


def recomputable_fused_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    statistics: Statistics,
    **options: Unpack[FusedNormKeywords],
) -> RecomputableMap:
    """Call `fused_norm`, and return how to repeat it in backward.

    `recompute` is None for the reference, which stores what torch stores, and with a residual, which is not stored
    otherwise. It runs the same kernel on the same input, so it returns the same bits.
    """
    chosen = choose("fused_norm", options.get("implementation", "auto"), x, statistics=statistics)
    options["implementation"] = chosen
    padded, interior = fused_norm(x, weight, bias, statistics=statistics, **options)
    if chosen == "reference" or options.get("residual") is not None or not (recomputes() and x.requires_grad):
        return RecomputableMap(padded, interior, None)
    stored = [None if tensor is None else tensor.detach() for tensor in (x, weight, bias)]

    def again() -> Tensor:
        with torch.no_grad():
            return fused_norm(*stored, statistics=statistics, **options)[0]  # type: ignore[arg-type]

    return RecomputableMap(padded, interior, again)


@contextmanager
def replace_saved(tensor: Tensor, with_: Recompute | None) -> Iterator[None]:
    """Make autograd store `with_` instead of `tensor` inside this context, and call it in backward.

    Args:
        tensor: Tensor that the operations inside would save for backward.
        with_: Function that returns the same values. None stores the tensor itself.
    """
    if with_ is None:
        yield
        return

    # torch runs only the innermost of nested hooks, so tensors that are not replaced are passed to the outer hooks.
    outer_pack, outer_unpack = torch._C._autograd._top_saved_tensors_default_hooks(True) or (_identity, _identity)

    replaced = _identity_of(tensor)  # autograd keeps `pack`, which must not keep the tensor

    def pack(saved: Tensor) -> Any:
        return (with_, None) if _identity_of(saved) == replaced else (None, outer_pack(saved))

    def unpack(packed: tuple[Recompute | None, Any]) -> Tensor:
        run, saved = packed
        return outer_unpack(saved) if run is None else run()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _identity_of(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _identity(value: Any) -> Any:
    return value
