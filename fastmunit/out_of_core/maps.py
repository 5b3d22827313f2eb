"""Maps of a network that are computed region by region, on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit import functional
from fastmunit.functional import Activation
from fastmunit.out_of_core.moments import Moments, NormKind
from fastmunit.region import Region


class Map(ABC):
    """A map (1, channels, height, width) of a network, as a function of other maps.

    Attributes:
        channels: Number of channels.
        height: Number of rows.
        width: Number of columns.
        dtype: Type of its values.
        inputs: Maps that it is computed from.
        name: Name that is unique in a translation and the same in each run. It names files and statistics.
        scope: What a map depends on besides image and weights: the key of a style, or nothing.
    """

    is_windowed = False
    """True if a value depends on several pixels of an input."""

    products = 0
    """Multiplications per value, if the map is computed by a convolution."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        inputs: Sequence[Map] = (),
        scope: str = "",
    ) -> None:
        self.channels, self.height, self.width = shape
        self.dtype = dtype
        self.inputs = tuple(inputs)
        self.name = ""
        scopes = [found for found in (scope, *(x.scope for x in inputs)) if found]
        self.scope: str = scopes[0] if scopes else ""
        assert scopes.count(self.scope) == len(scopes), f"a map of several styles: {scopes}"

    @property
    def whole(self) -> Region:
        """The region of all pixels."""
        return Region(0, 0, self.height, self.width)

    def bytes_of(self, region: Region) -> int:
        """Return the bytes of the values in a region."""
        return self.channels * region.height * region.width * self.dtype.itemsize

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """Statistics that must be known before a value can be computed."""
        return ()

    @abstractmethod
    def needs(self, region: Region) -> tuple[Region, ...]:
        """Return the region of each input that the values in a region are computed from."""

    @abstractmethod
    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        """Return the values (1, channels, h, w) in a region.

        Args:
            region: The region.
            tiles: The values of the inputs in the regions that `needs` returns. They may be overwritten.
        """

    def working_bytes(self, region: Region, inputs: int) -> int:
        """Return the bytes of memory that `compute` takes at its peak.

        Args:
            region: The region.
            inputs: Bytes of the tiles, which are included in the result.
        """
        return inputs + self.bytes_of(region)


@dataclass(eq=False)
class Reduction:
    """Statistics over all pixels of a map.

    Attributes:
        source: The map.
        moments: The statistics, once they are known.
    """

    source: Map
    moments: Moments | None = None

    def known(self) -> Moments:
        """Return the statistics."""
        assert self.moments is not None, f"the statistics of {self.source.name} are not known yet"
        return self.moments


class Pointwise(Map):
    """A function of each value of a map by itself, such as tanh.

    Args:
        x: The map.
        function: Function of a tile, which it may overwrite.
    """

    def __init__(self, x: Map, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__((x.channels, x.height, x.width), x.dtype, (x,))
        self._function = function

    def needs(self, region: Region) -> tuple[Region, ...]:
        return (region,)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        return self._function(tiles[0])


@dataclass(frozen=True)
class Normalization:
    """A norm with statistics over the image.

    Attributes:
        reduction: Statistics of the map that is normalized.
        kind: "instance", for AdaIN too, or "layer".
        eps: Number that is added to the variance or standard deviation.
        weight: Factor of each channel, (C,), or None.
        bias: Summand of each channel, (C,), or None.
    """

    reduction: Reduction
    kind: NormKind
    eps: float
    weight: Tensor | None
    bias: Tensor | None

    def known(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and rstd as arguments of `functional.fused_norm`."""
        moments = self.reduction.known()
        mean, rstd = moments.normalization(self.kind, self.eps)
        if self.kind == "instance" and moments.is_constant(self.reduction.source.dtype):
            # Tiles of several sizes round differently, and norms of a blank image would amplify that to visible tiles.
            rstd = torch.zeros_like(rstd)
        return mean.to(device), rstd.to(device)


class Written(Map):
    """Norm, activation and sum of a residual block: act((x - mean) * rstd * weight + bias) + residual.

    Args:
        x: The map.
        normalization: The norm, if there is one.
        activation: Name of the activation.
        negative_slope: Slope of LeakyReLU.
        residual: Map to add at the end, if there is one.
        scope: Key of the style that weight and bias belong to.
    """

    def __init__(
        self,
        x: Map,
        normalization: Normalization | None,
        activation: Activation,
        negative_slope: float,
        residual: Map | None,
        scope: str = "",
    ) -> None:
        inputs = (x,) if residual is None else (x, residual)
        super().__init__((x.channels, x.height, x.width), x.dtype, inputs, scope)
        self._normalization = normalization
        self._activation, self._negative_slope = activation, negative_slope

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        return () if self._normalization is None else (self._normalization.reduction,)

    def needs(self, region: Region) -> tuple[Region, ...]:
        return (region,) * len(self.inputs)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        norm = self._normalization
        statistics: functional.Statistics = "none"
        weight = bias = mean = rstd = None
        if norm is not None:
            statistics, weight, bias = norm.kind, norm.weight, norm.bias
            mean, rstd = norm.known(tiles[0].device)
        return functional.fused_norm(
            tiles[0],
            weight,
            bias,
            statistics=statistics,
            mean=mean,
            rstd=rstd,
            activation=self._activation,
            negative_slope=self._negative_slope,
            residual=tiles[1].to(tiles[0].dtype) if len(tiles) > 1 else None,
        )[0]


class Product(Map):
    """The product of two maps of equal size, such as a map and the mask of its dropout."""

    def __init__(self, x: Map, other: Map) -> None:
        super().__init__((x.channels, x.height, x.width), x.dtype, (x, other))

    def needs(self, region: Region) -> tuple[Region, ...]:
        return region, region

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        return tiles[0].mul_(tiles[1])

    def working_bytes(self, region: Region, inputs: int) -> int:
        return inputs


class Added(Map):
    """The sum of two maps of equal size in the dtype of the first one."""

    def __init__(self, x: Map, other: Map) -> None:
        super().__init__((x.channels, x.height, x.width), x.dtype, (x, other))

    def needs(self, region: Region) -> tuple[Region, ...]:
        return region, region

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        return tiles[0].add_(tiles[1].to(tiles[0].dtype))


class Joined(Map):
    """The channels of several maps of equal size."""

    def __init__(self, parts: Sequence[Map]) -> None:
        first = parts[0]
        super().__init__((sum(part.channels for part in parts), first.height, first.width), first.dtype, parts)

    def needs(self, region: Region) -> tuple[Region, ...]:
        return (region,) * len(self.inputs)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        return torch.cat([tile.to(self.dtype) for tile in tiles], dim=1)


class Planes(Map):
    """Channels of one value each, such as the entries of a latent vector.

    Args:
        values: The values, (C,).
        height: Number of rows.
        width: Number of columns.
        scope: Key of the style that the vector belongs to.
    """

    def __init__(self, values: Tensor, height: int, width: int, scope: str) -> None:
        super().__init__((len(values), height, width), values.dtype, (), scope)
        self._values = values

    def needs(self, region: Region) -> tuple[Region, ...]:
        return ()

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        return self._values.view(1, -1, 1, 1).expand(1, -1, region.height, region.width)
