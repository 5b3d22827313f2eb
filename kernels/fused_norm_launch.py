"""Launch table of the Triton kernels of `fused_norm`; importing it needs no Triton.

A thread holds 32 values of a map, in backward as many of its gradient: all loads of a tile are in flight at a time, and
what every thread computes for itself (addresses, sums) is shared by 32 values. Programs are small, so that several of
them have room on a multiprocessor. Kernels that hold whole planes in their tiles read x once. They are chosen where a
plane, rounded up to powers of two, fits a program and where there are planes enough to occupy half of the GPU, or too
little to do for this to matter.
"""

from dataclasses import dataclass

from fastmunit.kernels.launch import Tile, power_of_two, warps_for

# Values of a map that a thread holds, and warps of a program at most.
_VALUES = 32
_WARPS = 16
# Values of the tiles of planes that are not whole, and at which one program works as long as launching a kernel takes.
_TILE = 4096
_LITTLE = 4096
# Channels of a channels_last tile fill these bytes at least, a sector of memory, and these at best.
_SECTOR = 32
_LINE = 128


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched on maps (N, C, H, W).

    Attributes:
        tile: What each program holds.
        programs: How many there are.
        whole: Whether the tile holds whole planes.
        exact: Whether tiles cover the map without a rest.
    """

    tile: Tile
    programs: int
    whole: bool
    exact: bool

    def columns_at_a_time(self, columns: int) -> int:
        """How many of so many columns beside a map a program holds, a power of two: all in NCHW, else one.

        A column of a channels_last tile has values for all threads, and registers are few.
        """
        return 1 if self.tile.channels > 1 else max(1, power_of_two(columns))


def _launch(tile: Tile, shape: tuple[int, int, int, int], whole: bool) -> Launch:
    samples, channels, height, width = shape
    channel_blocks, row_blocks, column_blocks = tile.blocks(channels, height, width)
    exact = channels % tile.channels == 0 and height % tile.rows == 0 and width % tile.columns == 0
    return Launch(tile, samples * channel_blocks * row_blocks * column_blocks, whole, exact)


def _whole_planes(
    shape: tuple[int, int, int, int], itemsize: int, channels_last: bool, multiprocessors: int
) -> Launch | None:
    """The launch whose tiles are whole planes, or None where that is of no use."""
    _, channels, height, width = shape
    rows, columns = power_of_two(height), power_of_two(width)
    tile_channels = min(_SECTOR // itemsize, power_of_two(channels)) if channels_last else 1
    values = tile_channels * rows * columns
    if values > 32 * _WARPS * _VALUES or rows * columns > 2 * height * width:
        return None
    launch = _launch(Tile(tile_channels, rows, columns, warps_for(values, _VALUES)), shape, whole=True)
    return launch if values <= _LITTLE or 2 * launch.programs >= multiprocessors else None


def _parts(shape: tuple[int, int, int, int], itemsize: int, channels_last: bool) -> Launch:
    """The launch whose tiles have about `_TILE` values, along neighboring addresses first."""
    _, channels, height, width = shape
    tile_channels = min(_LINE // itemsize, power_of_two(channels)) if channels_last else 1
    columns = min(power_of_two(width), 16 if channels_last else 1024)
    rows = min(power_of_two(height), max(1, _TILE // (tile_channels * columns)))
    tile = Tile(tile_channels, rows, columns, warps_for(tile_channels * rows * columns, _VALUES))
    return _launch(tile, shape, whole=False)


def choose_launch(
    shape: tuple[int, int, int, int], itemsize: int, channels_last: bool, statistics: str, multiprocessors: int
) -> Launch:
    """The launch of the forward kernel, or of the backward kernels.

    Args:
        shape: (N, C, H, W) before the pad.
        itemsize: Bytes of a value of x.
        channels_last: The layout.
        statistics: "instance", "layer" or "none".
        multiprocessors: Of the GPU.
    """
    if statistics == "instance":
        launch = _whole_planes(shape, itemsize, channels_last, multiprocessors)
        if launch is not None:
            return launch
    return _parts(shape, itemsize, channels_last)
