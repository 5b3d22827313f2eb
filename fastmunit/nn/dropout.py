"""Dropout that a system may keep on when it translates."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.nn.padded import PaddedMap


class Dropout(nn.Module):
    """Zeroes each value with probability `rate` and scales the others by 1 / (1 - rate); x of any shape.

    Masks come from torch's global generator of x's device. Source: Srivastava et al. 2014; Isola et al. 2017, section
    3.2.1, which leaves it on at test time as the only source of noise.

    Args:
        rate: 0 for none.
        at_test: draw masks in eval mode too.
    """

    def __init__(self, rate: float = 0.5, at_test: bool = False) -> None:
        super().__init__()
        self.rate = rate
        self.at_test = at_test

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate) if self.active else x

    @property
    def active(self) -> bool:
        """Whether a call draws a mask."""
        return self.rate > 0 and (self.training or self.at_test)

    def run(self, x: PaddedMap) -> PaddedMap:
        """`forward` on a map without pad, which cannot be computed again where a mask was drawn."""
        if not self.active:
            return x
        dropped = self(x.interior)
        return PaddedMap(dropped, dropped)

    def extra_repr(self) -> str:
        return f"{self.rate}, at_test={self.at_test}"
