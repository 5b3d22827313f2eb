"""Maps whose values depend on windows of other maps: padding, convolution, pooling and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.functional import PadMode
from fastmunit.nn.fused.averaged_conv import averaged
from fastmunit.nn.fused.few_channel_conv import convolve
from fastmunit.out_of_core.maps import Map
from fastmunit.region import Region


class Axis(NamedTuple):
    """The parts of one axis of a padded window.

    Attributes:
        start: First pixel to read.
        stop: The pixel after the last one to read.
        before: Pixels of padding to add before it.
        after: Pixels of padding to add after it.
        skip: Pixels to leave out at the beginning of the result.
    """

    start: int
    stop: int
    before: int
    after: int
    skip: int


def axis_of(first: int, count: int, size: int, mode: PadMode) -> Axis:
    """Return what `count` pixels from `first` on consist of, on an axis of `size` pixels that is padded at its ends."""
    last = first + count
    start, stop = max(0, min(first, size - 1)), min(size, max(last, 1))
    if mode == "reflect":  # the pixels that are mirrored must be read
        if first < 0:
            stop = max(stop, min(size, 1 - first))
        if last > size:
            start = min(start, max(0, 2 * size - last - 1))
    before, after = max(0, -first), max(0, last - size)
    return Axis(start, stop, before, after, first - (start - before))


class Window(NamedTuple):
    """A rectangle that may extend beyond the borders of a map."""

    rows: Axis
    columns: Axis
    height: int
    width: int

    @property
    def region(self) -> Region:
        """The region to read."""
        rows, columns = self.rows, self.columns
        return Region(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)

    def fill(self, tile: Tensor, mode: PadMode) -> Tensor:
        """Return the rectangle, from what was read in `region`."""
        rows, columns = self.rows, self.columns
        if rows.before or rows.after or columns.before or columns.after:
            tile = padded(tile, rows, columns, mode)
        return cropped(tile, rows.skip, columns.skip, self.height, self.width)


def window_of(x: Map, top: int, left: int, height: int, width: int, mode: PadMode) -> Window:
    """Return the rectangle of a map with its padding."""
    return Window(axis_of(top, height, x.height, mode), axis_of(left, width, x.width, mode), height, width)


def padded(tile: Tensor, rows: Axis, columns: Axis, mode: PadMode) -> Tensor:
    """Pad a tile at its sides. In channels_last, this takes a fraction of the time of torch's padding."""
    height, width = tile.shape[2:]
    size = (rows.before + height + rows.after, columns.before + width + columns.after)
    y = torch.empty(*tile.shape[:2], *size, dtype=tile.dtype, device=tile.device, memory_format=torch.channels_last)
    inner = y.narrow(2, rows.before, height)
    inner.narrow(3, columns.before, width).copy_(tile)
    _fill_sides(inner, 3, columns, width, mode)
    _fill_sides(y, 2, rows, height, mode)
    return y


def _fill_sides(y: Tensor, dim: int, axis: Axis, size: int, mode: PadMode) -> None:
    """Fill what is before and after the `size` pixels in the middle of a dimension."""
    before, after = axis.before, axis.after
    tile, first, last = y.narrow(dim, before, size), y.narrow(dim, 0, before), y.narrow(dim, before + size, after)
    if mode == "zero":
        first.zero_()
        last.zero_()
    elif mode == "replicate":
        first.copy_(tile.narrow(dim, 0, 1).expand_as(first))
        last.copy_(tile.narrow(dim, size - 1, 1).expand_as(last))
    else:
        first.copy_(tile.narrow(dim, min(1, size - 1), before).flip(dim))
        last.copy_(tile.narrow(dim, size - 1 - after, after).flip(dim))


def cropped(tile: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return a rectangle of a tile as a view, or the tile itself if it is all of it."""
    if tile.shape[2:] == (height, width):
        return tile
    return tile[:, :, top : top + height, left : left + width]


class Padded(Map):
    """A map with padding at its borders.

    Args:
        x: The map.
        pixels: Width of the padding on each side.
        mode: Fill mode.
    """

    is_windowed = True

    def __init__(self, x: Map, pixels: int, mode: PadMode) -> None:
        super().__init__((x.channels, x.height + 2 * pixels, x.width + 2 * pixels), x.dtype, (x,))
        self._pixels, self._mode = pixels, mode

    def _window(self, region: Region) -> Window:
        top, left = region.top - self._pixels, region.left - self._pixels
        return window_of(self.inputs[0], top, left, region.height, region.width, self._mode)

    def needs(self, region: Region) -> tuple[Region, ...]:
        return (self._window(region).region,)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        return self._window(region).fill(tiles[0], self._mode)


class Convolved(Map):
    """The convolution of a map.

    Args:
        x: The map.
        conv: The convolution, which pads with zeros only.
        bias: Bias to add, or None.
        dtype: Type of the result.
        averages: Average the result over 2x2 pixels.
    """

    is_windowed = True

    def __init__(self, x: Map, conv: nn.Conv2d, bias: Tensor | None, dtype: torch.dtype, averages: bool) -> None:
        self._conv, self._bias, self._averages = conv, bias, averages
        self._kernel, self._stride, self._dilation = conv.kernel_size, conv.stride, conv.dilation
        assert not isinstance(conv.padding, str)
        self._padding = conv.padding
        if averages:
            (rows, columns), self._stride = conv.kernel_size, (2, 2)
            self._kernel = (rows + 1, columns + 1)
        sizes = zip((x.height, x.width), self._kernel, self._stride, self._dilation, self._padding, strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in sizes)
        super().__init__((conv.out_channels, height, width), dtype, (x,))
        self.products = conv.in_channels // conv.groups * self._kernel[0] * self._kernel[1]

    def _window(self, region: Region) -> Window:
        starts, counts = (region.top, region.left), (region.height, region.width)
        sizes = zip(starts, counts, self._kernel, self._stride, self._dilation, self._padding, strict=True)
        (top, height), (left, width) = (
            (start * s - p, (count - 1) * s + (k - 1) * d + 1) for start, count, k, s, d, p in sizes
        )
        return window_of(self.inputs[0], top, left, height, width, "zero")

    def needs(self, region: Region) -> tuple[Region, ...]:
        return (self._window(region).region,)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        x = self._window(region).fill(tiles[0], "zero")
        conv = self._conv
        if self._averages:
            return F.conv2d(x, averaged(conv.weight), self._bias, self._stride)
        if self._padding == (0, 0):
            return convolve(conv, x, self._bias)
        return F.conv2d(x, conv.weight, self._bias, conv.stride, 0, conv.dilation, conv.groups)

    def working_bytes(self, region: Region, inputs: int) -> int:
        pads = inputs if self.inputs[0].whole != self._window(region).region else 0
        return inputs + pads + self.bytes_of(region) + workspace(self, region)


def workspace(x: Map, region: Region) -> int:
    """Return the bytes that torch takes for a convolution on a CPU besides input and result.

    float64 multiplies a matrix with all values that each result reads. oneDNN reads maps in channels_last in place, but
    copies those of few channels.
    """
    if x.dtype == torch.float64:
        return x.products * region.height * region.width * x.dtype.itemsize
    return x.bytes_of(region)


class Upsampled(Map):
    """Nearest-neighbor or bilinear upsampling by 2."""

    is_windowed = True

    def __init__(self, x: Map, mode: str) -> None:
        super().__init__((x.channels, 2 * x.height, 2 * x.width), x.dtype, (x,))
        self._mode = mode

    def needs(self, region: Region) -> tuple[Region, ...]:
        margin = 0 if self._mode == "nearest" else 1
        return (halved(self.inputs[0], region, margin),)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        corners = {"align_corners": False} if self._mode == "bilinear" else {}
        y = F.interpolate(tiles[0], scale_factor=2, mode=self._mode, **corners)
        return _doubled_part(y, region, self.needs(region)[0])


def halved(x: Map, region: Region, margin: int) -> Region:
    """Return the region of a map that a region of the map upsampled by 2 consists of, with a margin around it.

    Args:
        x: The map.
        region: Region of the upsampled map.
        margin: Pixels of the upsampled map to add on each side, where there are any.
    """
    top, left = (max(0, start - margin) // 2 for start in (region.top, region.left))
    bottom = min(x.height, -(-(region.bottom + margin) // 2))
    right = min(x.width, -(-(region.right + margin) // 2))
    return Region(top, left, bottom - top, right - left)


def _doubled_part(y: Tensor, region: Region, low: Region) -> Tensor:
    """Return a region from the upsampled tile of the region `low`."""
    return cropped(y, region.top - 2 * low.top, region.left - 2 * low.left, region.height, region.width)


class UpsampledConvolved(Map):
    """Nearest-neighbor upsampling by 2, padding by k // 2 and a k x k convolution, computed on the map itself.

    Args:
        x: The map.
        conv: The convolution.
        bias: Bias to add, or None.
        dtype: Type of the result.
        mode: Fill mode of the padding.
    """

    is_windowed = True

    def __init__(self, x: Map, conv: nn.Conv2d, bias: Tensor | None, dtype: torch.dtype, mode: PadMode) -> None:
        super().__init__((conv.out_channels, 2 * x.height, 2 * x.width), dtype, (x,))
        self._conv, self._bias, self._mode = conv, bias, mode
        self._pad = conv.kernel_size[0] // 2
        self.products = conv.in_channels * (self._pad + 1) ** 2

    def needs(self, region: Region) -> tuple[Region, ...]:
        # The op pads the tile at all its sides. What that changes inside of the map is cropped.
        return (halved(self.inputs[0], region, self._pad),)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        y = functional.upsample_conv2d(tiles[0], self._conv.weight, self._bias, self._mode)
        return _doubled_part(y, region, self.needs(region)[0])

    def working_bytes(self, region: Region, inputs: int) -> int:
        low = self.needs(region)[0]
        whole = Region(0, 0, 2 * low.height, 2 * low.width)
        extra = self.products * low.height * low.width * self.dtype.itemsize if self.dtype == torch.float64 else 0
        return 2 * inputs + 3 * self.bytes_of(whole) + extra


class TransposedConvolved(Map):
    """The transposed convolution of a map.

    Args:
        x: The map.
        conv: The transposed convolution.
        bias: Bias to add, or None.
        dtype: Type of the result.
    """

    is_windowed = True

    def __init__(self, x: Map, conv: nn.ConvTranspose2d, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._conv, self._bias = conv, bias
        assert not isinstance(conv.padding, str)
        self._padding, self._stride = conv.padding, conv.stride
        self._reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        extra = zip((x.height, x.width), self._stride, self._padding, self._reach, conv.output_padding, strict=True)
        height, width = ((n - 1) * s - 2 * p + r + o + 1 for n, s, p, r, o in extra)
        super().__init__((conv.out_channels, height, width), dtype, (x,))
        kernel = conv.kernel_size[0] * conv.kernel_size[1]
        self.products = max(1, conv.in_channels // conv.groups * kernel // (self._stride[0] * self._stride[1]))

    def needs(self, region: Region) -> tuple[Region, ...]:
        x, ranges = self.inputs[0], []
        axes = ((region.top, region.bottom, x.height), (region.left, region.right, x.width))
        for (start, stop, size), s, p, reach in zip(axes, self._stride, self._padding, self._reach, strict=True):
            first = min(size - 1, max(0, -(-(start + p - reach) // s)))
            last = max(first, min(size - 1, (stop - 1 + p) // s))
            ranges.append((first, last - first + 1))
        (top, height), (left, width) = ranges
        return (Region(top, left, height, width),)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        conv, low = self._conv, self.needs(region)[0]
        y = F.conv_transpose2d(
            tiles[0], conv.weight, self._bias, conv.stride, 0, conv.output_padding, conv.groups, conv.dilation
        )
        top = region.top + self._padding[0] - low.top * self._stride[0]
        left = region.left + self._padding[1] - low.left * self._stride[1]
        return cropped(y, top, left, region.height, region.width)

    def working_bytes(self, region: Region, inputs: int) -> int:
        kernel = self._conv.kernel_size[0] * self._conv.kernel_size[1]
        # torch multiplies a matrix of all products of the map with the kernel, in float64 and where oneDNN does not.
        columns = inputs // self.inputs[0].channels * kernel * self.channels if self.dtype == torch.float64 else 0
        return 2 * inputs + 2 * self.bytes_of(region) + columns


class AveragePooled(Map):
    """The mean over 2x2 pixels of a map. A last odd row or column is left out."""

    is_windowed = True

    def __init__(self, x: Map) -> None:
        super().__init__((x.channels, x.height // 2, x.width // 2), x.dtype, (x,))

    def needs(self, region: Region) -> tuple[Region, ...]:
        return (Region(*(2 * value for value in region)),)

    def compute(self, region: Region, tiles: Sequence[Tensor]) -> Tensor:
        return F.avg_pool2d(tiles[0], 2)
