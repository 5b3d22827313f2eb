"""Launch table of the Triton kernels of `fused_norm`. Importing this module does not need Triton.

A thread holds 32 values of a map, and in backward 32 values of its gradient too. All loads of a tile are then in flight
at the same time, and the work per thread (addresses, sums) is shared by 32 values. Programs are small, so several of
them fit on a multiprocessor. Kernels whose tiles hold whole planes read x only once. They are chosen if a plane,
rounded up to powers of two, fits in a program, and if there are enough planes to occupy half of the GPU or the map is
so small that this does not matter.
"""

from dataclasses import dataclass

from fastmunit.kernels.launch import Tile, power_of_two, warps_for

# Values of a map per thread, and maximum number of warps per program.
_VALUES = 32
_WARPS = 16
# Size of tiles that do not hold whole planes, and tile size whose run time equals the overhead of one more launch.
_TILE = 4096
_LITTLE = 4096
# Bytes that the channels of a channels_last tile fill: at least a sector of memory, at best a cache line.
_SECTOR = 32
_LINE = 128


@dataclass(frozen=True)
class Launch:
    """The launch of a kernel on maps (N, C, H, W).

    Attributes:
        tile: Part of the map that each program holds.
        programs: Number of programs.
        whole: True if the tile holds whole planes.
        exact: True if the tiles cover the map exactly, without masked elements.
    """

    tile: Tile
    programs: int
    whole: bool
    exact: bool

    def columns_at_a_time(self, columns: int) -> int:
        """Return how many of the `columns` of a pad a program holds at a time, a power of two: all in NCHW, else one.

        In channels_last, one column already has values for all threads, and more would take too many registers.
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
    """Return the launch whose tiles are whole planes, or None if it would be slower."""
    _, channels, height, width = shape
    rows, columns = power_of_two(height), power_of_two(width)
    tile_channels = min(_SECTOR // itemsize, power_of_two(channels)) if channels_last else 1
    values = tile_channels * rows * columns
    if values > 32 * _WARPS * _VALUES or rows * columns > 2 * height * width:
        return None
    launch = _launch(Tile(tile_channels, rows, columns, warps_for(values, _VALUES)), shape, whole=True)
    return launch if values <= _LITTLE or 2 * launch.programs >= multiprocessors else None


def _parts(shape: tuple[int, int, int, int], itemsize: int, channels_last: bool) -> Launch:
    """Return the launch whose tiles have about `_TILE` values, extended along neighboring addresses first."""
    _, channels, height, width = shape
    tile_channels = min(_LINE // itemsize, power_of_two(channels)) if channels_last else 1
    columns = min(power_of_two(width), 16 if channels_last else 1024)
    rows = min(power_of_two(height), max(1, _TILE // (tile_channels * columns)))
    tile = Tile(tile_channels, rows, columns, warps_for(tile_channels * rows * columns, _VALUES))
    return _launch(tile, shape, whole=False)


def choose_launch(
    shape: tuple[int, int, int, int], itemsize: int, channels_last: bool, statistics: str, multiprocessors: int
) -> Launch:
    """Return the launch of the forward kernel, or of the backward kernels.

    Args:
        shape: (N, C, H, W) of the result before padding.
        itemsize: Bytes per value of x.
        channels_last: True for channels_last, False for NCHW.
        statistics: "instance", "layer" or "none".
        multiprocessors: Number of multiprocessors of the GPU.
    """
    if statistics == "instance":
        launch = _whole_planes(shape, itemsize, channels_last, multiprocessors)
        if launch is not None:
            return launch
    return _parts(shape, itemsize, channels_last)
