"""Maps of random numbers that are drawn as the translator draws them, in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastmunit.nn.layers.dropout import mask_pieces
from fastmunit.out_of_core.maps import Map
from fastmunit.region import Region

# torch draws normal numbers in groups of 16, so that pieces of multiples of 16 are those of one long draw.
_PIECE = 1 << 20


class Stream(Protocol):
    """Random numbers of one map."""

    def pieces(self) -> Iterator[Tensor]:
        """Yield the values in the order of a contiguous map (C, H, W), some at a time."""


class Drawn(Map):
    """A map of random numbers. It is always stored, because numbers are drawn in their order.

    Args:
        x: Map of the same size.
        stream: The random numbers.
        dtype: Type of the values.
        scope: Key of the style that is the seed.
    """

    def __init__(self, x: Map, stream: Stream, dtype: torch.dtype, scope: str) -> None:
        super().__init__((x.channels, x.height, x.width), dtype, (), scope)
        self.stream = stream

    def needs(self, region: Region) -> tuple[Region, ...]:
        return ()

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        raise AssertionError(f"{self.name} is drawn before it is read")


class Noise:
    """Noise from N(0, 1) with a seed, as `noise_of` draws it: in float32."""

    def __init__(self, shape: tuple[int, int, int], seed: int) -> None:
        self._count = shape[0] * shape[1] * shape[2]
        self._seed = seed

    def pieces(self) -> Iterator[Tensor]:
        generator, left = torch.Generator().manual_seed(self._seed), self._count
        while left:
            # The last piece has at least 16 numbers: torch draws those of a shorter one in another way.
            count = left if left < _PIECE + 16 else _PIECE
            yield torch.randn(count, generator=generator)
            left -= count


class Masks:
    """The dropout masks of one style, which come from one generator in the order of the layers.

    Args:
        seed: Seed of the generator.
        device: Device of the generator.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device
        self._layers: list[tuple[tuple[int, ...], float, torch.dtype]] = []

    def layer(self, shape: tuple[int, int, int], rate: float, dtype: torch.dtype) -> Mask:
        """Return the mask of the next layer."""
        self._layers.append(((1, *shape), rate, dtype))
        return Mask(self, len(self._layers) - 1)

    def pieces(self, layer: int) -> Iterator[Tensor]:
        """Yield the mask of a layer. Those before it are drawn again, which costs little."""
        generator = torch.Generator(self._device).manual_seed(self._seed)
        for number, (shape, rate, dtype) in enumerate(self._layers[: layer + 1]):
            for piece in mask_pieces(shape, rate, generator, dtype):
                if number == layer:
                    yield piece


class Mask:
    """The mask of one layer."""

    def __init__(self, masks: Masks, layer: int) -> None:
        self._masks, self._layer = masks, layer

    def pieces(self) -> Iterator[Tensor]:
        return self._masks.pieces(self._layer)
