"""Earlier kernels of fused_norm and their times on an H100. bench/gpu_model.py is tested against these measurements.

The kernels are those of commit e8f9e6b. Instructions are counted by hand in the loops of the machine code of nvcc 13.0
for compute capability 9.0. Launch shapes are those of the launch table for 132 multiprocessors with 227 KiB of shared
memory each and clusters of up to 16. By their registers, one block of 512 threads fits on a multiprocessor.
"""

from dataclasses import dataclass

from bench.gpu_model import FITTED, Launch, Phase

# NCHW, per 16-byte vector: four loads take 21 instructions, with 64 bytes in flight; the passes for mean and squares
# take 9 and 17. The loop that writes takes 129 if all vectors of a warp are inside a row, else 290 more.
_LOAD, _MOMENTS, _WRITE, _WRITE_AT_EDGE = 21 / 4, 9 + 17, 129, 290
# The two loops of backward, in which every warp has a vector at an edge.
_BACKWARD_SUMS, _BACKWARD_APPLY = 770, 850
# channels_last, per 16-byte vector: the load, one at a time; the two passes; the loop that writes.
_LOAD_PIXELS, _MOMENTS_PIXELS, _WRITE_PIXELS = 31, 70 + 83, 125
# Microseconds: one thread combined the moments of a cluster's blocks in 700 cycles per block; channels_last had three
# sums over a block with nine barriers.
_UNION, _CHANNEL_SUMS = 0.4, 1.5


@dataclass(frozen=True)
class Measured:
    """A measured call of instance norm + relu + pad 1, as in docs/project/benchmarks.md.

    Attributes:
        shape: Channels and side of the map, batch 1.
        layout: "nchw" in float32 or "channels_last" in bfloat16.
        backward: True if the backward pass ran too.
        us: Time of the earlier kernels in microseconds.
        compiled_over_ours: Time of torch.compile divided by it. The compiled function also returned the map before
            padding, one more write than ours.
        ours_over_copy: Time divided by that of a copy of the same bytes.
        launches: Launches of the earlier kernels.
    """

    shape: tuple[int, int]
    layout: str
    backward: bool
    us: float
    compiled_over_ours: float
    ours_over_copy: float
    launches: tuple[Launch, ...]

    @property
    def compiled_us(self) -> float:
        """The time of torch.compile in microseconds."""
        return self.us * self.compiled_over_ours

    @property
    def copy_us(self) -> float:
        """The time of the copy in microseconds."""
        return self.us / self.ours_over_copy


def _bytes(shape: tuple[int, int], value_bytes: int, pad: int = 0) -> int:
    channels, side = shape
    return channels * (side + 2 * pad) ** 2 * value_bytes


def _grid(blocks: int, threads: int, phases: tuple[Phase, ...]) -> Launch:
    return Launch(blocks, threads, 1 if threads == 512 else 3, phases)


def _forward(shape: tuple[int, int], blocks: int, threads: int, cluster: int, at_edge: float) -> Launch:
    """Return an NCHW launch; in a share `at_edge` of a warp's iterations, a vector is at the edge of a row."""
    x, padded = _bytes(shape, 4), _bytes(shape, 4, 1)
    vectors = x / 16 / blocks / threads
    wait = 2 * FITTED.block_sum_us + FITTED.scalars_us + _UNION * cluster
    write = (_WRITE + _WRITE_AT_EDGE * at_edge) * vectors * padded / x
    phases = (
        Phase(_LOAD * vectors, x, round_trips=max(1, round(vectors / 4))),
        Phase(_MOMENTS * vectors, wait_us=wait),
        Phase(write, padded),
    )
    return _grid(blocks, threads, phases)


def _forward_pixels(shape: tuple[int, int], blocks: int, threads: int, cluster: int) -> Launch:
    x, padded = _bytes(shape, 2), _bytes(shape, 2, 1)
    vectors = x / 16 / blocks / threads
    phases = (
        Phase(_LOAD_PIXELS * vectors, x, round_trips=round(vectors)),
        Phase(_MOMENTS_PIXELS * vectors, wait_us=_CHANNEL_SUMS + FITTED.scalars_us + _UNION * cluster),
        Phase(_WRITE_PIXELS * vectors * padded / x, padded),
    )
    return _grid(blocks, threads, phases)


def _backward(shape: tuple[int, int], blocks: int, cluster: int) -> Launch:
    x, padded = _bytes(shape, 4), _bytes(shape, 4, 1)
    vectors = x / 16 / blocks / 512
    phases = (
        Phase(2 * _LOAD * vectors, x + padded, round_trips=round(2 * vectors / 4)),
        Phase(_BACKWARD_SUMS * vectors, wait_us=2 * FITTED.block_sum_us + FITTED.scalars_us + _UNION * cluster),
        Phase(_BACKWARD_APPLY * vectors, x),
    )
    return _grid(blocks, 512, phases)


_LARGE, _MIDDLE, _SMALL = (64, 256), (128, 128), (256, 64)
_LARGE_FORWARD = _forward(_LARGE, blocks=256, threads=512, cluster=4, at_edge=0.51)
_MIDDLE_FORWARD = _forward(_MIDDLE, blocks=128, threads=512, cluster=1, at_edge=1.0)
_SMALL_FORWARD = _forward(_SMALL, blocks=256, threads=256, cluster=1, at_edge=1.0)
_LARGE_BACKWARD = _backward(_LARGE, blocks=512, cluster=8)
_MIDDLE_BACKWARD = _backward(_MIDDLE, blocks=256, cluster=2)

MEASURED = (
    Measured(_LARGE, "nchw", False, 55, 0.63, 2.82, (_LARGE_FORWARD,)),
    Measured(_MIDDLE, "nchw", False, 23, 1.02, 1.85, (_MIDDLE_FORWARD,)),
    Measured(_SMALL, "nchw", False, 15, 0.73, 1.75, (_SMALL_FORWARD,)),
    Measured(_LARGE, "channels_last", False, 35, 0.81, 2.93, (_forward_pixels(_LARGE, 64, 512, cluster=16),)),
    Measured(_MIDDLE, "channels_last", False, 23, 0.95, 2.67, (_forward_pixels(_MIDDLE, 64, 512, cluster=8),)),
    Measured(_SMALL, "channels_last", False, 18, 0.85, 2.61, (_forward_pixels(_SMALL, 128, 256, cluster=8),)),
    Measured(_LARGE, "nchw", True, 180, 0.48, 4.43, (_LARGE_FORWARD, _LARGE_BACKWARD)),
    Measured(_MIDDLE, "nchw", True, 74, 0.69, 3.21, (_MIDDLE_FORWARD, _MIDDLE_BACKWARD)),
)
"""The eight measured rows of fused_norm."""
