"""Dropout that a system can keep active during translation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import distributed
from fastmunit.nn.fused.layers import Layer, Other

MaskSource = Callable[[Tensor, float], Tensor]
"""A function of a tensor and the rate of zeros, which returns the mask to multiply the tensor with."""

_VALUES_PER_PIECE = 1 << 26

_source: ContextVar[torch.Generator | MaskSource | None] = ContextVar("fastmunit_dropout_masks", default=None)


@contextmanager
def masks_from(source: torch.Generator | MaskSource | None) -> Iterator[None]:
    """Draw the masks of `Dropout` in the with-block from a generator, or take them, in this thread only.

    torch's global generator, which a training in another thread may use at the same time, is then not touched.

    Args:
        source: A generator on any device. It draws the masks of tensors on its own device. For a tensor on another
            device, it draws the seed of a new generator there. A function returns the masks itself. None uses torch's
            global generator.
    """
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def draw_mask(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Draw the mask of a tensor with a generator; see `masks_from`. Values are 0 and 1 / (1 - rate).

    Masks of more than 2^26 values are drawn in pieces, so that they need not be in memory as a whole.
    """
    if generator.device.type != x.device.type:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        generator = torch.Generator(x.device).manual_seed(seed)
    if x.numel() <= _VALUES_PER_PIECE:
        return torch.empty_like(x).bernoulli_(1 - rate, generator=generator).div_(1 - rate)
    pieces = list(mask_pieces(x.shape, rate, generator, x.dtype))
    return torch.cat(pieces).view(x.shape)


def mask_pieces(
    shape: Sequence[int], rate: float, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Iterator[Tensor]:
    """Yield the mask that `draw_mask` returns for a tensor of this shape and dtype on the generator's device, in order.

    Args:
        shape: Shape of the tensor.
        rate: Rate of zeros.
        generator: Generator that draws the mask.
        dtype: Dtype of the tensor.
    """
    left = math.prod(shape)
    while left > 0:
        count = min(left, _VALUES_PER_PIECE)
        piece = torch.empty(count, dtype=dtype, device=generator.device)
        yield piece.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
        left -= count


def _dropped(x: Tensor, rate: float) -> Tensor:
    """Return dropout of x with a mask from the source of `masks_from`. On a CPU, this is what torch computes."""
    source = _source.get()
    if source is None:
        return F.dropout(x, rate)
    return x * (draw_mask(x, rate, source) if isinstance(source, torch.Generator) else source(x, rate))


def _share_of_mask(x: Tensor, rate: float) -> Tensor:
    """Return the factors of x, this process's share of a batch: the same that a single process would draw."""
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    whole = torch.empty(
        (len(x) * distributed.world_size(), *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=layout
    )
    return distributed.share(F.dropout(whole.fill_(1), rate))


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class Dropout(nn.Module):
    """Dropout of a tensor of any shape: zeroes values with probability `rate`, scales the others by 1 / (1 - rate).

    Masks come from torch's global generator of x's device, or from the source of `masks_from`. Source: Srivastava
    et al. 2014; Isola et al. 2017, section 3.2.1, where dropout at test time is the only source of noise.

    Args:
        rate: Probability of a zero. 0 disables dropout.
        at_test: Draw masks in eval mode, too.
    """

    def __init__(self, rate: float = 0.5, at_test: bool = False) -> None:
        super().__init__()
        self.rate = rate
        self.at_test = at_test

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        if self.training and distributed.is_active() and _source.get() is None:
            return x * _share_of_mask(x, self.rate)
        return _dropped(x, self.rate)

    @property
    def active(self) -> bool:
        """True if a call draws a mask."""
        return self.rate > 0 and (self.training or self.at_test)

    def layers(self) -> list[Layer]:
        """Return this module as a layer of a chain, or nothing while it is not active, so that ops are fused."""
        return [Other(self)] if self.active else []

    def extra_repr(self) -> str:
        return f"{self.rate}, at_test={self.at_test}"
