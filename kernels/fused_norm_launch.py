"""Launch table of the Triton kernels of `fused_norm`; importing it needs no Triton.

Kernels that hold whole planes in their tiles read x once. They are chosen where a plane, rounded up to powers of two,
fits a program and where there are planes enough to occupy half of the GPU, or too little to do for this to matter.
"""

from dataclasses import dataclass

from fastmunit.kernels.launch import Tile, power_of_two, warps_for

# Values that a program can hold of whole planes, and values of the tiles of larger ones.
_WHOLE = 16384
_FORWARD_TILE = 4096
_BACKWARD_TILE = 2048
# Values at which one program works as long as launching another kernel takes.
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
    """

    tile: Tile
    programs: int
    whole: bool

    @staticmethod
    def pad_length(pad: int) -> int:
        """The 2 pad rows or columns of a pad as a power of two."""
        return max(1, power_of_two(2 * pad))


def _launch(tile: Tile, shape: tuple[int, int, int, int], whole: bool) -> Launch:
    samples, *sizes = shape
    channel_blocks, row_blocks, column_blocks = tile.blocks(*sizes)
    return Launch(tile, samples * channel_blocks * row_blocks * column_blocks, whole)


def _whole_planes(
    shape: tuple[int, int, int, int], itemsize: int, channels_last: bool, multiprocessors: int, backward: bool
) -> Launch | None:
    """The launch whose tiles are whole planes, or None where that is of no use."""
    _, channels, height, width = shape
    rows, columns = power_of_two(height), power_of_two(width)
    tile_channels = min(_SECTOR // itemsize, power_of_two(channels)) if channels_last else 1
    values = tile_channels * rows * columns
    if values > _WHOLE or rows * columns > 2 * height * width:
        return None
    # At most 8 warps: more would have too few registers each.
    warps = min(8, warps_for(values, 32 if backward else 16))
    launch = _launch(Tile(tile_channels, rows, columns, warps), shape, whole=True)
    return launch if values <= _LITTLE or 2 * launch.programs >= multiprocessors else None


def _parts(shape: tuple[int, int, int, int], itemsize: int, channels_last: bool, values: int) -> Launch:
    """The launch whose tiles have about so many values, along neighbouring addresses first."""
    _, channels, height, width = shape
    tile_channels = min(_LINE // itemsize, power_of_two(channels)) if channels_last else 1
    columns = min(power_of_two(width), 16 if channels_last else 1024)
    rows = min(power_of_two(height), max(1, values // (tile_channels * columns)))
    tile = Tile(tile_channels, rows, columns, warps_for(tile_channels * rows * columns, 16))
    return _launch(tile, shape, whole=False)


def forward_launch(
    shape: tuple[int, int, int, int], itemsize: int, channels_last: bool, statistics: str, multiprocessors: int
) -> Launch:
    """The launch of the forward kernel.

    Args:
        shape: (N, C, H, W) before the pad.
        itemsize: Bytes of a value of x.
        channels_last: The layout.
        statistics: "instance", "layer" or "none".
        multiprocessors: Of the GPU.
    """
    if statistics == "instance":
        launch = _whole_planes(shape, itemsize, channels_last, multiprocessors, backward=False)
        if launch is not None:
            return launch
    return _parts(shape, itemsize, channels_last, _FORWARD_TILE)


def backward_launch(
    shape: tuple[int, int, int, int],
    itemsize: int,
    channels_last: bool,
    statistics: str,
    multiprocessors: int,
    pad_targets: int,
) -> Launch:
    """The launch of the backward kernels; arguments as of `forward_launch`.

    `pad_targets` is the number of rows of the padded map that may show one row. A whole plane lies at every edge, where
    all of them are looked at; of more than three that would be slower than reading twice.
    """
    if statistics == "instance" and pad_targets <= 3:
        launch = _whole_planes(shape, itemsize, channels_last, multiprocessors, backward=True)
        if launch is not None:
            return launch
    return _parts(shape, itemsize, channels_last, _BACKWARD_TILE)
