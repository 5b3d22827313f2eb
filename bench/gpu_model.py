"""A model of the time of CUDA kernels, based on bytes, issue slots, round trips to memory and waiting.

A kernel is a sequence of phases, such as loading, moments and writing, which a block runs one after another. A phase
takes the longest of

- bytes / bandwidth,
- executed instructions of the multiprocessor with the most blocks / its schedulers / instructions per cycle,
- round trips to memory: bytes that a block loads / its bytes in flight, for each wave of resident blocks,

plus, for each wave, the time that its blocks wait at barriers. `FITTED` has the parameters, which were fitted once to
measurements on an H100.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.cuda.fused_norm_requests import Device

WARP = 32
SCHEDULERS = 4  # per multiprocessor; each issues up to one warp instruction per cycle


@dataclass(frozen=True)
class Fitted:
    """The parameters of the model that are in no specification.

    Attributes:
        call_us: Microseconds of a measured call that moves no bytes: events, graph and launch. Fitted to the copies in
            docs/project/benchmarks.md, whose times all fit the line call_us + bytes / bandwidth.
        bandwidth_share: The share of the peak memory bandwidth that these copies reach: 2.3 of 3.35 TB/s.
        instructions_per_cycle: Instructions per cycle of a busy scheduler. Fitted to the eight measured calls.
        round_trip_us: Time from a load to its value if the level-two cache has to evict. Fitted to the same calls.
        cache_bandwidth_ratio: Bandwidth of the level-two cache relative to the memory's peak: 5 to 3.35 TB/s. A guess.
        cached_round_trip_us: The same for a value in the cache: 270 cycles, twice that under load. A guess.
        launch_us: Time of each further launch of a call: the end of one kernel and the start of the next. A guess.
        dependent_launch_us: The same for a dependent launch, which is already waiting. A guess.
        block_sum_us: Time of a sum over a block with its barriers: 300 cycles, counted.
        scalars_us: Time of mean, scale and shift in one thread in float64: about 500 cycles, counted.
        cluster_us: Time of a cluster barrier and the following reads of other blocks' moments. A guess.
    """

    call_us: float = 4.8
    bandwidth_share: float = 2.3 / 3.35
    instructions_per_cycle: float = 0.7
    round_trip_us: float = 0.85
    cache_bandwidth_ratio: float = 5 / 3.35
    cached_round_trip_us: float = 0.3
    launch_us: float = 1.25
    dependent_launch_us: float = 0.6
    block_sum_us: float = 0.17
    scalars_us: float = 0.3
    cluster_us: float = 0.6


FITTED = Fitted()


@dataclass(frozen=True)
class Gpu:
    """The specification of a GPU.

    Attributes:
        arch: Compute capability, such as 90 for 9.0.
        device: The GPU as the launch table sees it.
        peak_terabytes_per_second: Peak memory bandwidth.
        gigahertz: Clock of the multiprocessors.
        cache_bytes: Size of the level-two cache.
    """

    arch: int
    device: Device
    peak_terabytes_per_second: float
    gigahertz: float
    cache_bytes: int

    def memory_us(self, count: float, *, cached: bool = False) -> float:
        """Return the microseconds to move `count` bytes."""
        share = FITTED.cache_bandwidth_ratio if cached else FITTED.bandwidth_share
        return count / (self.peak_terabytes_per_second * share) * 1e-6

    def issue_us(self, instructions: float) -> float:
        """Return the microseconds in which a multiprocessor issues warp instructions."""
        return instructions / (SCHEDULERS * FITTED.instructions_per_cycle * self.gigahertz) * 1e-3

    def copy_us(self, count: float) -> float:
        """Return the microseconds of a call of a copy that reads and writes `count` bytes in total."""
        return FITTED.call_us + self.memory_us(count)


GPUS = {
    "A100": Gpu(80, Device(108, 163 * 1024, 1), 1.94, 1.41, 40 * 2**20),
    "H100": Gpu(90, Device(132, 227 * 1024, 16), 3.35, 1.755, 50 * 2**20),
    "H200": Gpu(90, Device(132, 227 * 1024, 16), 4.8, 1.755, 50 * 2**20),
    "RTX 4090": Gpu(89, Device(128, 99 * 1024, 1), 1.008, 2.52, 72 * 2**20),
}


@dataclass(frozen=True)
class Phase:
    """A part of a kernel.

    Attributes:
        instructions: Instructions per thread.
        bytes_moved: Bytes that all blocks read and write.
        cached: True if these bytes are in the level-two cache.
        round_trips: Number of dependent loads per thread.
        wait_us: Time waiting at barriers and for single threads.
    """

    instructions: float = 0
    bytes_moved: float = 0
    cached: bool = False
    round_trips: int = 0
    wait_us: float = 0


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel.

    Attributes:
        blocks: Number of blocks in the grid.
        threads: Number of threads per block.
        resident: Number of blocks that fit on a multiprocessor.
        phases: Phases of a block, in order.
        dependent: True if it is launched before the previous kernel ends.
    """

    blocks: int
    threads: int
    resident: int
    phases: Sequence[Phase]
    dependent: bool = False

    def parts(self, gpu: Gpu) -> Counter[str]:
        """Return the microseconds by cause, without the launch."""
        multiprocessors = gpu.device.multiprocessors
        waves = math.ceil(self.blocks / (multiprocessors * self.resident))
        warps = math.ceil(self.blocks / multiprocessors) * math.ceil(self.threads / WARP)
        parts: Counter[str] = Counter()
        for phase in self.phases:
            round_trip = FITTED.cached_round_trip_us if phase.cached else FITTED.round_trip_us
            times = {
                "bytes": gpu.memory_us(phase.bytes_moved, cached=phase.cached),
                "issue slots": gpu.issue_us(phase.instructions * warps),
                "round trips": waves * phase.round_trips * round_trip,
            }
            longest = max(times, key=lambda name: times[name])
            parts.update({longest: times[longest], "barriers": waves * phase.wait_us})
        return parts


def call_parts(launches: Sequence[Launch], gpu: Gpu) -> Counter[str]:
    """Return the microseconds of a measured call of several kernels, by cause."""
    starts = [FITTED.dependent_launch_us if launch.dependent else FITTED.launch_us for launch in launches[1:]]
    return sum((launch.parts(gpu) for launch in launches), Counter({"launches": FITTED.call_us + sum(starts)}))


def call_us(launches: Sequence[Launch], gpu: Gpu) -> float:
    """Return the microseconds of a measured call of several kernels."""
    return sum(call_parts(launches, gpu).values())
