"""Maps that backward computes again from the convolution before them, instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

Recipe = Callable[[], Tensor]

_enabled: ContextVar[bool] = ContextVar("fastmunit_recompute", default=True)


@contextmanager
def recompute(enabled: bool) -> Iterator[None]:
    """Choose whether networks that run inside compute their maps again in backward (the default) or keep them.

    A layer of pad, convolution, norm and activation keeps its convolution's result for backward either way. Norm,
    activation and pad are computed again from it: half of the memory and less, for a few percent of a convolution's
    time. The gradients are the same to the last bit.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def recomputes() -> bool:
    """Whether maps are to be computed again; under torch.compile, which decides itself what to keep, they are not."""
    return not torch.compiler.is_compiling() and torch.is_grad_enabled() and _enabled.get()


@contextmanager
def kept_as(recipe: Recipe | None, result: Tensor) -> Iterator[None]:
    """What is saved for backward inside, where it is `result`, is kept as the recipe that gives the same values."""
    if recipe is None:
        yield
        return

    # Of nested hooks torch runs the innermost alone: what is not replaced goes on to the caller's.
    outer_pack, outer_unpack = torch._C._autograd._top_saved_tensors_default_hooks(True) or (_identity, _identity)

    def pack(saved: Tensor) -> Any:
        same = saved.data_ptr() == result.data_ptr() and saved.shape == result.shape and saved.dtype == result.dtype
        return (recipe, None) if same and saved.stride() == result.stride() else (None, outer_pack(saved))

    def unpack(packed: tuple[Recipe | None, Any]) -> Tensor:
        run, saved = packed
        return outer_unpack(saved) if run is None else run()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _identity(value: Any) -> Any:
    return value
